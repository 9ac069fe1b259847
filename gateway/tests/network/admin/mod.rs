//! The operator's API: who comes in, what each may do, and that a repeated call acts once.

mod acts;
mod crash;
mod erasing;
mod fuzz;
mod keys;
mod payouts;
mod tokens;
mod usage;
mod webhooks;

use lumbung_gateway::admin::token;
use lumbung_gateway::domain::role::Role;
use reqwest::Method;
use serde_json::Value;

use crate::support::Network;

/// An operator with a token.
#[derive(Clone)]
pub struct Operator {
    http: reqwest::Client,
    base: String,
    pub token: String,
}

/// An answer: status, body, and whether it is that of an earlier call.
pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub replayed: bool,
}

impl Operator {
    /// One whose token the gateway's own key has signed.
    pub async fn new(network: &Network, role: Role) -> Self {
        let keys = network.store.signing_keys().await.expect("keys");
        Self::with_token(network, token::mint(&keys, "olga", role, 600, now()))
    }

    pub fn with_token(network: &Network, token: String) -> Self {
        Self { http: reqwest::Client::new(), base: network.base.clone(), token }
    }

    pub async fn call(&self, method: Method, path: &str, key: Option<&str>, body: Option<Value>) -> Answer {
        let mut request = self.http.request(method, format!("{}/admin/v1{path}", self.base)).bearer_auth(&self.token);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.expect("the gateway answers");
        let replayed = response.headers().contains_key("idempotent-replayed");
        let status = response.status().as_u16();
        let text = response.text().await.expect("a body");
        Answer { status, body: serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: {text}")), replayed }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, None, Some(body)).await
    }
}

impl Answer {
    /// The body, if the status is as expected.
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }
}

pub fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs()
}
