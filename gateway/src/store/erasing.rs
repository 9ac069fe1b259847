//! Erasing what is personal of an account, or of a provider. What the books need to stay right and to be audited stays,
//! under the opaque id: ledger entries, usage in figures, attempts and their signed proofs, who acted when.

use lumbung_openapi::merkle::Hash;
use lumbung_openapi::money::NanoUsd;
use serde_json::Value;
use sqlx::{AnyConnection, Row};

use super::act::{Act, ActRequest, Begun};
use super::audit::AuditLine;
use super::mature::turn;
use super::{Result, Store, StoreError, accounts, bump_epoch, ledger, lock, promotional, providers, sql};
use crate::domain::ids::{AccountId, ProviderId};
use crate::domain::posting::{LedgerId, Posting, PostingKind};
use crate::domain::role::{Actor, Role};

/// What a reference begins with once only its SHA-256 is left: whoever has the payment's papers still finds it.
const ERASED: &str = "erased:";

/// What becomes of credit that an erased account has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// What was paid for is paid back, outside these books.
    Refund,
    /// The operator keeps it.
    Forfeit,
}

/// What was erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// Unix microseconds.
    pub at_us: i64,
    /// How many rows of what: those from which something was taken, or that went altogether.
    pub rows: Vec<(&'static str, i64)>,
    /// Paid credit that goes back to the client.
    pub refunded: NanoUsd,
    /// Paid credit that became revenue.
    pub forfeited: NanoUsd,
    /// Credit that was given away, and is taken back.
    pub lapsed: NanoUsd,
}

impl Store {
    /// What [`Act::erase_account`] does, from the command line: with a line in the audit log.
    pub async fn erase_account(&self, id: &AccountId, leftover: Option<Leftover>) -> Result<Erasure> {
        sql::retrying(|| async {
            let mut act = self.command_line_act("accounts erase").await?;
            let erasure = act.erase_account(id, leftover).await?;
            act.finish(200, &id.to_string(), "").await?;
            Ok(erasure)
        })
        .await
    }

    /// What [`Act::erase_provider`] does, from the command line: with a line in the audit log.
    pub async fn erase_provider(&self, id: &ProviderId) -> Result<Erasure> {
        sql::retrying(|| async {
            let mut act = self.command_line_act("providers erase").await?;
            let erasure = act.erase_provider(id).await?;
            act.finish(200, id.as_str(), "").await?;
            Ok(erasure)
        })
        .await
    }

    async fn command_line_act(&self, command: &str) -> Result<Box<Act>> {
        let actor = Actor { subject: "command line".into(), issuer: "lumbung-gateway".into(), role: Role::Admin };
        let [resource, request_id, idempotency_key] = std::array::from_fn(|_| String::new());
        let (method, route) = ("CLI".to_owned(), command.to_owned());
        let line = AuditLine { actor, method, route, resource, status: 0, request_id, idempotency_key };
        match self.begin(ActRequest { line, fingerprint: Hash::of(command.as_bytes()) }).await? {
            Begun::Fresh(act) => Ok(act),
            Begun::Done(_) | Begun::AnotherRequest => Err(StoreError::corrupt("an act without a key was done before")),
        }
    }
}

impl Act {
    /// Erases what is personal of an account, and closes it. Doing it again takes what has come since. Fails with `Missing`
    /// if there is no such account, and with `Conflict` while money of it is set aside at a gateway (requests may be running),
    /// or where credit is left and `leftover` does not say what becomes of it.
    pub async fn erase_account(&mut self, id: &AccountId, leftover: Option<Leftover>) -> Result<Erasure> {
        let (own, text) = (self.key(), id.to_string());
        let (connection, clock) = self.parts();
        // Whoever writes something personal holds one of these locks: keys, limits and the name the epoch's or the account's,
        // a threshold that of webhooks, a payment's reference that of the credit.
        bump_epoch(connection).await?;
        lock(connection, "webhooks").await?;
        let mark = format!(
            "UPDATE accounts SET closed_at = COALESCE(closed_at, {clock}), erased_at = COALESCE(erased_at, {clock})
             WHERE id = $1 RETURNING {clock}"
        );
        let marked = sql::query(mark).bind(text.as_str()).fetch_optional(&mut *connection).await?;
        let at_us: i64 = marked.ok_or(StoreError::Missing("account"))?.try_get(0)?;
        let (refunded, forfeited, lapsed) = settle_credit(connection, clock, id, leftover).await?;

        let keys = "SELECT id FROM api_keys WHERE account = $1";
        let mut taken = Taken { connection, id: &text, rows: Vec::new() };
        taken.by("name", "UPDATE accounts SET name = '' WHERE id = $1 AND name <> ''").await?;
        taken.by("limits", &format!("DELETE FROM limits WHERE owner = $1 OR owner IN ({keys})")).await?;
        let revoke = format!(
            "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, {clock}), sha256 = '{ERASED}' || id, shown_prefix = '',
                 label = '' WHERE account = $1 AND sha256 <> '{ERASED}' || id"
        );
        taken.by("api_keys", &revoke).await?;
        taken.by("responses", "DELETE FROM responses WHERE account = $1").await?;
        taken.by("low_balance", "DELETE FROM low_balance WHERE account = $1").await?;
        let decisions = "SELECT id FROM promotional_decisions WHERE account = $1";
        let reasons = "UPDATE promotional_decisions SET reason = '' WHERE account = $1 AND reason <> ''";
        taken.by("decision_reasons", reasons).await?;
        taken.calls(&format!("{keys} UNION ALL {decisions}"), &own).await?;
        let references = "SELECT DISTINCT p.id, p.reference FROM entries e JOIN postings p ON p.id = e.posting
             WHERE e.account = 'credit:' || $1 AND e.account LIKE 'credit:%' AND p.reference <> ''
               AND p.kind IN ('credit_paid', 'credit_promotional', 'refund')";
        taken.references("payment_references", references, "UPDATE postings SET reference = $2 WHERE id = $1").await?;
        let erasure = Erasure { at_us, rows: taken.rows, refunded, forfeited, lapsed };
        self.note_erasure(&erasure);
        Ok(erasure)
    }

    /// Erases what is personal of a provider: where it was paid, and what was written about it. Its standing stays. Doing it
    /// again takes what has come since. Fails with `Missing` if it never joined, and with `Conflict` while it has earnings
    /// that are not paid out, or a payout on its way.
    pub async fn erase_provider(&mut self, id: &ProviderId) -> Result<Erasure> {
        let own = self.key();
        let (connection, clock) = self.parts();
        let at_us = turn(connection, clock).await?;
        // The provider's row is the lock of its payout details.
        let hold = "UPDATE providers SET first_seen = first_seen WHERE id = $1";
        sqlx::query(hold).bind(id.as_str()).execute(&mut *connection).await?;
        providers::read(connection, id).await?;
        is_paid(connection, id).await?;

        let mut taken = Taken { connection, id: id.as_str(), rows: Vec::new() };
        taken.by("payout_details", "DELETE FROM payout_details WHERE provider = $1").await?;
        taken.by("payouts", "UPDATE payouts SET details = '' WHERE provider = $1 AND details <> ''").await?;
        let told = "UPDATE clawbacks SET reason = '', evidence = '' WHERE provider = $1 AND reason || evidence <> ''";
        taken.by("clawback_reasons", told).await?;
        let reasons = "UPDATE promotional_decisions SET reason = '' WHERE provider = $1 AND reason <> ''";
        taken.by("decision_reasons", reasons).await?;
        let about = ["payouts", "clawbacks", "promotional_decisions"];
        let about = about.map(|table| format!("SELECT id FROM {table} WHERE provider = $1"));
        taken.calls(&about.join(" UNION ALL "), &own).await?;
        taken.events().await?;
        let references = "SELECT id, reference FROM payouts WHERE provider = $1 AND reference <> ''";
        taken.references("payout_references", references, "UPDATE payouts SET reference = $2 WHERE id = $1").await?;
        let none = NanoUsd::ZERO;
        let erasure = Erasure { at_us, rows: taken.rows, refunded: none, forfeited: none, lapsed: none };
        self.note_erasure(&erasure);
        Ok(erasure)
    }

    /// The audit log says what kinds and how many rows, and nothing of what was in them.
    fn note_erasure(&mut self, erasure: &Erasure) {
        let rows: serde_json::Map<String, Value> =
            erasure.rows.iter().map(|(kind, count)| ((*kind).to_owned(), (*count).into())).collect();
        let Erasure { refunded, forfeited, lapsed, .. } = erasure;
        let detail = serde_json::json!({ "erased_rows": rows, "refunded_usd": refunded, "forfeited_usd": forfeited,
                                         "lapsed_usd": lapsed });
        self.note(detail.to_string());
    }
}

/// Refuses what was credited, or refunded, under a reference of which only the hash is left.
pub(super) async fn not_again(
    connection: &mut AnyConnection,
    kind: PostingKind,
    reference: &str,
    refusal: &'static str,
) -> Result<()> {
    if reference.is_empty() {
        return Ok(());
    }
    // As the unique indexes have it: a payment is credited once, paid for or given; a refund is paid once.
    let kinds = match kind {
        PostingKind::Refund => "kind = 'refund'",
        _ => "kind IN ('credit_paid', 'credit_promotional')",
    };
    let known = format!("SELECT id FROM postings WHERE reference = $1 AND reference <> '' AND {kinds} LIMIT 1");
    match sql::query(known).bind(hashed(reference)).fetch_optional(connection).await? {
        Some(_) => Err(StoreError::Conflict(refusal.into())),
        None => Ok(()),
    }
}

fn hashed(reference: &str) -> String {
    format!("{ERASED}{}", Hash::of(reference.as_bytes()))
}

fn is_hashed(reference: &str) -> bool {
    reference.strip_prefix(ERASED).is_some_and(|hash| hash.parse::<Hash>().is_ok())
}

/// Settles the credit that an account has left; what is refunded, forfeited, and lapsed of it.
async fn settle_credit(
    connection: &mut AnyConnection,
    clock: &str,
    id: &AccountId,
    leftover: Option<Leftover>,
) -> Result<(NanoUsd, NanoUsd, NanoUsd)> {
    let (none, credit) = (NanoUsd::ZERO, LedgerId::credit(*id));
    ledger::lock_credit(connection, &credit).await?;
    promotional::lock(connection, id).await?;
    let has = accounts::balance(connection, id).await?;
    if has.allowances > none {
        let why = format!(
            "${} of the account's credit is set aside at gateways, where requests may be running. Close the account; what is \
             not used comes back within a minute or so, and what a gateway that died had within the time for claims",
            has.allowances
        );
        return Err(StoreError::Conflict(why.into()));
    }
    if has.credit == none {
        return Ok((none, none, none));
    }
    let paid = has.credit.checked_sub(has.promotional).ok_or(StoreError::corrupt("a balance overflows"))?;
    let Some(leftover) = leftover else {
        let why = format!(
            "${} of credit is left, ${} of it paid for: say in 'balance' whether that is to be refunded or forfeited",
            has.credit, paid
        );
        return Err(StoreError::Conflict(why.into()));
    };
    let take = "UPDATE ledger_accounts SET balance = balance - $2 WHERE id = $1";
    sqlx::query(take).bind(credit.as_str()).bind(has.credit.nanos()).execute(&mut *connection).await?;
    let lapse = "UPDATE promotional_credit SET remaining = 0 WHERE account = $1";
    sqlx::query(lapse).bind(id.to_string()).execute(&mut *connection).await?;
    let (kind, to) = match leftover {
        Leftover::Refund => (PostingKind::Refund, LedgerId::outside()),
        Leftover::Forfeit => (PostingKind::Forfeit, LedgerId::revenue()),
    };
    let moved = [(kind, to, paid), (PostingKind::PromotionalLapsed, LedgerId::outside(), has.promotional)];
    let moved = moved.into_iter().filter(|(_, _, amount)| *amount > none);
    let postings = moved.map(|(kind, to, amount)| Posting::from_source(kind, "", credit.clone(), [(to, amount)]));
    let postings: Option<Vec<Posting>> = postings.collect();
    ledger::write(connection, clock, &postings.ok_or(StoreError::Invalid("more money than 64 bits hold"))?).await?;
    Ok(match leftover {
        Leftover::Refund => (paid, none, has.promotional),
        Leftover::Forfeit => (none, paid, has.promotional),
    })
}

/// Whether a provider is owed nothing. What is in the way is named.
async fn is_paid(connection: &mut AnyConnection, id: &ProviderId) -> Result<()> {
    let select = "SELECT CAST(COALESCE((SELECT SUM(balance) FROM ledger_accounts WHERE id = $1), 0)
                            + COALESCE((SELECT SUM(amount) FROM unrolled WHERE account = $1), 0) AS BIGINT)";
    let mut owed = Vec::new();
    for (account, what) in [
        (LedgerId::provider_pending(id), "is held back (claw it back, or wait until it can be paid)"),
        (LedgerId::provider_promotional(id), "waits for a decision about promotional credit"),
        (LedgerId::provider_payable(id), "is payable (pay it out)"),
    ] {
        let row = sqlx::query(select).bind(account.as_str()).fetch_one(&mut *connection).await?;
        let amount = NanoUsd::from_nanos(row.try_get(0)?);
        if amount != NanoUsd::ZERO {
            owed.push(format!("${amount} {what}"));
        }
    }
    let select =
        "SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM payouts WHERE provider = $1 AND state = 'in_transit'";
    let row = sqlx::query(select).bind(id.as_str()).fetch_one(&mut *connection).await?;
    let amount = NanoUsd::from_nanos(row.try_get(0)?);
    if amount > NanoUsd::ZERO {
        owed.push(format!("${amount} is on its way (confirm or reverse the payout)"));
    }
    match owed.is_empty() {
        true => Ok(()),
        false => Err(StoreError::Conflict(format!("the provider is owed money: {}", owed.join("; ")).into())),
    }
}

/// What has been taken so far, of whom.
struct Taken<'a> {
    connection: &'a mut AnyConnection,
    id: &'a str,
    rows: Vec<(&'static str, i64)>,
}

impl Taken<'_> {
    /// Runs a statement whose `$1` is the owner's id, and counts its rows.
    async fn by(&mut self, kind: &'static str, statement: &str) -> Result<()> {
        let done = sql::query(statement.to_owned()).bind(self.id).execute(&mut *self.connection).await?;
        self.rows.push((kind, i64::try_from(done.rows_affected()).unwrap_or(i64::MAX)));
        Ok(())
    }

    /// Forgets what operators' calls about the owner were answered, and the idempotency keys that their callers chose; not
    /// `own`, the call that is being answered. `owned`: selects the ids of what belongs to the owner, `$1`.
    async fn calls(&mut self, owned: &str, own: &(String, String)) -> Result<()> {
        let about = format!("idempotency_key <> '' AND (resource = $1 OR resource IN ({owned}))");
        let forget = format!(
            "DELETE FROM idempotency_keys WHERE (scope, idempotency_key) IN
                 (SELECT issuer || ' ' || subject, idempotency_key FROM audit_log WHERE {about})
             AND NOT (scope = $2 AND idempotency_key = $3)"
        );
        let forget = sql::query(forget).bind(self.id).bind(own.0.as_str()).bind(own.1.as_str());
        let forgotten = forget.execute(&mut *self.connection).await?.rows_affected();
        self.rows.push(("stored_answers", i64::try_from(forgotten).unwrap_or(i64::MAX)));
        self.by("audit_keys", &format!("UPDATE audit_log SET idempotency_key = '' WHERE {about}")).await
    }

    /// Leaves of references, which may name people, their hashes. `select` yields ids and references of the owner, `$1`.
    async fn references(&mut self, kind: &'static str, select: &str, update: &str) -> Result<()> {
        let found = sql::query(select.to_owned()).bind(self.id).fetch_all(&mut *self.connection).await?;
        let mut count = 0;
        for row in &found {
            let (id, reference): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            if is_hashed(&reference) {
                continue;
            }
            let update = sql::query(update.to_owned()).bind(id).bind(hashed(&reference));
            update.execute(&mut *self.connection).await?;
            count += 1;
        }
        self.rows.push((kind, count));
        Ok(())
    }

    /// Takes payouts' references out of what the operator's systems are told of them. The events stay until they are
    /// forgotten: without them the payouts would be told again.
    async fn events(&mut self) -> Result<()> {
        let select =
            "SELECT e.id, e.body FROM payouts p JOIN webhook_events e ON e.source = 'payout.confirmed ' || p.id
                      WHERE p.provider = $1";
        let found = sqlx::query(select).bind(self.id).fetch_all(&mut *self.connection).await?;
        let mut count = 0;
        for row in &found {
            let (id, body): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            let mut body: Value =
                serde_json::from_str(&body).map_err(|_| StoreError::corrupt("an event is malformed"))?;
            if body["data"]["reference"] == "" {
                continue;
            }
            body["data"]["reference"] = "".into();
            let update = sqlx::query("UPDATE webhook_events SET body = $2 WHERE id = $1").bind(id);
            update.bind(body.to_string()).execute(&mut *self.connection).await?;
            count += 1;
        }
        self.rows.push(("event_references", count));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_hashed_once() {
        let once = hashed("payment of Ana");
        assert!(is_hashed(&once) && !once.contains("Ana"));
        for other in ["", "erased:", "erased:Ana", "payment"] {
            assert!(!is_hashed(other), "{other}");
        }
    }
}
