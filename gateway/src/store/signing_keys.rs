//! The network's own keys: HMAC for tickets, Ed25519 for settlement roots. Shared by all gateways on one database.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::JwkSet;
use lumbung_openapi::jws::{HmacKey, SigningKey, key_id};
use lumbung_openapi::receipt::{Receipt, RootClaims, SETTLEMENTS_TYP};
use lumbung_openapi::ticket::{TICKET_TYP, Ticket};
use lumbung_openapi::voucher::{VOUCHER_TYP, Voucher};
use serde::de::DeserializeOwned;
use sqlx::{AnyConnection, Row};
use ulid::Ulid;

use super::{Result, Store, StoreError, bump_epoch, lock, sql};
use crate::domain::backing::Backing;
use crate::domain::refusal::Refusal;

/// Every key of the network. The newest of each kind signs; all of them verify.
#[derive(Clone)]
pub struct SigningKeys {
    /// Id of the key that signs tickets.
    pub ticket_kid: String,
    /// The key that signs tickets.
    pub ticket: Arc<HmacKey>,
    /// Id of the key that signs settlement roots.
    pub settlement_kid: String,
    /// The key that signs settlement roots.
    pub settlement: Arc<SigningKey>,
    tickets: Vec<(String, Arc<HmacKey>)>,
    settlements: Vec<(String, Arc<SigningKey>)>,
}

impl SigningKeys {
    /// Keys with their ids, the newest of each kind first; `None` where a kind has none.
    pub fn of(tickets: Vec<(String, Arc<HmacKey>)>, settlements: Vec<(String, Arc<SigningKey>)>) -> Option<Self> {
        let ((ticket_kid, ticket), (settlement_kid, settlement)) =
            (tickets.first()?.clone(), settlements.first()?.clone());
        Some(Self { ticket_kid, ticket, settlement_kid, settlement, tickets, settlements })
    }

    /// The claims of a text that one of these gateways signed for `typ` with a secret of theirs.
    pub fn verify<T: DeserializeOwned>(&self, typ: &str, text: &str) -> Option<T> {
        let kid = key_id(text).ok()?;
        let (_, key) = self.tickets.iter().find(|(id, _)| *id == kid)?;
        key.verify(typ, text).ok()
    }

    /// Signs a ticket.
    pub fn sign_ticket(&self, ticket: &Ticket) -> String {
        self.ticket.sign(TICKET_TYP, &self.ticket_kid, ticket)
    }

    /// A ticket's claims, if one of these keys signed it.
    pub fn verify_ticket(&self, text: &str) -> std::result::Result<Ticket, Refusal> {
        self.verify(TICKET_TYP, text).ok_or(Refusal::NoTicket)
    }

    /// Signs a voucher.
    pub fn sign_voucher(&self, voucher: &Voucher) -> String {
        self.ticket.sign(VOUCHER_TYP, &self.ticket_kid, voucher)
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
        self.settlement.sign_with_kid(SETTLEMENTS_TYP, &self.settlement_kid, claims)
    }

    /// The public keys that settlement roots verify with, retired ones included.
    pub fn published(&self) -> JwkSet {
        let jwk = |(kid, key): &(String, Arc<SigningKey>)| key.public().to_jwk(Some(kid.clone()));
        JwkSet { keys: self.settlements.iter().map(jwk).collect() }
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
            "hmac" => tickets.push((id, Arc::new(HmacKey::from_secret(&secret)))),
            _ => settlements.push((id, Arc::new(SigningKey::from_seed(&secret)))),
        }
    }
    Ok(SigningKeys::of(tickets, settlements))
}
