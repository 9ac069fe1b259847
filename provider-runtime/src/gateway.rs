//! The gateway as this provider dials it: its address, its origin, and the one HTTP client for it.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Client, Url, redirect};

use crate::clock::GatewayClock;

/// What this program calls itself.
pub const AGENT: &str = concat!("lumbung-provider/", env!("CARGO_PKG_VERSION"));

/// How to reach a gateway.
#[derive(Clone, Debug)]
pub struct GatewayAddress {
    base: Url,
}

/// A gateway, or several that share their books, and the client that dials them.
pub struct Gateway {
    /// Where it is; where there are several: the first.
    pub address: GatewayAddress,
    /// The others.
    others: Vec<GatewayAddress>,
    /// Speaks HTTP/1.1 only: an upgrade needs it.
    pub client: Client,
    /// Its time.
    pub clock: GatewayClock,
}

impl GatewayAddress {
    /// Reads `https://host[:port][/path]`. Plain `http://` is for loopback, or for whoever insists.
    pub fn parse(text: &str, insecure_http: bool) -> anyhow::Result<Self> {
        let base = Url::parse(text).with_context(|| format!("'{text}' is no URL; expected https://host[:port]"))?;
        if base.host_str().is_none_or(str::is_empty) || !base.username().is_empty() || base.password().is_some() {
            bail!("'{text}' must name a host, and no user or password");
        }
        let address = Self { base };
        match address.base.scheme() {
            "https" => Ok(address),
            "http" if insecure_http || address.is_loopback() => Ok(address),
            "http" => bail!(
                "'{text}' is not encrypted: prompts and answers could be read on the way. Use https://, or --insecure-http if the network between is yours"
            ),
            scheme => bail!("'{scheme}' in '{text}' is not supported; use https://"),
        }
    }

    /// `scheme://host[:port]`, the port only where it is not the scheme's own: what joins are signed for.
    pub fn origin(&self) -> String {
        self.base.origin().ascii_serialization()
    }

    /// The address of one of its endpoints.
    pub fn endpoint(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        url.set_query(None);
        url
    }

    /// Host and port to connect to.
    pub fn host_and_port(&self) -> (String, u16) {
        let host = self.base.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        (host, self.base.port_or_known_default().unwrap_or(443))
    }

    /// Whether the address is this machine itself.
    pub fn is_loopback(&self) -> bool {
        let (host, _) = self.host_and_port();
        host == "localhost" || host.ends_with(".localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }
}

impl Gateway {
    /// A client for the gateway there, and others beside it, trusting the system's authorities and, where given, those of a
    /// PEM file.
    pub fn new(
        address: GatewayAddress,
        others: Vec<GatewayAddress>,
        authorities: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let mut client = Client::builder()
            .http1_only()
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(15))
            .connect_timeout(Duration::from_secs(10))
            // A join is signed for one origin: it must not be led to another.
            .redirect(redirect::Policy::none())
            .user_agent(AGENT);
        if address.is_loopback() && others.iter().all(GatewayAddress::is_loopback) {
            client = client.no_proxy();
        }
        if let Some(path) = authorities {
            let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .with_context(|| format!("{} holds no PEM certificates", path.display()))?;
            client = client.tls_certs_merge(certificates);
        }
        let client = client.build().context("cannot set up TLS")?;
        Ok(Self { address, others, client, clock: GatewayClock::default() })
    }

    /// How many addresses there are.
    pub fn address_count(&self) -> usize {
        1 + self.others.len()
    }

    /// One of the addresses, in turn: whatever the number, there is one.
    pub fn address_in_turn(&self, turn: usize) -> &GatewayAddress {
        match turn % self.address_count() {
            0 => &self.address,
            other => &self.others[other - 1],
        }
    }
}

/// An error with all its causes on one line; reqwest's own text names only the outermost.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_have_no_path_and_no_default_port() {
        for (text, origin) in [
            ("https://api.example", "https://api.example"),
            ("https://API.example:443/", "https://api.example"),
            ("https://api.example:8443/lumbung/", "https://api.example:8443"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://[::1]:80", "http://[::1]"),
            ("http://localhost:1/x", "http://localhost:1"),
        ] {
            assert_eq!(GatewayAddress::parse(text, false).unwrap().origin(), origin);
        }
    }

    #[test]
    fn endpoints_keep_the_bases_path() {
        let address = GatewayAddress::parse("https://example.org/lumbung/", false).unwrap();
        assert_eq!(address.endpoint("/provider/v1/tunnel").as_str(), "https://example.org/lumbung/provider/v1/tunnel");
        assert_eq!(address.host_and_port(), ("example.org".to_owned(), 443));
    }

    #[test]
    fn plain_http_needs_loopback_or_insistence() {
        for text in ["http://gateway:8080", "http://10.0.0.1", "ftp://x", "https://", "nonsense", "https://u:p@x"] {
            assert!(GatewayAddress::parse(text, false).is_err(), "{text}");
        }
        assert!(GatewayAddress::parse("http://gateway:8080", true).is_ok());
        assert!(GatewayAddress::parse("http://127.0.0.2:8080", false).is_ok());
    }
}
