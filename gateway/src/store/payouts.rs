//! Payout runs: each takes what its providers can be paid and sends it on its way; the operator then says of each payout
//! that it has arrived, or takes it back.

use std::time::Duration;

use lumbung_openapi::money::NanoUsd;
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::mature::turn;
use super::sql::{MAX_ROWS, query, rows_of};
use super::{Result, Store, StoreError, ledger, micros, sql};
use crate::domain::ids::{PayoutId, PayoutRunId, ProviderId};
use crate::domain::posting::{LedgerId, LedgerKind, Posting, PostingKind};

/// Bytes of a reference at most.
const MAX_REFERENCE: usize = 200;

/// How far a payout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PayoutState {
    /// Sent, not known to have arrived.
    InTransit,
    /// Arrived.
    Confirmed,
    /// Taken back: payable again.
    Reversed,
}

/// One provider's payout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Payout {
    /// Its id.
    pub id: PayoutId,
    /// The run that it belongs to.
    pub run: PayoutRunId,
    /// Who is paid.
    pub provider: ProviderId,
    /// How much.
    #[serde(rename = "amount_usd")]
    pub amount: NanoUsd,
    /// Where to, as the provider signed.
    pub details: String,
    /// Which version of its details that was.
    pub details_version: i64,
    /// How far it is.
    pub state: PayoutState,
    /// What the operator confirmed it with, such as a transfer's id.
    pub reference: String,
    /// Unix microseconds.
    pub created_at_us: i64,
    /// When it was confirmed or reversed, Unix microseconds.
    pub decided_at_us: Option<i64>,
}

/// A payout run without its payouts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PayoutRun {
    /// Its id.
    pub id: PayoutRunId,
    /// The operator's reference; empty if there is none.
    pub reference: String,
    /// Who could be paid less was left out.
    #[serde(rename = "minimum_usd")]
    pub minimum: NanoUsd,
    /// Unix microseconds.
    pub created_at_us: i64,
    /// How many payouts it holds.
    pub payouts: i64,
    /// What they come to.
    #[serde(rename = "total_usd")]
    pub total: NanoUsd,
}

/// What a run takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayoutTerms {
    /// Providers that can be paid less are left out.
    pub minimum: NanoUsd,
    /// Providers whose details changed less than this ago are left out.
    pub cooldown: Duration,
    /// The same one does not run twice: the run that bears it is returned. An empty one is not compared.
    pub reference: String,
}

impl PayoutState {
    /// As the books name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InTransit => "in_transit",
            Self::Confirmed => "confirmed",
            Self::Reversed => "reversed",
        }
    }
}

impl Store {
    /// Sends everything payable on its way, in one transaction: of providers that are not banned, have said where to, and
    /// can be paid at least the minimum. Fails with `Invalid` for a minimum that is not above zero.
    pub async fn create_payouts(&self, terms: &PayoutTerms) -> Result<PayoutRun> {
        sql::retrying(|| async {
            let mut tx = self.transaction().await?;
            let run = create(&mut tx, &self.clock(), terms).await?;
            tx.commit().await?;
            Ok(run)
        })
        .await
    }

    /// One run. Fails with `Missing` if there is none.
    pub async fn payout_run(&self, id: &PayoutRunId) -> Result<PayoutRun> {
        read_run(&mut *self.reader.acquire().await?, id).await
    }

    /// Every run, latest first; a thousand at most.
    pub async fn payout_runs(&self) -> Result<Vec<PayoutRun>> {
        let select = format!("{RUNS} ORDER BY r.created_at DESC, r.id DESC LIMIT 1000");
        query(select).fetch_all(&self.reader).await?.iter().map(run).collect()
    }

    /// Runs after the one with this id, by id.
    pub async fn payout_runs_after(&self, after: &str, limit: i64) -> Result<Vec<PayoutRun>> {
        let select = format!("{RUNS} WHERE r.id > $1 ORDER BY r.id LIMIT $2");
        query(select).bind(after).bind(limit).fetch_all(&self.reader).await?.iter().map(run).collect()
    }

    /// The payouts of a run, by provider. Fails with `Missing` if there is no such run.
    pub async fn payouts_of(&self, id: &PayoutRunId) -> Result<Vec<Payout>> {
        self.payout_run(id).await?;
        let select = format!("SELECT {COLUMNS} FROM payouts WHERE run = $1 ORDER BY provider");
        query(select).bind(id.to_string()).fetch_all(&self.reader).await?.iter().map(payout).collect()
    }

    /// Every payout to a provider, in the order in which they went out.
    pub(super) async fn payouts_to(&self, provider: &ProviderId) -> Result<Vec<Payout>> {
        let select = format!("SELECT {COLUMNS} FROM payouts WHERE provider = $1 ORDER BY created_at");
        query(select).bind(provider.as_str()).fetch_all(&self.reader).await?.iter().map(payout).collect()
    }

    /// One payout. Fails with `Missing` if there is none.
    pub async fn payout(&self, id: &PayoutId) -> Result<Payout> {
        read(&mut *self.reader.acquire().await?, id).await
    }

    /// A payout has arrived. With the same reference again nothing changes; fails with `Conflict` if it was confirmed with
    /// another one, or reversed.
    pub async fn confirm_payout(&self, id: &PayoutId, reference: &str) -> Result<Payout> {
        self.decide_payout(id, Outcome::Confirmed(reference)).await
    }

    /// A payout has not arrived and will not: the money is payable again. Repeating it changes nothing; fails with
    /// `Conflict` if it has been confirmed.
    pub async fn reverse_payout(&self, id: &PayoutId) -> Result<Payout> {
        self.decide_payout(id, Outcome::Reversed).await
    }

    async fn decide_payout(&self, id: &PayoutId, outcome: Outcome<'_>) -> Result<Payout> {
        sql::retrying(|| async {
            let mut tx = self.transaction().await?;
            let payout = decide(&mut tx, &self.clock(), id, outcome).await?;
            tx.commit().await?;
            Ok(payout)
        })
        .await
    }
}

/// What became of a payout.
#[derive(Clone, Copy)]
pub(super) enum Outcome<'a> {
    /// It has arrived, as this reference shows.
    Confirmed(&'a str),
    /// It will not arrive.
    Reversed,
}

/// Makes a run within a transaction: see [`Store::create_payouts`].
pub(super) async fn create(connection: &mut AnyConnection, clock: &str, terms: &PayoutTerms) -> Result<PayoutRun> {
    if terms.minimum <= NanoUsd::ZERO {
        return Err(StoreError::Invalid("the minimum of a payout must be above zero"));
    }
    valid_reference(&terms.reference)?;
    let now_us = turn(connection, clock).await?;
    if let Some(known) = run_with(connection, &terms.reference).await? {
        return read_run(connection, &known).await;
    }
    let id = PayoutRunId::fresh();
    let insert = "INSERT INTO payout_runs (id, reference, minimum, created_at) VALUES ($1, $2, $3, $4)";
    sqlx::query(insert)
        .bind(id.to_string())
        .bind(terms.reference.as_str())
        .bind(terms.minimum.nanos())
        .bind(now_us)
        .execute(&mut *connection)
        .await?;
    let payees = payees(connection, terms.minimum, now_us.saturating_sub(micros(terms.cooldown))).await?;
    for chunk in payees.chunks(MAX_ROWS) {
        send(connection, clock, id, now_us, terms.minimum, chunk).await?;
    }
    read_run(connection, &id).await
}

/// Decides within a transaction what became of a payout: see [`Store::confirm_payout`] and [`Store::reverse_payout`].
pub(super) async fn decide(
    connection: &mut AnyConnection,
    clock: &str,
    id: &PayoutId,
    outcome: Outcome<'_>,
) -> Result<Payout> {
    let (state, reference) = match outcome {
        Outcome::Confirmed("") => return Err(StoreError::Invalid("a payout is confirmed with a reference")),
        Outcome::Confirmed(reference) => (PayoutState::Confirmed, reference),
        Outcome::Reversed => (PayoutState::Reversed, ""),
    };
    valid_reference(reference)?;
    let now_us = turn(connection, clock).await?;
    let update = "UPDATE payouts SET state = $2, reference = $3, decided_at = $4 WHERE id = $1 AND state = 'in_transit'
                  RETURNING provider, amount";
    let update = sqlx::query(update).bind(id.to_string()).bind(state.as_str()).bind(reference).bind(now_us);
    let Some(row) = update.fetch_optional(&mut *connection).await? else {
        return decided_before(read(connection, id).await?, state, reference);
    };
    let provider: ProviderId = parse(row.try_get(0)?)?;
    let (sent, amount) = (LedgerId::payout(*id), NanoUsd::from_nanos(row.try_get(1)?));
    let take = "UPDATE ledger_accounts SET balance = balance - $2 WHERE id = $1";
    sqlx::query(take).bind(sent.as_str()).bind(amount.nanos()).execute(&mut *connection).await?;
    let (kind, to) = match outcome {
        Outcome::Confirmed(_) => (PostingKind::PayoutConfirmed, LedgerId::outside()),
        Outcome::Reversed => {
            let payable = LedgerId::provider_payable(&provider);
            ledger::add_payable(connection, &payable, amount).await?;
            (PostingKind::PayoutReversed, payable)
        }
    };
    let posting = Posting::from_source(kind, id.to_string(), sent, [(to, amount)])
        .ok_or(StoreError::Invalid("more money than 64 bits hold"))?;
    ledger::write(connection, clock, &[posting]).await?;
    read(connection, id).await
}

/// Whether what was decided before is what is asked for now.
fn decided_before(known: Payout, state: PayoutState, reference: &str) -> Result<Payout> {
    match known.state {
        same if same == state && known.reference == reference => Ok(known),
        PayoutState::Confirmed => Err(StoreError::Conflict("the payout has been confirmed".into())),
        PayoutState::Reversed => Err(StoreError::Conflict("the payout has been reversed".into())),
        PayoutState::InTransit => Err(StoreError::Conflict("the payout is still in transit".into())),
    }
}

async fn read_run(connection: &mut AnyConnection, id: &PayoutRunId) -> Result<PayoutRun> {
    let row = query(format!("{RUNS} WHERE r.id = $1")).bind(id.to_string()).fetch_optional(connection).await?;
    run(&row.ok_or(StoreError::Missing("payout run"))?)
}

async fn read(connection: &mut AnyConnection, id: &PayoutId) -> Result<Payout> {
    let select = format!("SELECT {COLUMNS} FROM payouts WHERE id = $1");
    let row = query(select).bind(id.to_string()).fetch_optional(connection).await?;
    payout(&row.ok_or(StoreError::Missing("payout"))?)
}

/// Who is to be paid, and where to.
struct Payee {
    provider: ProviderId,
    details: String,
    version: i64,
}

/// The run that bears this reference.
async fn run_with(connection: &mut AnyConnection, reference: &str) -> Result<Option<PayoutRunId>> {
    if reference.is_empty() {
        return Ok(None);
    }
    let select = "SELECT id FROM payout_runs WHERE reference = $1";
    let row = sqlx::query(select).bind(reference).fetch_optional(connection).await?;
    row.map(|row| parse(row.try_get(0)?)).transpose()
}

/// Who can be paid, by provider.
async fn payees(connection: &mut AnyConnection, minimum: NanoUsd, details_before_us: i64) -> Result<Vec<Payee>> {
    let select = "SELECT p.id, d.details, d.version FROM ledger_accounts l
            JOIN providers p ON p.id = l.owner AND p.standing <> 'banned'
            JOIN payout_details d ON d.provider = p.id AND d.set_at <= $2
                AND d.version = (SELECT MAX(version) FROM payout_details WHERE provider = p.id)
        WHERE l.kind = 'provider_payable' AND l.balance >= $1 ORDER BY p.id";
    let rows = sqlx::query(select).bind(minimum.nanos()).bind(details_before_us).fetch_all(connection).await?;
    let payee = |row: &AnyRow| {
        Ok(Payee { provider: parse(row.try_get(0)?)?, details: row.try_get(1)?, version: row.try_get(2)? })
    };
    rows.iter().map(payee).collect()
}

/// Takes each payee's payable balance, writes its payout down, and posts it.
async fn send(
    connection: &mut AnyConnection,
    clock: &str,
    run: PayoutRunId,
    now_us: i64,
    minimum: NanoUsd,
    payees: &[Payee],
) -> Result<()> {
    let mut take = query(format!(
        "WITH payee(id, least) AS (VALUES {})
         UPDATE ledger_accounts SET last_move = balance, balance = 0 FROM payee
         WHERE ledger_accounts.id = payee.id AND balance >= payee.least RETURNING owner, last_move",
        rows_of(2, payees.len(), 1)
    ));
    for payee in payees {
        take = take.bind(LedgerId::provider_payable(&payee.provider).as_str().to_owned()).bind(minimum.nanos());
    }
    let mut sent = std::collections::HashMap::new();
    for row in take.fetch_all(&mut *connection).await? {
        sent.insert(row.try_get::<String, _>(0)?, NanoUsd::from_nanos(row.try_get(1)?));
    }
    let payouts: Vec<(PayoutId, &Payee, NanoUsd)> = payees
        .iter()
        .filter_map(|payee| sent.get(payee.provider.as_str()).map(|amount| (PayoutId::fresh(), payee, *amount)))
        .collect();
    if payouts.is_empty() {
        return Ok(());
    }
    let mut open = query(format!(
        "INSERT INTO ledger_accounts (id, kind, owner, balance) VALUES {}",
        rows_of(4, payouts.len(), 1)
    ));
    let mut insert = query(format!(
        "INSERT INTO payouts (id, run, provider, amount, details, details_version, state, created_at) VALUES {}",
        rows_of(8, payouts.len(), 1)
    ));
    let mut postings = Vec::with_capacity(payouts.len());
    for (id, payee, amount) in &payouts {
        let to = LedgerId::payout(*id);
        open = open.bind(to.as_str().to_owned()).bind(LedgerKind::Payout.as_str()).bind(id.to_string());
        open = open.bind(amount.nanos());
        insert = insert.bind(id.to_string()).bind(run.to_string()).bind(payee.provider.as_str()).bind(amount.nanos());
        insert = insert.bind(payee.details.as_str()).bind(payee.version);
        insert = insert.bind(PayoutState::InTransit.as_str()).bind(now_us);
        let payable = LedgerId::provider_payable(&payee.provider);
        let posting = Posting::from_source(PostingKind::Payout, id.to_string(), payable, [(to, *amount)]);
        postings.push(posting.ok_or(StoreError::Invalid("more money than 64 bits hold"))?);
    }
    open.execute(&mut *connection).await?;
    insert.execute(&mut *connection).await?;
    ledger::write(connection, clock, &postings).await
}

const RUNS: &str = "SELECT r.id, r.reference, r.minimum, r.created_at,
        (SELECT COUNT(*) FROM payouts p WHERE p.run = r.id),
        CAST(COALESCE((SELECT SUM(p.amount) FROM payouts p WHERE p.run = r.id), 0) AS BIGINT)
    FROM payout_runs r";

const COLUMNS: &str = "id, run, provider, amount, details, details_version, state, reference, created_at, decided_at";

fn valid_reference(reference: &str) -> Result<()> {
    match reference.len() > MAX_REFERENCE || reference.chars().any(char::is_control) {
        true => Err(StoreError::Invalid("a reference must be one line of 200 bytes at most")),
        false => Ok(()),
    }
}

fn run(row: &AnyRow) -> Result<PayoutRun> {
    Ok(PayoutRun {
        id: parse(row.try_get(0)?)?,
        reference: row.try_get(1)?,
        minimum: NanoUsd::from_nanos(row.try_get(2)?),
        created_at_us: row.try_get(3)?,
        payouts: row.try_get(4)?,
        total: NanoUsd::from_nanos(row.try_get(5)?),
    })
}

fn payout(row: &AnyRow) -> Result<Payout> {
    let state: String = row.try_get(6)?;
    let state = [PayoutState::InTransit, PayoutState::Confirmed, PayoutState::Reversed]
        .into_iter()
        .find(|known| known.as_str() == state);
    Ok(Payout {
        id: parse(row.try_get(0)?)?,
        run: parse(row.try_get(1)?)?,
        provider: parse(row.try_get(2)?)?,
        amount: NanoUsd::from_nanos(row.try_get(3)?),
        details: row.try_get(4)?,
        details_version: row.try_get(5)?,
        state: state.ok_or(StoreError::corrupt("a payout's state is malformed"))?,
        reference: row.try_get(7)?,
        created_at_us: row.try_get(8)?,
        decided_at_us: row.try_get(9)?,
    })
}

fn parse<T: std::str::FromStr>(text: String) -> Result<T> {
    text.parse().map_err(|_| StoreError::corrupt("an id is malformed"))
}
