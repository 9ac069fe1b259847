//! What an operator can do within an [`Act`]: the store's own changes, in the act's transaction.

use lumbung_openapi::money::{NanoUsd, TokenPrice};

use super::accounts::{self, AccountRecord, Balance, CreditKind};
use super::act::Act;
use super::clawback::{self, Claw, Clawback};
use super::keys::{self, KeyChange, KeyRecord, NewKey};
use super::payouts::{self, Outcome, Payout, PayoutRun, PayoutTerms};
use super::promotional::{self, PromotionalDecision, Verdict};
use super::{Result, StoreError, catalogue, erasing, ledger, limits, prices, providers};
use crate::domain::catalogue::{CatalogueModel, PriceVersion};
use crate::domain::ids::{AccountId, KeyId, ModelId, PayoutId, ProviderId};
use crate::domain::limits::{LimitOwner, Limits};
use crate::domain::posting::{LedgerId, Posting, PostingKind};
use crate::domain::provider::{ProviderRecord, Standing};

impl Act {
    /// See [`super::Store::create_account`].
    pub async fn create_account(&mut self, name: &str) -> Result<AccountRecord> {
        let (connection, clock) = self.parts();
        accounts::open(connection, clock, name).await
    }

    /// See [`super::Store::close_account`]. Returns the account as it is then.
    pub async fn close_account(&mut self, id: &AccountId) -> Result<AccountRecord> {
        let (connection, clock) = self.parts();
        accounts::close(connection, clock, id).await?;
        accounts::read(connection, id).await
    }

    /// What an account has at this point of the act.
    pub async fn account_balance(&mut self, id: &AccountId) -> Result<Balance> {
        accounts::balance(self.parts().0, id).await
    }

    /// See [`super::Store::add_credit`].
    pub async fn add_credit(
        &mut self,
        id: &AccountId,
        amount: NanoUsd,
        kind: CreditKind,
        reference: &str,
    ) -> Result<()> {
        let (connection, clock) = self.parts();
        accounts::credit(connection, clock, id, amount, kind, reference).await
    }

    /// Pays credit back to the outside world: at most what is not set aside for a replica. The same reference twice is a
    /// `Conflict`, and so is more than there is, or than was paid for: credit that was given away is not paid back. An empty
    /// reference is not compared.
    pub async fn refund(&mut self, id: &AccountId, amount: NanoUsd, reference: &str) -> Result<()> {
        if amount <= NanoUsd::ZERO {
            return Err(StoreError::Invalid("a refund must be above zero"));
        }
        let credit = LedgerId::credit(*id);
        let posting =
            Posting::from_source(PostingKind::Refund, reference, credit.clone(), [(LedgerId::outside(), amount)])
                .ok_or(StoreError::Invalid("more money than 64 bits hold"))?;
        let (connection, clock) = self.parts();
        let take = "UPDATE ledger_accounts SET balance = balance - $2 WHERE id = $1 AND balance >= $2";
        let taken = sqlx::query(take).bind(credit.as_str()).bind(amount.nanos()).execute(&mut *connection).await?;
        if taken.rows_affected() == 0 {
            accounts::read(connection, id).await?;
            return Err(StoreError::Conflict("more than the account's credit that is not set aside".into()));
        }
        erasing::not_again(connection, PostingKind::Refund, reference, "this refund has been paid already").await?;
        promotional::lock(connection, id).await?;
        let left = accounts::balance(connection, id).await?;
        if left.spendable < left.promotional {
            return Err(StoreError::Conflict("credit that was given away is not paid back".into()));
        }
        ledger::write(connection, clock, std::slice::from_ref(&posting)).await.map_err(|error| match error {
            StoreError::Conflict(_) => StoreError::Conflict("this refund has been paid already".into()),
            other => other,
        })
    }

    /// See [`super::Store::create_key_with`].
    pub async fn create_key(&mut self, account: &AccountId, new: &NewKey) -> Result<(KeyRecord, String)> {
        let (connection, clock) = self.parts();
        keys::make(connection, clock, account, new).await
    }

    /// See [`super::Store::change_key`], whosever key it is. Returns the key as it is then.
    pub async fn change_key(&mut self, id: &KeyId, change: &KeyChange) -> Result<KeyRecord> {
        let (connection, _) = self.parts();
        keys::change(connection, None, id, change).await?;
        keys::read(connection, id).await
    }

    /// See [`super::Store::set_limits`]. Returns the limits as they are then.
    pub async fn set_limits(&mut self, owner: LimitOwner, limits: &Limits) -> Result<Limits> {
        let (connection, _) = self.parts();
        limits::set(connection, owner, limits).await?;
        limits::of(connection, owner).await
    }

    /// See [`super::Store::revoke_key`]. Returns the key as it is then.
    pub async fn revoke_key(&mut self, id: &KeyId) -> Result<KeyRecord> {
        let (connection, clock) = self.parts();
        keys::revoke(connection, clock, id).await?;
        keys::read(connection, id).await
    }

    /// See [`super::Store::upsert_model`]. Returns the model as it is then.
    pub async fn put_model(&mut self, model: &CatalogueModel) -> Result<CatalogueModel> {
        let (connection, clock) = self.parts();
        catalogue::upsert(connection, clock, model).await?;
        let models = catalogue::all(connection, clock).await?;
        models.into_iter().find(|known| known.id == model.id).ok_or(StoreError::Missing("model"))
    }

    /// See [`super::Store::remove_model`].
    pub async fn remove_model(&mut self, id: &ModelId) -> Result<()> {
        catalogue::remove(self.parts().0, id).await
    }

    /// See [`super::Store::add_price`].
    pub async fn add_price(
        &mut self,
        model: &ModelId,
        price: &TokenPrice,
        valid_from_us: Option<i64>,
    ) -> Result<PriceVersion> {
        let (connection, clock) = self.parts();
        prices::add(connection, clock, model, price, valid_from_us).await
    }

    /// See [`super::Store::set_standing`]. Returns the provider as it is then.
    pub async fn set_standing(&mut self, id: &ProviderId, standing: Standing) -> Result<ProviderRecord> {
        let (connection, clock) = self.parts();
        providers::set_standing(connection, clock, id, standing).await
    }

    /// See [`super::Store::claw_back`]. Fails with `Missing` for a provider that never joined.
    pub async fn claw_back(
        &mut self,
        provider: &ProviderId,
        claw: &Claw,
        reason: &str,
        evidence: &str,
    ) -> Result<Clawback> {
        let (connection, clock) = self.parts();
        let done = clawback::take(connection, clock, provider, claw, reason, evidence).await;
        if matches!(done, Err(StoreError::Conflict(_))) {
            providers::read(connection, provider).await?;
        }
        done
    }

    /// See [`super::Store::decide_promotional`]. Fails with `Missing` for a provider that never joined.
    pub async fn decide_promotional(
        &mut self,
        provider: &ProviderId,
        account: Option<&AccountId>,
        verdict: Verdict,
        reason: &str,
    ) -> Result<PromotionalDecision> {
        let (connection, clock) = self.parts();
        let done = promotional::decide(connection, clock, provider, account, verdict, reason).await;
        if matches!(done, Err(StoreError::Conflict(_))) {
            providers::read(connection, provider).await?;
        }
        done
    }

    /// See [`super::Store::create_payouts`].
    pub async fn create_payouts(&mut self, terms: &PayoutTerms) -> Result<PayoutRun> {
        let (connection, clock) = self.parts();
        payouts::create(connection, clock, terms).await
    }

    /// See [`super::Store::confirm_payout`].
    pub async fn confirm_payout(&mut self, id: &PayoutId, reference: &str) -> Result<Payout> {
        let (connection, clock) = self.parts();
        payouts::decide(connection, clock, id, Outcome::Confirmed(reference)).await
    }

    /// See [`super::Store::reverse_payout`].
    pub async fn reverse_payout(&mut self, id: &PayoutId) -> Result<Payout> {
        let (connection, clock) = self.parts();
        payouts::decide(connection, clock, id, Outcome::Reversed).await
    }
}
