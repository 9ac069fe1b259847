//! Money for an answer that grows: a request that names no limit begins with little held, and more is held ahead of
//! need. From memory where that has enough; otherwise by a reservation that the stream does not wait for until it must.

use std::future::pending;
use std::pin::Pin;

use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::ticket::Ticket;

use super::Gateway;
use super::admit::Admitted;
use super::allowance::{Hold, HoldError};
use super::error::ApiError;
use super::vouching::EVERY_TOKENS;
use crate::domain::settlement::completion_paid_by;
use crate::store::StoreError;

type Reserving<'a> = Pin<Box<dyn Future<Output = Result<Hold, Short>> + Send + 'a>>;

/// Why no more is held.
#[derive(Debug)]
pub enum Short {
    /// The account's credit, or a budget, does not cover it; so the client is told if nothing smaller does.
    Refused(ApiError),
    /// The books cannot be reached.
    Books(StoreError),
}

impl From<HoldError> for Short {
    fn from(error: HoldError) -> Self {
        match error {
            HoldError::InsufficientCredit => Self::Refused(ApiError::CreditExhausted),
            HoldError::Store(error) => Self::Books(error),
        }
    }
}

/// How much of one attempt is paid for.
pub struct Funding<'a> {
    gateway: &'a Gateway,
    job: &'a Admitted,
    /// What earlier attempts cost: the ceiling is for all of them.
    spent: NanoUsd,
    /// Completion tokens that the ticket's ceiling pays for, beside the prompt.
    paid_for: u32,
    /// Completion tokens that are held for at a time. Halved where the credit has less; 0 once nothing can be had any more.
    step: u32,
    reserving: Option<Reserving<'a>>,
    /// Why nothing can be had any more.
    end: ApiError,
}

impl<'a> Funding<'a> {
    /// As the ticket was issued, where earlier attempts have cost so much.
    pub fn new(gateway: &'a Gateway, job: &'a Admitted, ticket: &Ticket, spent: NanoUsd) -> Self {
        let step = job.wish.held_completion_tokens;
        let mut funding =
            Self { gateway, job, spent, paid_for: 0, step, reserving: None, end: ApiError::CreditExhausted };
        funding.reckon(ticket, ticket.max_prompt_tokens);
        funding
    }

    /// The prompt is known to have at most so many tokens: what it leaves pays for completion.
    pub fn reckon(&mut self, ticket: &Ticket, prompt: u32) {
        let left = ticket.ceiling.checked_sub(self.spent).unwrap_or(NanoUsd::ZERO);
        self.paid_for = completion_paid_by(&ticket.price, left, prompt, ticket.max_completion_tokens);
    }

    /// Holds more where less than a voucher's interval is left, raising the ticket's ceiling.
    pub fn look_ahead(&mut self, ticket: &mut Ticket, prompt: u32, tokens: u32) {
        if tokens.saturating_add(EVERY_TOKENS) > self.paid_for && self.can_grow(ticket) && self.reserving.is_none() {
            self.raise(ticket, prompt, tokens);
        }
    }

    /// Resolves when a reservation that runs has been decided; never, if none runs. The outcome goes to [`Self::take`].
    pub async fn reserved(&mut self) -> Result<Hold, Short> {
        let Some(reserving) = &mut self.reserving else { return pending().await };
        let reserved = reserving.await;
        self.reserving = None;
        reserved
    }

    /// Takes what was reserved, or makes do with less the next time.
    pub fn take(&mut self, reserved: Result<Hold, Short>, ticket: &mut Ticket, prompt: u32) {
        match reserved {
            Ok(more) => {
                self.job.hold.add(more);
                self.spend_all_held(ticket, prompt);
            }
            Err(Short::Refused(refused)) => (self.step, self.end) = (self.step / 2, refused),
            Err(Short::Books(error)) => {
                tracing::error!(%error, job = ticket.job, "an answer cannot be topped up");
                self.stop(ApiError::BooksUnavailable);
            }
        }
    }

    /// Waits until so many tokens are paid for, or never can be. Cancel-safe.
    pub async fn cover(&mut self, ticket: &mut Ticket, prompt: u32, tokens: u32) -> Result<(), ApiError> {
        while tokens > self.paid_for {
            if self.reserving.is_some() {
                let reserved = self.reserved().await;
                self.take(reserved, ticket, prompt);
            } else if self.can_grow(ticket) {
                self.raise(ticket, prompt, tokens);
            } else {
                return Err(self.end.clone());
            }
        }
        Ok(())
    }

    /// Whether so many tokens are paid for.
    pub fn covers(&self, tokens: u32) -> bool {
        tokens <= self.paid_for
    }

    fn can_grow(&self, ticket: &Ticket) -> bool {
        self.step > 0 && self.paid_for < ticket.max_completion_tokens
    }

    /// Raises the ceiling by a step, at once or by a reservation that begins here.
    fn raise(&mut self, ticket: &mut Ticket, prompt: u32, tokens: u32) {
        let Admitted { hold, grant, caller, .. } = self.job;
        let target = tokens.max(self.paid_for).saturating_add(self.step).min(ticket.max_completion_tokens);
        let cost = ticket.price.cost(prompt, target).and_then(|cost| cost.checked_add(self.spent));
        let Some(short) = cost.and_then(|cost| cost.checked_sub(hold.amount())) else {
            return self.stop(ApiError::CreditExhausted); // more than 64 bits of nano-dollars
        };
        if short > NanoUsd::ZERO {
            if !self.gateway.lease.is_valid() {
                return self.stop(ApiError::BooksUnavailable); // what is in memory may have been given away
            }
            // Budgets first: a reservation that they forbid would be in vain.
            let total = NanoUsd::from_nanos(hold.amount().nanos().saturating_add(short.nanos()));
            let in_budget = match grant.try_raise_to(total) {
                Ok(in_budget) => in_budget,
                Err(limited) => {
                    (self.step, self.end) = (self.step / 2, limited);
                    return;
                }
            };
            let held = if in_budget { self.gateway.allowances.try_hold(&caller.allowance, short) } else { None };
            let Some(more) = held else {
                let gateway = self.gateway;
                self.reserving = Some(Box::pin(async move {
                    if !in_budget {
                        grant.raise_to(total).await.map_err(Short::Refused)?;
                    }
                    Ok(gateway.allowances.hold(&caller.allowance, short).await?)
                }));
                return;
            };
            hold.add(more);
        }
        self.spend_all_held(ticket, prompt);
    }

    fn spend_all_held(&mut self, ticket: &mut Ticket, prompt: u32) {
        ticket.ceiling = ticket.ceiling.max(self.job.hold.amount());
        self.reckon(ticket, prompt);
    }

    fn stop(&mut self, why: ApiError) {
        self.step = 0;
        self.end = why;
    }
}
