//! Wiring: opens the books, takes the lease, starts the background work, listens; and the same in reverse.

mod sharing;
pub mod threads;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lumbung_telemetry::otlp;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admin::Desk;
use crate::admin::courier::Courier;
use crate::admin::issuer::Issuer;
use crate::chat::allowance::Allowances;
use crate::chat::archive::Archive;
use crate::chat::authenticate::Keyring;
use crate::chat::life::Life;
use crate::chat::limits::Gauges;
use crate::chat::recount::Recounter;
use crate::chat::settle::Settler;
use crate::chat::{Gateway, Patience};
use crate::config::{BooksConfig, ServeConfig};
use crate::domain::ids::ReplicaId;
use crate::domain::meter::GatewayMeter;
use crate::fleet::gate::{Gate, GateLimits};
use crate::fleet::join::Doorman;
use crate::fleet::receipts::ReceiptDesk;
use crate::fleet::{Fleet, FleetLimits};
use crate::followed::{Followed, text_of};
use crate::http::guard::Guard;
use crate::http::{self, Shared, metrics};
use crate::jobs;
use crate::store::lease::LeaseGuard;
use crate::store::{Store, StoreError};
use crate::tls::Certificate;
use sharing::Sharing;

/// Batches of receipts that are judged at a time; others come again. The thread for the books has more to do.
const AT_THE_DESK: usize = 16;

/// Runs a gateway until `stop`, then drains it. What no request waits for runs on `books_thread`.
pub async fn run(
    books: &BooksConfig,
    config: &ServeConfig,
    books_thread: Handle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let problems = config.problems(books);
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    // Libraries here bring two implementations of TLS's cryptography; rustls wants to be told which is meant.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certificate = client_certificate(config)?;
    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("cannot listen on {}", config.listen))?;
    let bound = listener.local_addr()?;
    // Connections belong to the thread that opened them.
    let (url, database_file) = books.place().context("cannot open the books")?;
    if config.is_shared() && url.starts_with("sqlite:") {
        bail!("several gateways share the books (--redis): --database-file must name a Postgres database");
    }
    let opening = books_thread.spawn(async move { Store::open(&url).await });
    let store = opening.await?.context("cannot open the books")?;
    let replica = ReplicaId::fresh();
    let otlp = {
        let _entered = books_thread.enter();
        otlp::start("lumbung-gateway", replica.to_string()).context("cannot send to OpenTelemetry")?
    };
    let mut sharing = Sharing::open(config, &store, replica, bound).await?;
    let port = sharing.as_mut().and_then(Sharing::take_port);
    let bus = sharing.as_ref().map(|sharing| sharing.bus.clone());
    let peers_tls = sharing.as_ref().and_then(Sharing::tls);
    let redis_files = sharing.as_mut().and_then(Sharing::take_files);
    let registry = sharing.as_ref().map(|sharing| sharing.registry.clone());
    // Without a way to each other, two gateways could not share an account's last dollar.
    let lease = take_lease(&store, &replica, config.lease(), bus.is_none()).await?;
    let origins = config.origins(bound);
    let (shared, writer) = assemble(&store, sharing, replica, lease, config, origins, &books_thread).await?;
    let (gateway, courier) = (shared.gateway.clone(), shared.courier.clone());

    let background = jobs::run(gateway.clone(), store.clone(), bus, registry, courier, config.lease(), stop.clone());
    let background = books_thread.spawn(background);
    info!(%bound, %replica, "gateway listens");
    let scraped = match config.metrics_listen {
        Some(address) => {
            let listening = books_thread.spawn(metrics::serve(address, gateway.clone())).await??;
            Some(books_thread.spawn(listening))
        }
        None => None,
    };
    let drain = Duration::from_secs(config.drain_secs);
    let closing = CancellationToken::new();
    let leaving = tokio::spawn(leave(gateway.clone(), stop, closing.clone(), config.drain_notice()));
    let passing = port.map(|port| {
        let (gateway, closing) = (gateway.clone(), closing.clone());
        tokio::spawn(async move { port.serve(&gateway.fleet, closing).await })
    });
    // HTTP/2 for clients; a provider's tunnel is an upgraded HTTP/1.1.
    let tls = certificate.as_ref().map(|certificate| certificate.acceptor(&[b"h2", b"http/1.1"]));
    let following = certificate.map(|certificate| tokio::spawn(certificate.follow()));
    let following_peers = peers_tls.map(|tls| tokio::spawn(tls.follow()));
    // Connections belong to the thread that opened them.
    let following_database = database_file.map(|file| books_thread.spawn(follow_database(store.clone(), file)));
    let following_redis = redis_files.map(|files| tokio::spawn(files.follow()));
    http::server::serve(listener, tls, shared, config.max_connections, closing, drain).await;
    let following = [following, following_peers, following_database, following_redis];
    following.into_iter().flatten().for_each(|following| following.abort());
    leaving.await?;
    if let Some(passing) = passing
        && tokio::time::timeout(drain, passing).await.is_err()
    {
        warn!(drain_secs = drain.as_secs(), "other gateways' jobs still ran at the end of the drain");
    }

    // What ended last is settled, what was not spent goes back, and the lease with it: the next gateway need not wait.
    gateway.settler.drained(drain).await;
    background.abort();
    gateway.gauges.leave().await;
    if let Err(error) = gateway.allowances.give_back(true).await {
        warn!(%error, "allowances not given back; they return when the claim window has passed");
    }
    if let Err(error) = gateway.lease.end().await {
        warn!(%error, "lease not ended; it runs out by itself");
    }
    writer.abort();
    scraped.into_iter().for_each(|scraped| scraped.abort());
    otlp.stop().await;
    if gateway.lease.is_lost() {
        bail!("the lease on the books was lost while this process did not run; start it again for a new one");
    }
    info!("gateway stopped");
    Ok(())
}

/// The certificate for clients and providers, where no proxy in front has it.
fn client_certificate(config: &ServeConfig) -> anyhow::Result<Option<Arc<Certificate>>> {
    let (Some(chain), Some(key)) = (&config.tls_cert, &config.tls_key) else { return Ok(None) };
    Ok(Some(Certificate::read(chain, key).context("cannot use --tls-cert and --tls-key")?))
}

/// Has new connections go by the database's URL as its file says it.
async fn follow_database(store: Store, file: Followed) {
    let take_up = |held: Vec<Vec<u8>>| {
        let store = store.clone();
        async move {
            let url = text_of(&held[0]).map_err(|_| StoreError::Invalid("it is not text"))?;
            store.move_to(&url).await
        }
    };
    file.follow("the database's URL", take_up).await;
}

/// Reads what the configuration names and whatever needs it to run, as `config check` does.
pub fn check(books: &BooksConfig, config: &ServeConfig) -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut problems = config.problems(books);
    problems.extend(client_certificate(config).err().map(|error| format!("{error:#}")));
    problems.extend(sharing::tls(config).err().map(|error| format!("{error:#}")));
    problems.extend(books.database_file.as_ref().and_then(|_| books.place().err()).map(|error| error.to_string()));
    problems.extend(config.redis().err().map(|error| error.to_string()));
    problems.extend(issuer(config).err().map(|error| format!("{error:#}")));
    match problems.is_empty() {
        true => Ok(()),
        false => bail!("{}", problems.join("\n")),
    }
}

/// Once told to stop, has everyone go elsewhere who can, then lets nothing new in (`closing`).
async fn leave(gateway: Arc<Gateway>, stop: CancellationToken, closing: CancellationToken, notice: Duration) {
    stop.cancelled().await;
    gateway.life.leave();
    gateway.fleet.leave();
    info!(notice_secs = notice.as_secs(), "stopping: health says so, and providers are told to dial another gateway");
    tokio::time::sleep(notice).await;
    gateway.life.drain();
    closing.cancel();
    info!("stopping: nothing new is taken, what runs is finished");
}

/// Takes a lease. Where it must be the only one, waits for a dead predecessor's to run out, which a living one's does not.
async fn take_lease(
    store: &Store,
    replica: &ReplicaId,
    length: Duration,
    exclusive: bool,
) -> anyhow::Result<LeaseGuard> {
    let mut patience = None;
    loop {
        match store.acquire_lease(replica, length, exclusive).await.context("cannot take the lease on the books")? {
            // Admission stops a third of the lease before its end: longer than a request takes from admission to its hold.
            Ok(lease) => return Ok(LeaseGuard::new(store.clone(), lease, length / 3)),
            Err(held) => {
                let deadline =
                    *patience.get_or_insert_with(|| Instant::now() + Duration::from_secs(held.seconds_left + 1));
                if Instant::now() >= deadline {
                    bail!(
                        "another gateway ({}) is running on these books; to share them, all need DATABASE_URL and REDIS_URL",
                        held.by
                    );
                }
                info!(by = %held.by, seconds_left = held.seconds_left, "waiting for another gateway's lease on these books to run out");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

async fn assemble(
    store: &Store,
    sharing: Option<Sharing>,
    replica: ReplicaId,
    lease: LeaseGuard,
    config: &ServeConfig,
    origins: Vec<String>,
    books_thread: &Handle,
) -> anyhow::Result<(Arc<Shared>, tokio::task::JoinHandle<()>)> {
    let keys = store.signing_keys().await.context("cannot read the signing keys")?;
    let meter = Arc::new(GatewayMeter::default());
    let (settler, writer) = Settler::new(store.clone(), keys.clone(), config.max_jobs, meter.clone());
    let writer = books_thread.spawn(writer);
    let (bus, counters, links) = match sharing {
        Some(Sharing { bus, counters, links, .. }) => (Some(bus), Some(counters), Some(links)),
        None => (None, None, None),
    };
    let allowances = Arc::new(Allowances::new(store.clone(), bus.clone(), replica));
    let gauges = Arc::new(Gauges::new(store.clone(), replica, counters.zip(bus)));
    gauges.join().await;
    let limits = FleetLimits {
        queue_length: config.queue_length,
        newcomers_need_tokenizer: config.newcomers_need_tokenizer,
        poll_every: Duration::from_millis(config.poll_ms),
        second: config.second,
    };
    let gateway = Gateway {
        replica,
        keyring: Keyring::new(store.clone(), allowances.clone(), gauges.clone()),
        gauges,
        fleet: Fleet::new(limits, links),
        allowances,
        recounter: Recounter::new(config.recount_bps).map_err(|error| anyhow::anyhow!("no entropy: {error}"))?,
        settler,
        archive: Archive::new(store.clone(), config.response_retention(), config.max_body),
        lease,
        keys: keys.clone(),
        fee_bps: config.fee_bps,
        default_hold_tokens: config.default_hold_tokens,
        claim_window: Duration::from_secs(config.claim_window_secs),
        holdback: Duration::from_secs(config.holdback_secs),
        patience: Patience {
            first_token: config.first_token_timeout,
            first_token_floor: config.first_token_floor,
            stall: config.stall_timeout,
        },
        life: Life::default(),
        meter,
    };
    jobs::reload(&gateway, store, None).await.context("cannot read the catalogue")?;
    jobs::tokenizers::reload(&gateway, store, None).await.context("cannot read the models' tokenizers")?;
    let shared = Shared {
        gateway: Arc::new(gateway),
        doorman: Doorman::new(keys.clone(), store.clone(), origins),
        gate: Arc::new(Gate::new(gate_limits(config))),
        guard: Guard::new(config.trusted_proxies.clone(), config.wrong_keys_per_minute),
        desk: ReceiptDesk::new(store.clone(), keys.clone()),
        desk_places: Arc::new(Semaphore::new(AT_THE_DESK)),
        books_thread: books_thread.clone(),
        store: store.clone(),
        admin: Desk::new(store.clone(), keys.clone(), issuer(config)?),
        courier: Arc::new(Courier::new(config.webhook_allow_private).context("no HTTP client for webhooks")?),
        spec: lumbung_openapi::spec::document().to_json()?,
        max_body: config.max_body,
        payout_cooldown: Duration::from_secs(config.payout_cooldown_secs),
    };
    Ok((Arc::new(shared), writer))
}

/// Who else, beside `admin token`, makes operators' tokens.
fn issuer(config: &ServeConfig) -> anyhow::Result<Option<Issuer>> {
    let (Some(jwks), Some(name), Some(audience)) = (&config.admin_jwks, &config.admin_issuer, &config.admin_audience)
    else {
        return Ok(None);
    };
    Ok(Some(Issuer::new(jwks, name, audience).context("cannot use --admin-jwks")?))
}

/// Limits of joins and tunnels.
fn gate_limits(config: &ServeConfig) -> GateLimits {
    GateLimits {
        joins_per_minute: config.joins_per_minute,
        newcomer_joins_per_minute: config.newcomer_joins_per_minute,
        max_tunnels: config.max_tunnels,
        newcomer_tunnels: config.max_tunnels * usize::from(config.newcomer_tunnels_percent) / 100,
        newcomer_tunnels_per_address: config.newcomer_tunnels_per_address,
    }
}
