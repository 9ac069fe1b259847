//! What Prometheus is told. Labels are names of the code and models of the catalogue: no account, key or provider has one.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use lumbung_telemetry::listener;
use lumbung_telemetry::metric::{Counter, Histogram, Tally};
use lumbung_telemetry::page::{Page, Pages, Tells};
use lumbung_telemetry::process::Process;
use tokio::net::TcpListener;

use crate::chat::Gateway;
use crate::domain::meter::ModelMeter;
use crate::fleet::ModelSeats;

/// Listens; the returned future answers for as long as it is polled.
pub async fn serve(address: SocketAddr, gateway: Arc<Gateway>) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} for metrics"))?;
    tracing::info!(bound = %listener.local_addr()?, "metrics are told at /metrics");
    let told: [Arc<dyn Tells>; 2] = [Arc::new(Figures(gateway)), Arc::new(Process)];
    Ok(listener::serve(listener, Pages::new(told)))
}

/// A gateway's figures.
struct Figures(Arc<Gateway>);

impl Tells for Figures {
    fn tell(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        requests(page, &self.0)?;
        let snapshot = self.0.fleet.snapshot().clone();
        let models = Models(snapshot.models());
        models.answers(page)?;
        models.attempts(page)?;
        models.money(page)?;
        models.seats(page)?;
        fleet(page, &self.0)?;
        books(page, &self.0)
    }
}

type ReadCounter = fn(&ModelMeter) -> &Counter;
type Labelled<'a, T> = (Vec<(&'a str, &'a str)>, T);

fn tally<'a>(tally: &Tally, label: &'a str) -> Vec<Labelled<'a, u64>> {
    tally.read().map(|(name, count)| (vec![(label, name)], count)).collect()
}

fn signed(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn requests(page: &mut Page<'_, '_>, gateway: &Gateway) -> fmt::Result {
    let meter = &gateway.meter;
    page.counter(
        "lumbung_requests",
        "Requests for an answer, by endpoint, refused ones included.",
        tally(&meter.endpoints, "endpoint"),
    )?;
    page.counter("lumbung_refusals", "Requests that were told no, by reason.", tally(&meter.refusals, "reason"))?;
    page.number("lumbung_ready", "Whether requests and providers should come here.", gateway.is_ready().into())?;
    page.number("lumbung_admitting", "Whether new jobs are taken.", gateway.is_admitting().into())
}

/// The catalogue's models, each once.
struct Models<'a>(Vec<&'a Arc<ModelSeats>>);

impl Models<'_> {
    fn each<'s, T: 's>(&'s self, label: &'s str, read: impl Fn(&'s ModelSeats) -> T + 's) -> Vec<Labelled<'s, T>> {
        self.0.iter().map(|model| (vec![(label, model.entry.id.as_str())], read(model))).collect()
    }

    fn counters<const N: usize>(
        &self,
        label: &'static str,
        kinds: [(&'static str, ReadCounter); N],
    ) -> Vec<Labelled<'_, u64>> {
        let of = |model: &Arc<ModelSeats>, read: ReadCounter| read(&model.health.meter).get();
        let each = self.0.iter().flat_map(|model| {
            kinds.map(|(kind, read)| (vec![("model", model.entry.id.as_str()), (label, kind)], of(model, read)))
        });
        each.collect()
    }

    fn tallies(&self, label: &'static str, read: fn(&ModelMeter) -> &Tally) -> Vec<Labelled<'_, u64>> {
        let each = self.0.iter().flat_map(|model| {
            let id = model.entry.id.as_str();
            read(&model.health.meter).read().map(move |(name, count)| (vec![("model", id), (label, name)], count))
        });
        each.collect()
    }

    fn times(
        &self,
        page: &mut Page<'_, '_>,
        (name, help, label): (&str, &str, &str),
        read: fn(&ModelMeter) -> &Histogram,
    ) -> fmt::Result {
        page.times(name, help, self.each(label, |model| read(&model.health.meter).read()))
    }

    fn answers(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        page.counter(
            "lumbung_answers",
            "Admitted requests that are over, by how they ended: complete, client_gone, or an error's kind.",
            self.tallies("outcome", |meter| &meter.outcomes),
        )?;
        page.counter(
            "lumbung_tokens",
            "Tokens that were charged. Cached ones are among the prompt's, reasoning's among the completion's.",
            self.counters(
                "kind",
                [
                    ("prompt", |meter| &meter.prompt_tokens),
                    ("cached", |meter| &meter.cached_tokens),
                    ("completion", |meter| &meter.completion_tokens),
                    ("reasoning", |meter| &meter.reasoning_tokens),
                ],
            ),
        )?;
        let model = "gen_ai_request_model";
        let name = "gen_ai_server_request_duration_seconds";
        self.times(page, (name, "From request to end.", model), |meter| &meter.duration)?;
        let name = "gen_ai_server_time_to_first_token_seconds";
        self.times(page, (name, "From request to the first token.", model), |meter| &meter.first_token)?;
        let name = "gen_ai_server_time_per_output_token_seconds";
        let help = "Of each token after the first: one mean for each provider's part of an answer.";
        self.times(page, (name, help, model), |meter| &meter.per_token)
    }

    fn attempts(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        page.counter(
            "lumbung_attempts",
            "Providers' attempts at answers, by how they ended: complete, or why they broke off.",
            self.tallies("outcome", |meter| &meter.attempts),
        )?;
        page.counter(
            "lumbung_continued_attempts",
            "Attempts that went on with what another provider had begun.",
            self.each("model", |model| model.health.meter.continued.get()),
        )?;
        page.counter(
            "lumbung_recounts",
            "Answers whose tokens were counted again, by what came of it; lower means that the provider claimed too many.",
            self.tallies("outcome", |meter| &meter.recounts),
        )
    }

    fn money(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        page.counter(
            "lumbung_money_nano_usd",
            "Nano-dollars: what clients were charged, and the operator's part of it.",
            self.counters("kind", [("charged", |meter| &meter.charged), ("fee", |meter| &meter.fees)]),
        )
    }

    fn seats(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let by_state = self.0.iter().flat_map(|model| {
            let count = |is: &dyn Fn(bool, bool) -> bool| {
                signed(model.seats.iter().filter(|seat| is(seat.is_open(), seat.is_well())).count())
            };
            let states = [
                ("well", count(&|open, well| open && well)),
                ("left_alone", count(&|open, well| open && !well)),
                ("unreachable", count(&|open, _| !open)),
            ];
            states.map(|(state, count)| (vec![("model", model.entry.id.as_str()), ("state", state)], count))
        });
        let help = "Providers of a model: well, left_alone because they fail, or unreachable.";
        page.gauge("lumbung_model_providers", help, by_state.collect::<Vec<_>>())?;
        page.gauge(
            "lumbung_slots",
            "Jobs that the model's providers take at a time.",
            self.each("model", |model| model.seats.iter().map(|seat| i64::from(seat.slots)).sum()),
        )?;
        page.gauge(
            "lumbung_slots_taken",
            "How many of them run, other gateways' included.",
            self.each("model", |model| model.seats.iter().map(|seat| i64::from(seat.running().min(seat.slots))).sum()),
        )?;
        page.gauge(
            "lumbung_queue_length",
            "Requests that wait for a slot.",
            self.each("model", |model| signed(model.queue.len())),
        )?;
        let name = "lumbung_queue_wait_seconds";
        self.times(page, (name, "In line for a slot, of those that had to wait.", "model"), |meter| &meter.waits)
    }
}

fn fleet(page: &mut Page<'_, '_>, gateway: &Gateway) -> fmt::Result {
    let (census, meter) = (gateway.fleet.census(), &gateway.fleet.meter);
    let tunnels =
        census.tunnels.iter().map(|(standing, count)| (vec![("standing", standing.as_str())], signed(*count)));
    page.gauge("lumbung_tunnels", "Providers with a tunnel to this gateway.", tunnels)?;
    page.number("lumbung_tunnels_draining", "Those of them that finish what they have.", signed(census.draining))?;
    let help = "Providers that only another gateway has a tunnel to.";
    page.number("lumbung_providers_elsewhere", help, signed(census.elsewhere))?;
    let peers = [("connected", census.peers_open), ("unreachable", census.peers_closed)];
    let peers = peers.map(|(state, count)| (vec![("state", state)], signed(count)));
    page.gauge("lumbung_peers", "Other gateways that share the fleet.", peers)?;
    page.total("lumbung_tunnels_opened", "Tunnels that were opened.", meter.tunnels_opened.get())?;
    page.counter("lumbung_tunnels_ended", "Tunnels that ended, by why.", tally(&meter.tunnels_ended, "reason"))?;
    page.total("lumbung_missed_offers", "Polls that a provider did not answer in time.", meter.missed_offers.get())
}

fn books(page: &mut Page<'_, '_>, gateway: &Gateway) -> fmt::Result {
    let (meter, (taken, places)) = (&gateway.meter, gateway.settler.places());
    let help = "Jobs in flight and not yet in the books, together.";
    page.number("lumbung_unsettled_jobs", help, signed(taken))?;
    page.number("lumbung_unsettled_jobs_limit", "How many of them there may be.", signed(places))?;
    let lag = [(Vec::new(), meter.settlement_lag.read())];
    page.times("lumbung_settlement_lag_seconds", "From an answer's end to its charge in the books.", lag)?;
    let help = "Batches of settlements that the books did not take at once.";
    page.total("lumbung_settlement_failures", help, meter.settlement_failures.get())?;
    let help = "Attempts settled at no charge, because their allowance had been released.";
    page.total("lumbung_uncovered_attempts", help, meter.uncovered.get())?;
    page.number("lumbung_lease_valid", "Whether this gateway may spend.", gateway.lease.is_valid().into())?;
    let (accounts, free) = gateway.allowances.free();
    let help = "Nano-dollars that are reserved here and not held for a job.";
    page.number("lumbung_allowances_free_nano_usd", help, free.nanos())?;
    page.number("lumbung_allowances", "Accounts that have something reserved here.", signed(accounts))?;
    let help = "Background work on the books that did not go through, by which.";
    page.counter("lumbung_background_failures", help, tally(&meter.background_failures, "work"))
}
