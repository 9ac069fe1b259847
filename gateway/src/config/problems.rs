//! What each setting by itself cannot tell: those that do not go together, and addresses that lead nowhere.

use http::Uri;

use super::{BooksConfig, ServeConfig};

const DATABASES: [&str; 3] = ["postgres://", "postgresql://", "sqlite:"];

impl ServeConfig {
    /// What is wrong, each with the name of its setting. Reads no file and asks nobody.
    pub fn problems(&self, books: &BooksConfig) -> Vec<String> {
        let mut problems = Vec::new();
        let mut expect = |is_right: bool, problem: &str| {
            if !is_right {
                problems.push(problem.to_owned());
            }
        };
        let database = books.database_url.as_deref();
        expect(database.is_none_or(is_database), "--database (DATABASE_URL) must begin with postgres:// or sqlite:");
        expect(
            !self.is_shared()
                || books.database_file.is_some()
                || database.is_some_and(|url| !url.starts_with("sqlite:")),
            "--redis (REDIS_URL) is set, so several gateways may share the books: --database (DATABASE_URL) must name a Postgres database",
        );
        expect(
            self.is_shared() || self.internal_listen.is_none(),
            "--internal-listen is for several gateways: --redis (REDIS_URL) or --redis-file is required",
        );
        expect(
            self.is_shared() || self.redis_ca.is_none(),
            "--redis-ca (REDIS_CA) is set: --redis (REDIS_URL) or --redis-file is required",
        );
        expect(
            self.internal_advertise.is_some() || !self.internal_listen.is_some_and(|at| at.ip().is_unspecified()),
            "--internal-listen is every address: --internal-advertise must say how others reach it",
        );
        expect(
            self.internal_advertise.as_deref().is_none_or(is_host_and_port),
            "--internal-advertise must be host:port",
        );
        expect(
            self.first_token_floor <= self.first_token_timeout,
            "--first-token-floor must not be more than --first-token-timeout",
        );
        for url in self.public_urls.iter().filter(|url| !is_origin(url)) {
            problems.push(format!("--public-url: '{url}' is no origin such as https://api.example"));
        }
        problems
    }
}

pub(super) fn is_database(url: &str) -> bool {
    DATABASES.iter().any(|scheme| url.starts_with(scheme))
}

/// `https://host` or `http://host`, with a port or without, and no path.
fn is_origin(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    scheme && uri.authority().is_some_and(|at| !at.as_str().contains('@')) && uri.path() == "/" && uri.query().is_none()
}

fn is_host_and_port(address: &str) -> bool {
    let parts = address.rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_have_no_path() {
        for good in ["https://api.example", "http://127.0.0.1:8080", "http://[::1]:80/"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in ["api.example", "https://api.example/v1", "ftp://x", "https://", "https://a@b", "", "https://a?b"] {
            assert!(!is_origin(bad), "{bad}");
        }
    }

    #[test]
    fn advertised_addresses_have_a_port() {
        assert!(is_host_and_port("gateway-1.internal:8090") && is_host_and_port("[::1]:8090"));
        assert!(["gateway", ":80", "gateway:", "gateway:0", "gateway:70000"].iter().all(|bad| !is_host_and_port(bad)));
    }
}
