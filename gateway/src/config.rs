//! What `serve` can be told: by flag, by environment, or in a file, in this order of precedence. `problems` finds what does not
//! go together, `reference` says how the file is read (`lumbung_settings` does it) and writes CONFIG.md.

mod problems;
mod reference;

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use reference::{reference, with_file};

use clap::{ArgAction, Args, ValueEnum};
use lumbung_openapi::frame::MAX_BODY;
use lumbung_openapi::money::NanoUsd;

use crate::domain::address::AddressRange;
use crate::followed::{Followed, text_of};

/// The longest times in seconds: ten years.
const MOST_SECS: u64 = 3650 * 86_400;
/// More of anything than one gateway can hold, and few enough to calculate with.
const MOST_OF_IT: usize = 10_000_000;

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Console,
    /// One JSON object per line.
    Json,
}

/// Where the books are.
#[derive(Args, Clone, Debug)]
pub struct BooksConfig {
    /// Folder of the SQLite file, when no database is named.
    #[arg(long, env = "LUMBUNG_DATA_DIR", default_value = "lumbung-data", global = true)]
    pub data_dir: PathBuf,
    /// Database: postgres://… or sqlite:/path. Without it: a SQLite file in the data folder.
    #[arg(long = "database", env = "DATABASE_URL", hide_env_values = true, global = true)]
    pub database_url: Option<String>,
    /// A file that holds what --database would say, for a password that changes. It is read again when it changes: new
    /// connections use it as soon as the database takes it.
    #[arg(long, env = "DATABASE_URL_FILE", global = true, conflicts_with = "database_url")]
    pub database_file: Option<PathBuf>,
}

impl BooksConfig {
    /// The database to open, and the file that says so, where one does. Makes the data folder where that is the place.
    pub fn place(&self) -> io::Result<(String, Option<Followed>)> {
        if let Some(file) = &self.database_file {
            let followed = Followed::read(vec![file.clone()])?;
            let url = text_of(&followed.held()[0]).map_err(|error| at(file, error))?;
            return match problems::is_database(&url) {
                true => Ok((url, Some(followed))),
                false => Err(at(file, "it must hold a URL that begins with postgres:// or sqlite:")),
            };
        }
        if let Some(url) = &self.database_url {
            return Ok((url.clone(), None));
        }
        std::fs::create_dir_all(&self.data_dir)?;
        let folder = self.data_dir.canonicalize()?;
        Ok((format!("sqlite:{}", folder.join("books.db").display()), None))
    }
}

/// What `serve` can be told.
#[derive(Args, Clone, Debug)]
pub struct ServeConfig {
    /// Where to listen for clients and providers.
    #[arg(long, env = "LUMBUNG_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Where Prometheus asks for /metrics: a port that clients do not reach. Without it there is none.
    #[arg(long, env = "LUMBUNG_METRICS_LISTEN")]
    pub metrics_listen: Option<SocketAddr>,
    /// Ends TLS here instead of in a proxy: the certificate for clients and providers with what links it to its authority, as
    /// a PEM file. It is read again when it changes.
    #[arg(long, env = "LUMBUNG_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key, as a PEM file.
    #[arg(long, env = "LUMBUNG_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Origins under which providers reach this gateway (https://api.example); a join signed for another is refused.
    /// Without any: http://127.0.0.1:PORT and http://localhost:PORT, or https where --tls-cert is given.
    #[arg(long = "public-url", env = "LUMBUNG_PUBLIC_URL", value_delimiter = ',')]
    pub public_urls: Vec<String>,
    /// The operator's part of every charge, in basis points (1/100 of a percent).
    #[arg(long, env = "LUMBUNG_FEE_BPS", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    pub fee_bps: u16,
    /// Completion tokens per choice that money is held for at first, where a request names no max_tokens; more is held as
    /// the answer grows.
    #[arg(long, env = "LUMBUNG_DEFAULT_HOLD_TOKENS", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub default_hold_tokens: u32,
    /// Share of trusted providers' jobs whose tokens are counted again with the model's own tokenizer, in basis points
    /// (1/100 of a percent). Newcomers' jobs always are, where the model has one (`models tokenizer`).
    #[arg(long, env = "LUMBUNG_RECOUNT_BPS", default_value_t = 500, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    pub recount_bps: u16,
    /// Let newcomers serve only models that have a tokenizer, so that every count of theirs is checked; without it, their
    /// counts of other models are taken as they are.
    #[arg(long, env = "LUMBUNG_NEWCOMERS_NEED_TOKENIZER", action = ArgAction::Set, num_args = 0..=1,
          default_value_t = false, default_missing_value = "true")]
    pub newcomers_need_tokenizer: bool,
    /// Seconds after a ticket in which its receipt may be offered; also how long a dead replica's reserved money is kept for them.
    #[arg(long, env = "LUMBUNG_CLAIM_WINDOW_SECS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=MOST_SECS))]
    pub claim_window_secs: u64,
    /// Seconds that a provider's earnings are held back after a job was settled; then they are payable.
    #[arg(long, env = "LUMBUNG_HOLDBACK_SECS", default_value_t = 7 * 86_400, value_parser = clap::value_parser!(u64).range(0..=MOST_SECS))]
    pub holdback_secs: u64,
    /// Seconds after a provider changed where it wants to be paid in which it is not paid.
    #[arg(long, env = "LUMBUNG_PAYOUT_COOLDOWN_SECS", default_value_t = 3 * 86_400, value_parser = clap::value_parser!(u64).range(0..=MOST_SECS))]
    pub payout_cooldown_secs: u64,
    /// Seconds of this replica's lease on the books; a restart after a crash waits at most this long.
    #[arg(long, env = "LUMBUNG_LEASE_SECS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=300))]
    pub lease_secs: u64,
    /// The largest request body, in bytes; pictures and sounds come in it. At most 32 MiB, which providers read.
    #[arg(long, env = "LUMBUNG_MAX_BODY", default_value_t = 4 << 20, value_parser = number::<1024, MAX_BODY>)]
    pub max_body: usize,
    /// Keep responses of /v1/responses for so many days, for clients to read, delete and go on from; those with `store: false`
    /// are not kept. Without it nothing that people or models say is kept anywhere.
    #[arg(long, env = "LUMBUNG_STORE_RESPONSES_DAYS", value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub store_responses_days: Option<u16>,
    /// Jobs in flight and not yet in the books, together; beyond it requests get 503.
    #[arg(long, env = "LUMBUNG_MAX_JOBS", default_value_t = 16_384, value_parser = number::<1, MOST_OF_IT>)]
    pub max_jobs: usize,
    /// Threads that answer requests, beside the one for the books: one for every two cores if nothing else is said.
    #[arg(long, env = "LUMBUNG_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Connections at a time.
    #[arg(long, env = "LUMBUNG_MAX_CONNECTIONS", default_value_t = 20_000, value_parser = number::<1, MOST_OF_IT>)]
    pub max_connections: usize,
    /// Provider tunnels at a time.
    #[arg(long, env = "LUMBUNG_MAX_TUNNELS", default_value_t = 10_000, value_parser = number::<1, MOST_OF_IT>)]
    pub max_tunnels: usize,
    /// Milliseconds between two polls of a provider's offer; one that has frozen is found out within two of these.
    #[arg(long, env = "LUMBUNG_POLL_MS", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub poll_ms: u64,
    /// Where other gateways that share the fleet connect to pass on jobs. With REDIS_URL and without this: a free port of the
    /// same address as --listen, if that is of this machine only; otherwise this gateway's providers serve it alone.
    #[arg(long, env = "LUMBUNG_INTERNAL_LISTEN")]
    pub internal_listen: Option<SocketAddr>,
    /// How they reach that, as host:port. Without it: the address as bound.
    #[arg(long, env = "LUMBUNG_INTERNAL_ADVERTISE", requires = "internal_listen")]
    pub internal_advertise: Option<String>,
    /// Have gateways talk TLS with each other: this one's certificate for the host it advertises, as a PEM file.
    #[arg(long, env = "LUMBUNG_INTERNAL_TLS_CERT", requires_all = ["internal_tls_key", "internal_tls_ca"])]
    pub internal_tls_cert: Option<PathBuf>,
    /// The certificate's key, as a PEM file.
    #[arg(long, env = "LUMBUNG_INTERNAL_TLS_KEY", requires = "internal_tls_cert")]
    pub internal_tls_key: Option<PathBuf>,
    /// The authority of all gateways' certificates, or several, as a PEM file. These three are read again when they change.
    #[arg(long, env = "LUMBUNG_INTERNAL_TLS_CA", requires = "internal_tls_cert")]
    pub internal_tls_ca: Option<PathBuf>,
    /// The part of them that providers on probation may have, in percent. A trusted provider always finds room: where all are
    /// taken, a newcomer's makes way.
    #[arg(long, env = "LUMBUNG_NEWCOMER_TUNNELS_PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub newcomer_tunnels_percent: u8,
    /// Tunnels of providers on probation from one address at a time.
    #[arg(long, env = "LUMBUNG_NEWCOMER_TUNNELS_PER_ADDRESS", default_value_t = 64, value_parser = number::<1, MOST_OF_IT>)]
    pub newcomer_tunnels_per_address: usize,
    /// Joins of providers on probation per minute, all together.
    #[arg(long, env = "LUMBUNG_NEWCOMER_JOINS_PER_MINUTE", default_value_t = 1200, value_parser = clap::value_parser!(u32).range(1..))]
    pub newcomer_joins_per_minute: u32,
    /// Requests of the join protocol (two for a tunnel) per minute from one address; an IPv6 network of 64 bits counts as one.
    #[arg(long, env = "LUMBUNG_JOINS_PER_MINUTE", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    pub joins_per_minute: u32,
    /// Requests with a key or signature that is not good, per minute from one address; then only known keys pass.
    #[arg(long, env = "LUMBUNG_WRONG_KEYS_PER_MINUTE", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..))]
    pub wrong_keys_per_minute: u32,
    /// Addresses or ranges (10.0.0.0/8) of proxies whose X-Forwarded-For is believed. Without any, limits per address see
    /// the proxy's own.
    #[arg(long, env = "LUMBUNG_TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<AddressRange>,
    /// Requests that wait for a slot, per model.
    #[arg(long, env = "LUMBUNG_QUEUE_LENGTH", default_value_t = 256, value_parser = number::<0, MOST_OF_IT>)]
    pub queue_length: usize,
    /// How long a provider may take from being asked to its first token, such as 60s or 500ms; then another is asked. It gets
    /// less where the model's answers usually begin sooner.
    #[arg(long, env = "LUMBUNG_FIRST_TOKEN_TIMEOUT", default_value = "60s", value_parser = duration)]
    pub first_token_timeout: Duration,
    /// How long a provider may take to its first token in any case.
    #[arg(long, env = "LUMBUNG_FIRST_TOKEN_FLOOR", default_value = "5s", value_parser = duration)]
    pub first_token_floor: Duration,
    /// How long a provider may pause between tokens; then another goes on with the answer.
    #[arg(long, env = "LUMBUNG_STALL_TIMEOUT", default_value = "10s", value_parser = duration)]
    pub stall_timeout: Duration,
    /// US dollars that a second of a client's time counts for when providers are compared by price and speed, where the
    /// client does not say what matters to it. Nobody is charged by it.
    #[arg(long = "second-usd", env = "LUMBUNG_SECOND_USD", default_value = "0.00002", value_parser = amount)]
    pub second: NanoUsd,
    /// Seconds between being told to stop and taking no more requests, in which health says so, for proxies to go elsewhere.
    /// Without it: 3 where other gateways share the work (REDIS_URL), else none.
    #[arg(long, env = "LUMBUNG_DRAIN_NOTICE_SECS", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub drain_notice_secs: Option<u64>,
    /// Seconds that running answers are given when the gateway stops.
    #[arg(long, env = "LUMBUNG_DRAIN_SECS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub drain_secs: u64,
    /// The key set (JWKS) of whoever issues operators' tokens beside `admin token`: a URL (https, unless on this machine)
    /// or a file.
    #[arg(long, env = "LUMBUNG_ADMIN_JWKS", requires_all = ["admin_issuer", "admin_audience"])]
    pub admin_jwks: Option<String>,
    /// The name of that issuer, as in its tokens' `iss`.
    #[arg(long, env = "LUMBUNG_ADMIN_ISSUER", requires = "admin_jwks")]
    pub admin_issuer: Option<String>,
    /// Whom its tokens must be meant for, as in their `aud`.
    #[arg(long, env = "LUMBUNG_ADMIN_AUDIENCE", requires = "admin_jwks")]
    pub admin_audience: Option<String>,
    /// Send webhooks to private addresses and this machine, too.
    #[arg(long, env = "LUMBUNG_WEBHOOK_ALLOW_PRIVATE", action = ArgAction::Set, num_args = 0..=1,
          default_value_t = false, default_missing_value = "true")]
    pub webhook_allow_private: bool,
    /// How logs are written.
    #[arg(long, env = "LUMBUNG_LOG", value_enum, default_value_t = LogFormat::Console)]
    pub log: LogFormat,
    /// Redis, through which several gateways on one Postgres database share accounts and providers: redis://host:port/number,
    /// redis+sentinel://host:port,host:port/name or redis+cluster://host:port,host:port; rediss for TLS.
    #[arg(long = "redis", env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: Option<String>,
    /// A file that holds what --redis would say, for a password that changes. It is read again when it changes.
    #[arg(long, env = "REDIS_URL_FILE", conflicts_with = "redis_url")]
    pub redis_file: Option<PathBuf>,
    /// Certificates to trust for Redis instead of the system's, as a PEM file. It is read again when it changes.
    #[arg(long, env = "REDIS_CA")]
    pub redis_ca: Option<PathBuf>,
}

/// Redis, as configured.
pub struct RedisPlace {
    /// Its URL.
    pub url: String,
    /// Certificates to trust, as PEM.
    pub authority: Option<Vec<u8>>,
    /// The files that said so.
    pub followed: Followed,
    file: Option<PathBuf>,
}

impl RedisPlace {
    /// URL and authority, by what the files hold now.
    pub fn by(&self, held: &[Vec<u8>]) -> io::Result<(String, Option<Vec<u8>>)> {
        let mut held = held.iter();
        let url = match &self.file {
            Some(file) => text_of(held.next().map_or(&[][..], Vec::as_slice)).map_err(|error| at(file, error))?,
            None => self.url.clone(),
        };
        Ok((url, held.next().cloned()))
    }
}

fn at(path: &Path, error: impl Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

/// A time in seconds or milliseconds: `10s`, `250ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| "a whole number and a unit are expected: 10s or 250ms".to_owned())?;
    let duration = match unit {
        "s" => Duration::from_secs(number),
        "ms" => Duration::from_millis(number),
        _ => return Err("the unit must be s or ms".to_owned()),
    };
    match duration.is_zero() || duration > Duration::from_secs(86_400) {
        true => Err("it must be more than nothing and no more than a day".to_owned()),
        false => Ok(duration),
    }
}

impl ServeConfig {
    /// The lease's length.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_secs)
    }

    /// How long responses are kept; `None`: not at all.
    pub fn response_retention(&self) -> Option<Duration> {
        self.store_responses_days.map(|days| Duration::from_secs(u64::from(days) * 86_400))
    }

    /// How long proxies have to go elsewhere.
    pub fn drain_notice(&self) -> Duration {
        Duration::from_secs(self.drain_notice_secs.unwrap_or(if self.is_shared() { 3 } else { 0 }))
    }

    /// Whether several gateways may share the books.
    pub fn is_shared(&self) -> bool {
        self.redis_url.is_some() || self.redis_file.is_some()
    }

    /// Redis; `None` without. Reads the files.
    pub fn redis(&self) -> io::Result<Option<RedisPlace>> {
        if !self.is_shared() {
            return Ok(None);
        }
        let files = self.redis_file.iter().chain(&self.redis_ca).cloned().collect();
        let (url, file) = (self.redis_url.clone().unwrap_or_default(), self.redis_file.clone());
        let mut place = RedisPlace { url, authority: None, followed: Followed::read(files)?, file };
        (place.url, place.authority) = place.by(place.followed.held())?;
        Ok(Some(place))
    }

    /// Origins under which providers reach this gateway, which listens at `bound`.
    pub fn origins(&self, bound: SocketAddr) -> Vec<String> {
        if !self.public_urls.is_empty() {
            return self.public_urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        }
        let scheme = if self.tls_cert.is_some() { "https" } else { "http" };
        ["127.0.0.1", "localhost"].map(|host| format!("{scheme}://{host}:{}", bound.port())).into()
    }
}

/// A whole number from `LEAST` to `MOST`.
fn number<const LEAST: usize, const MOST: usize>(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (LEAST..=MOST).contains(number));
    number.ok_or_else(|| format!("a whole number from {LEAST} to {MOST} is expected"))
}

/// An amount of dollars, zero or more.
fn amount(text: &str) -> Result<NanoUsd, String> {
    let amount: NanoUsd = text.parse().map_err(|error| format!("{error}"))?;
    if amount < NanoUsd::ZERO { Err("must not be below zero".into()) } else { Ok(amount) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!((duration("10s"), duration("250ms")), (Ok(Duration::from_secs(10)), Ok(Duration::from_millis(250))));
        for bad in ["", "10", "s", "0s", "-1s", "1.5s", "10 s", "99999999s", "1h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
