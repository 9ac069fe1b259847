//! The network's own keys: HMAC for tickets, Ed25519 for settlement roots. Shared by all gateways on one database.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::JwkSet;
use lumbung_openapi::jws::{HmacKey, SigningKey, key_id};
use lumbung_openapi::receipt::{Receipt, RootClaims, SETTLEMENTS_TYP};
use lumbung_openapi::ticket::{TICKET_TYP, Ticket};
use lumbung_openapi::voucher::{VOUCHER_TYP, Voucher};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::{AnyConnection, Row};
use tokio::sync::Mutex;
use tokio::time::Instant;
use ulid::Ulid;

use super::{Result, Store, StoreError, bump_epoch, lock, sql};
use crate::domain::backing::Backing;
use crate::domain::refusal::Refusal;

/// Reading again what was just read is waited with as long as this: whoever shows unknown keys does not keep the books busy.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Every key of the network, as the books had them last. The newest of each kind signs; all of them verify. Clones share
/// what is known: when one reads again, all of them follow.
#[derive(Clone)]
pub struct SigningKeys {
    known: Arc<ArcSwap<Known>>,
    /// When it was last read again, by its beginning.
    read_at: Arc<Mutex<Option<Instant>>>,
}

/// Keys with their ids, the newest first; at least one of each kind.
struct Known {
    tickets: Vec<(String, HmacKey)>,
    settlements: Vec<(String, SigningKey)>,
}

impl SigningKeys {
    /// Keys with their ids, the newest of each kind first; `None` where a kind has none.
    pub fn of(tickets: Vec<(String, HmacKey)>, settlements: Vec<(String, SigningKey)>) -> Option<Self> {
        let is_whole = !tickets.is_empty() && !settlements.is_empty();
        let known = Arc::new(ArcSwap::from_pointee(Known { tickets, settlements }));
        is_whole.then(|| Self { known, read_at: Arc::default() })
    }

    /// Ids of the keys that sign: the secret one's, and the one's whose public half is published.
    pub fn ids(&self) -> (String, String) {
        let known = self.known.load();
        (known.tickets[0].0.clone(), known.settlements[0].0.clone())
    }

    /// Signs claims for `typ` with the newest secret: for these gateways' own eyes.
    pub fn sign<T: Serialize>(&self, typ: &str, claims: &T) -> String {
        let known = self.known.load();
        let (kid, key) = &known.tickets[0];
        key.sign(typ, kid, claims)
    }

    /// Signs claims for `typ` with the newest of the keys whose public halves are published: for everybody.
    pub fn sign_publicly<T: Serialize>(&self, typ: &str, claims: &T) -> String {
        let known = self.known.load();
        let (kid, key) = &known.settlements[0];
        key.sign_with_kid(typ, kid, claims)
    }

    /// The claims of a text that one of these gateways signed for `typ` with a secret of theirs.
    pub fn verify<T: DeserializeOwned>(&self, typ: &str, text: &str) -> Option<T> {
        let kid = key_id(text).ok()?;
        let known = self.known.load();
        let (_, key) = known.tickets.iter().find(|(id, _)| *id == kid)?;
        key.verify(typ, text).ok()
    }

    /// Whether the text names a secret key that is known here.
    fn knows(&self, text: &str) -> bool {
        key_id(text).is_ok_and(|kid| self.known.load().tickets.iter().any(|(id, _)| *id == kid))
    }

    /// Signs a ticket.
    pub fn sign_ticket(&self, ticket: &Ticket) -> String {
        self.sign(TICKET_TYP, ticket)
    }

    /// A ticket's claims, if one of these keys signed it.
    pub fn verify_ticket(&self, text: &str) -> std::result::Result<Ticket, Refusal> {
        self.verify(TICKET_TYP, text).ok_or(Refusal::NoTicket)
    }

    /// Signs a voucher.
    pub fn sign_voucher(&self, voucher: &Voucher) -> String {
        self.sign(VOUCHER_TYP, voucher)
    }

    /// Whether a receipt's ticket and voucher name keys that are known here.
    pub fn know_those_of(&self, receipt: &Receipt) -> bool {
        self.knows(&receipt.ticket) && receipt.voucher.as_deref().is_none_or(|voucher| self.knows(voucher))
    }

    /// What a receipt rests on: its ticket and its voucher, if one of these keys signed them.
    pub fn backing(&self, receipt: &Receipt) -> std::result::Result<Backing, Refusal> {
        let ticket = self.verify_ticket(&receipt.ticket)?;
        let voucher = receipt.voucher.as_deref().map(|text| self.verify_voucher(text)).transpose()?;
        Backing::of(ticket, voucher.as_ref())
    }

    fn verify_voucher(&self, text: &str) -> std::result::Result<Voucher, Refusal> {
        self.verify(VOUCHER_TYP, text).ok_or(Refusal::NoVoucher)
    }

    /// Signs the claims of a root over settlement records.
    pub fn sign_settlements(&self, claims: &RootClaims) -> String {
        self.sign_publicly(SETTLEMENTS_TYP, claims)
    }

    /// The public keys that settlement roots verify with, retired ones included.
    pub fn published(&self) -> JwkSet {
        let jwk = |(kid, key): &(String, SigningKey)| key.public().to_jwk(Some(kid.clone()));
        JwkSet { keys: self.known.load().settlements.iter().map(jwk).collect() }
    }

    /// Takes over what the books have by now: for whoever met a key that is not known here. What another caller has read
    /// since this call began serves too.
    pub async fn read_again(&self, store: &Store) -> Result<()> {
        let asked = Instant::now();
        let mut read_at = self.read_at.lock().await;
        if read_at.is_some_and(|at| at >= asked) {
            return Ok(());
        }
        if let Some(last) = *read_at {
            tokio::time::sleep_until(last + READ_AGAIN_AFTER).await;
        }
        let now = Instant::now();
        self.follow(&store.signing_keys().await?);
        *read_at = Some(now);
        Ok(())
    }

    /// Takes over what has been read elsewhere.
    pub fn follow(&self, newer: &Self) {
        self.known.store(newer.known.load_full());
    }
}

impl Store {
    /// The network's keys; makes them where there are none yet.
    pub async fn signing_keys(&self) -> Result<SigningKeys> {
        if let Some(keys) = read(&mut *self.reader.acquire().await?).await? {
            return Ok(keys);
        }
        sql::retrying(|| self.make_signing_keys(false)).await
    }

    /// Adds new keys, which sign from now on; what the old ones signed still verifies. Gateways see it by the epoch.
    pub async fn rotate_signing_keys(&self) -> Result<SigningKeys> {
        sql::retrying(|| self.make_signing_keys(true)).await
    }

    async fn make_signing_keys(&self, rotate: bool) -> Result<SigningKeys> {
        let mut tx = self.transaction().await?;
        if rotate {
            bump_epoch(&mut tx).await?;
        }
        lock(&mut tx, "signing_keys").await?;
        if let Some(keys) = read(&mut tx).await?
            && !rotate
        {
            return Ok(keys); // another process was first
        }
        for kind in ["hmac", "ed25519"] {
            let mut secret = [0; 32];
            getrandom::fill(&mut secret).map_err(|error| StoreError::Unavailable(sqlx::Error::Io(error.into())))?;
            let insert = format!(
                "INSERT INTO signing_keys (id, kind, secret, created_at) VALUES ($1, $2, $3, {})",
                self.clock()
            );
            sql::query(insert)
                .bind(Ulid::generate().to_string())
                .bind(kind)
                .bind(BASE64_URL_SAFE_NO_PAD.encode(secret))
                .execute(&mut *tx)
                .await?;
        }
        let keys = read(&mut tx).await?.ok_or_else(|| StoreError::corrupt("signing keys vanish"))?;
        tx.commit().await?;
        Ok(keys)
    }
}

/// The network's keys, inside a transaction of a gateway's: it has made them long ago.
pub(super) async fn existing(connection: &mut AnyConnection) -> Result<SigningKeys> {
    read(connection).await?.ok_or_else(|| StoreError::corrupt("there are no signing keys"))
}

async fn read(connection: &mut AnyConnection) -> Result<Option<SigningKeys>> {
    let newest_first = "SELECT id, kind, secret FROM signing_keys ORDER BY created_at DESC, id DESC";
    let (mut tickets, mut settlements) = (Vec::new(), Vec::new());
    for row in sqlx::query(newest_first).fetch_all(connection).await? {
        let (id, kind, secret): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let secret: [u8; 32] = BASE64_URL_SAFE_NO_PAD
            .decode(secret)
            .ok()
            .and_then(|secret| secret.try_into().ok())
            .ok_or_else(|| StoreError::corrupt("a signing key is malformed"))?;
        match kind.as_str() {
            "hmac" => tickets.push((id, HmacKey::from_secret(&secret))),
            _ => settlements.push((id, SigningKey::from_seed(&secret))),
        }
    }
    Ok(SigningKeys::of(tickets, settlements))
}
