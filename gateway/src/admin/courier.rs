//! Takes webhooks to the operator's endpoints: signed, once each time it is asked, and to public addresses only unless it
//! was told otherwise.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::domain::webhook::{is_public, signature};
use crate::store::DueDelivery;

/// How long an endpoint may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The longest URL, in bytes.
const MAX_URL: usize = 2048;

/// Sends webhooks.
pub struct Courier {
    http: reqwest::Client,
    allow_private: bool,
}

/// Why an endpoint got nothing, or is none.
#[derive(Debug, thiserror::Error)]
pub enum CourierError {
    /// It is no URL that webhooks are sent to.
    #[error("it must be an http or https URL of at most {MAX_URL} bytes, without a name or password")]
    Url,
    /// It is an address within a private network, or this machine.
    #[error("it must be at a public address")]
    Private,
    /// The books hold a secret that is none.
    #[error("the endpoint's secret is malformed")]
    Secret,
    /// No connection, or no answer in time. The URL is left out: it may hold a secret.
    #[error("no answer: {0}")]
    NoAnswer(reqwest::Error),
}

impl Courier {
    /// One that also goes to private addresses, if `allow_private`.
    pub fn new(allow_private: bool) -> Result<Self, reqwest::Error> {
        let builder = reqwest::Client::builder()
            .timeout(ANSWER_WITHIN)
            .redirect(reqwest::redirect::Policy::none())
            // A proxy would look names up itself, out of sight.
            .no_proxy()
            .pool_max_idle_per_host(0)
            .user_agent(concat!("lumbung-gateway/", env!("CARGO_PKG_VERSION")));
        let builder = if allow_private { builder } else { builder.dns_resolver(PublicOnly) };
        Ok(Self { http: builder.build()?, allow_private })
    }

    /// An endpoint's URL as it is kept. What its name stands for is looked at only when it is called.
    pub fn check_url(&self, text: &str) -> Result<String, CourierError> {
        if text.len() > MAX_URL {
            return Err(CourierError::Url);
        }
        let mut url = Url::parse(text).map_err(|_| CourierError::Url)?;
        let plain = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
        if !plain || url.host_str().is_none() {
            return Err(CourierError::Url);
        }
        url.set_fragment(None);
        self.check_address(&url)?;
        Ok(url.into())
    }

    /// Takes a message to its endpoint at `now`, Unix seconds. Returns the status of the answer, whatever it is; what else
    /// the answer says is not read.
    pub async fn deliver(&self, message: &DueDelivery, now: u64) -> Result<u16, CourierError> {
        let url = Url::parse(&message.url).map_err(|_| CourierError::Url)?;
        self.check_address(&url)?;
        let event = message.event.to_string();
        let signature = signature(&message.secret, &event, now, &message.body).ok_or(CourierError::Secret)?;
        let request = self
            .http
            .post(url)
            .header("content-type", "application/json")
            .header("webhook-id", event)
            .header("webhook-timestamp", now.to_string())
            .header("webhook-signature", signature)
            .body(message.body.clone());
        let response = request.send().await.map_err(|error| CourierError::NoAnswer(error.without_url()))?;
        Ok(response.status().as_u16())
    }

    /// A host that is an address is never looked up: it is checked here, names in [`PublicOnly`].
    fn check_address(&self, url: &Url) -> Result<(), CourierError> {
        let host = url.host_str().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match address {
            Ok(address) if !self.allow_private && !is_public(address) => Err(CourierError::Private),
            _ => Ok(()),
        }
    }
}

/// Looks names up, and knows no address that is not public: what it answers is what is connected to.
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err(CourierError::Private.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_plain_url_at_a_public_address() {
        let (strict, lax) = (Courier::new(false).expect("a client"), Courier::new(true).expect("a client"));
        let kept = strict.check_url("https://hooks.example/a?b=1#c").ok();
        assert_eq!(kept.as_deref(), Some("https://hooks.example/a?b=1"));
        for wrong in ["", "hooks", "ftp://hooks.example/", "https://u:p@hooks.example/", "https://u@hooks.example/"] {
            assert!(matches!(lax.check_url(wrong), Err(CourierError::Url)), "{wrong}");
        }
        assert!(matches!(lax.check_url(&format!("https://a.example/{}", "x".repeat(2048))), Err(CourierError::Url)));
        for private in ["http://127.0.0.1:9/", "http://0x7f.1/", "http://[::1]/", "http://169.254.169.254/latest"] {
            assert!(matches!(strict.check_url(private), Err(CourierError::Private)), "{private}");
            assert!(lax.check_url(private).is_ok(), "{private}");
        }
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_not_connected_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let message = DueDelivery {
            webhook: crate::domain::ids::WebhookId::fresh(),
            event: crate::domain::ids::EventId::fresh(),
            tries: 1,
            url: format!("http://localhost:{port}/"),
            secret: crate::domain::webhook::secret_text(&[1; 32]),
            body: "{}".into(),
        };
        let refused = Courier::new(false).expect("a client").deliver(&message, 1).await;
        assert!(matches!(refused, Err(CourierError::NoAnswer(_))), "{refused:?}");
        let nobody = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;
        assert!(nobody.is_err(), "nobody knocked");
    }
}
