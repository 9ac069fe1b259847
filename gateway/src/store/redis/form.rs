//! What `REDIS_URL` says: one server, the master that sentinels name, or a cluster; plain or over TLS.
//!
//! ```text
//! redis://[user:password@]host:port[/number]                       rediss://…
//! redis+sentinel://[user:password@]host:port,host:port/name[/number]   rediss+sentinel://…
//! redis+cluster://[user:password@]host:port,host:port               rediss+cluster://…
//! ```

use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, RedisError, RedisFuture, RedisResult};
use redis::{TlsCertificates, Value};
use tokio::sync::Mutex;

use super::PATIENCE;

/// A Redis that can be connected to.
pub(super) enum Form {
    Server(Client),
    Sentinel(Mutex<SentinelClient>),
    /// The nodes beside: any of them takes a subscription, for a cluster passes messages to all of its nodes.
    Cluster(ClusterClient, Vec<Client>),
}

/// A connection for commands; clones share it.
#[derive(Clone)]
pub(super) enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// The parts of a URL.
struct Parts<'a> {
    tls: bool,
    /// With the `@`.
    user: &'a str,
    hosts: Vec<&'a str>,
    /// After the hosts, without the slash before it.
    path: &'a str,
}

impl Form {
    /// Reads a URL. `ca`: PEM certificates to trust instead of the system's.
    pub(super) fn parse(url: &str, ca: Option<&[u8]>) -> RedisResult<Self> {
        let certificates = ca.map(|pem| TlsCertificates { client_tls: None, root_cert: Some(pem.to_vec()) });
        let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("it has no scheme"))?;
        match scheme {
            "redis" | "rediss" => Ok(Self::Server(open(url, certificates.as_ref())?)),
            "redis+sentinel" | "rediss+sentinel" => {
                sentinel(&Parts::of(scheme, rest)?, certificates).map(|client| Self::Sentinel(Mutex::new(client)))
            }
            "redis+cluster" | "rediss+cluster" => cluster(&Parts::of(scheme, rest)?, certificates),
            _ => Err(invalid("its scheme is none of redis, rediss, redis+sentinel, redis+cluster")),
        }
    }

    /// A new connection for commands.
    pub(super) async fn connect(&self) -> RedisResult<Connection> {
        let config =
            || AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
        match self {
            Self::Server(client) => {
                client.get_multiplexed_async_connection_with_config(&config()).await.map(Connection::Server)
            }
            Self::Sentinel(client) => {
                let connected = client.lock().await.get_async_connection_with_config(&config()).await;
                connected.map(Connection::Server)
            }
            Self::Cluster(client, _) => client.get_async_connection().await.map(Connection::Cluster),
        }
    }

    /// A new connection for subscriptions.
    pub(super) async fn connect_pubsub(&self) -> RedisResult<PubSub> {
        match self {
            Self::Server(client) => client.get_async_pubsub().await,
            Self::Sentinel(client) => {
                let master = client.lock().await.async_get_client().await?;
                master.get_async_pubsub().await
            }
            Self::Cluster(_, nodes) => {
                let mut last = invalid("it names no node");
                for node in nodes {
                    match node.get_async_pubsub().await {
                        Ok(connected) => return Ok(connected),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    /// Whether `PUBLISH` counts everyone who gets the message; a cluster counts those at one node.
    pub(super) fn counts_receivers(&self) -> bool {
        !matches!(self, Self::Cluster(..))
    }
}

impl<'a> Parts<'a> {
    fn of(scheme: &str, rest: &'a str) -> RedisResult<Self> {
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        let hosts: Vec<&str> = hosts.split(',').filter(|host| !host.is_empty()).collect();
        if hosts.is_empty() {
            return Err(invalid("it names no host"));
        }
        Ok(Self { tls: scheme.starts_with("rediss"), user, hosts, path: path.trim_end_matches('/') })
    }

    /// One of the hosts as a URL of its own.
    fn url(&self, host: &str, path: &str) -> String {
        let scheme = if self.tls { "rediss" } else { "redis" };
        format!("{scheme}://{}{host}/{path}", self.user)
    }
}

fn sentinel(parts: &Parts<'_>, certificates: Option<TlsCertificates>) -> RedisResult<SentinelClient> {
    let (name, number) = parts.path.split_once('/').unwrap_or((parts.path, "0"));
    if name.is_empty() {
        return Err(invalid("it names no master: redis+sentinel://host:port/name"));
    }
    // The user and the number are those of the servers; a URL of the crate's own form knows how to read them.
    let server = Client::open(parts.url(parts.hosts[0], number))?.get_connection_info().clone();
    let mut sentinels = Vec::with_capacity(parts.hosts.len());
    for host in &parts.hosts {
        let plain = Parts { tls: parts.tls, user: "", hosts: Vec::new(), path: "" };
        let address = Client::open(plain.url(host, ""))?.get_connection_info().addr().clone();
        sentinels.push(match address {
            // Without a port: the sentinels' own.
            ConnectionAddr::Tcp(name, _) if !host.contains(':') => ConnectionAddr::Tcp(name, 26_379),
            address => address,
        });
    }
    let redis = server.redis_settings();
    let mut builder =
        SentinelClientBuilder::new(sentinels, name, SentinelServerType::Master)?.set_client_to_redis_db(redis.db());
    if let Some(user) = redis.username() {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = redis.password() {
        builder = builder.set_client_to_redis_password(password);
    }
    if parts.tls {
        builder = builder.set_client_to_redis_tls_mode(redis::TlsMode::Secure);
        if let Some(certificates) = certificates {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
    }
    builder.build()
}

fn cluster(parts: &Parts<'_>, certificates: Option<TlsCertificates>) -> RedisResult<Form> {
    let urls: Vec<String> = parts.hosts.iter().map(|host| parts.url(host, "")).collect();
    let nodes = urls.iter().map(|url| open(url, certificates.as_ref())).collect::<RedisResult<Vec<_>>>()?;
    let mut builder = ClusterClient::builder(urls).connection_timeout(PATIENCE).response_timeout(PATIENCE).retries(2);
    if let Some(certificates) = certificates.filter(|_| parts.tls) {
        builder = builder.certs(certificates);
    }
    Ok(Form::Cluster(builder.build()?, nodes))
}

fn open(url: &str, certificates: Option<&TlsCertificates>) -> RedisResult<Client> {
    match certificates {
        Some(certificates) if url.starts_with("rediss:") => Client::build_with_tls(url, certificates.clone()),
        _ => Client::open(url),
    }
}

fn invalid(why: &'static str) -> RedisError {
    (ErrorKind::InvalidClientConfig, why).into()
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a redis::Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Server(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a redis::Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Server(connection) => connection.req_packed_commands(cmd, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(cmd, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Server(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_nonsense_is_not() {
        let form = |url| Form::parse(url, None);
        for url in ["redis://127.0.0.1:6379/1", "rediss://:secret@redis.example"] {
            assert!(matches!(form(url), Ok(Form::Server(_))), "{url}");
        }
        for url in ["redis+sentinel://a:26379,b:26379/master", "rediss+sentinel://u:p@a,b/master/2"] {
            assert!(matches!(form(url), Ok(Form::Sentinel(_))), "{url}");
        }
        for (url, count) in [("redis+cluster://a:1,b:2,c:3", 3), ("rediss+cluster://u:p@a:1/", 1)] {
            assert!(matches!(form(url), Ok(Form::Cluster(_, nodes)) if nodes.len() == count), "{url}");
        }
        for url in
            ["", "redis", "http://a", "redis+sentinel://a:1", "redis+sentinel:///m", "redis+cluster://", "redis+x://a"]
        {
            assert!(form(url).is_err(), "{url}");
        }
    }
}
