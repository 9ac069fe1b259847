//! The gateway: its name, its port, its TLS, its challenge, its clock.

use std::time::{Duration, Instant};

use http::{StatusCode, header};
use lumbung_openapi::provider::{CHALLENGE_PATH, Challenge};
use tokio::net::{TcpStream, lookup_host};

use super::Finding;
use crate::gateway::{Gateway, causes};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Looks at the gateway, step by step up to the first that fails.
pub async fn examine(gateway: Option<&anyhow::Result<Gateway>>) -> Vec<Finding> {
    let gateway = match gateway {
        None => return vec![Finding::warning("gateway", "none is named", "name one: --gateway https://host")],
        Some(Err(error)) => {
            return vec![Finding::problem("gateway", format!("{error:#}"), "correct --gateway or --gateway-ca")];
        }
        Some(Ok(gateway)) => gateway,
    };
    let mut findings = Vec::new();
    if !uses_proxy(gateway) {
        let name = dns(gateway).await;
        let is_known = name.advice.is_empty();
        findings.push(name);
        if !is_known {
            return findings;
        }
    }
    findings.extend(challenge(gateway).await);
    findings
}

/// A proxy looks names up itself: then only what comes back through it says anything.
fn uses_proxy(gateway: &Gateway) -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !gateway.address.is_loopback() && ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].into_iter().any(is_set)
}

async fn dns(gateway: &Gateway) -> Finding {
    let (host, port) = gateway.address.host_and_port();
    let begun = Instant::now();
    let addresses: Vec<_> = match tokio::time::timeout(TIMEOUT, lookup_host((host.as_str(), port))).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            return Finding::problem(
                "dns",
                format!("'{host}' is not known: {error}"),
                "check the name, and this machine's DNS",
            );
        }
        Err(_) => return Finding::problem("dns", format!("no answer about '{host}'"), "check this machine's DNS"),
    };
    let Some(address) = addresses.first() else {
        return Finding::problem("dns", format!("'{host}' has no address"), "check the name");
    };
    match tokio::time::timeout(TIMEOUT, TcpStream::connect(addresses.as_slice())).await {
        Ok(Ok(_)) => {
            Finding::ok("tcp", format!("{host} is {}, connected in {} ms", address.ip(), begun.elapsed().as_millis()))
        }
        Ok(Err(error)) => Finding::problem(
            "tcp",
            format!("{address} does not accept connections: {error}"),
            "check host and port, and that a firewall lets this machine out",
        ),
        Err(_) => Finding::problem(
            "tcp",
            format!("{address} does not answer"),
            "a firewall may be in the way: this machine must be let out",
        ),
    }
}

async fn challenge(gateway: &Gateway) -> Vec<Finding> {
    let request = gateway.client.get(gateway.address.endpoint(CHALLENGE_PATH)).timeout(TIMEOUT);
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => {
            let why = causes(&error);
            let advice = match why.to_lowercase() {
                text if text.contains("certificate") || text.contains("unknownissuer") => {
                    "the certificate is not trusted: install ca-certificates, or name the authority by --gateway-ca"
                }
                text if text.contains("tls") || text.contains("handshake") || text.contains("corrupt message") => {
                    "this port does not speak TLS: check the port, and https:// against http://"
                }
                _ => "check that a gateway listens there",
            };
            return vec![Finding::problem("gateway", why, advice)];
        }
    };
    let (status, headers) = (response.status(), response.headers().clone());
    let mut findings = vec![match (status, response.json::<Challenge>().await) {
        (StatusCode::OK, Ok(_)) => {
            Finding::ok("gateway", format!("{} is ready for providers", gateway.address.origin()))
        }
        (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, _) => {
            Finding::warning("gateway", format!("it answers {status}"), "it has no room now; serve keeps asking")
        }
        _ => Finding::problem(
            "gateway",
            format!("{status}, and no challenge"),
            "this is no lumbung gateway: check the address",
        ),
    }];
    let date = headers.get(header::DATE).and_then(|date| date.to_str().ok());
    if let Some(ahead_secs) = date.and_then(|date| gateway.clock.learn(date)) {
        findings.push(match ahead_secs.unsigned_abs() {
            0..=5 => Finding::ok("clock", "agrees with the gateway's"),
            apart => Finding::warning(
                "clock",
                format!("{apart} s {} the gateway's", if ahead_secs > 0 { "behind" } else { "ahead of" }),
                "set this machine's clock (timedatectl set-ntp true); until then serve goes by the gateway's",
            ),
        });
    }
    findings
}
