//! Which provider serves a request: what each would cost in dollars, time included, and who is compared at all.
//!
//! Everything here is pure and synchronous: the time and the randomness are passed in, so that the same code routes
//! requests and is simulated with a virtual clock. What is only for ranking is `f64`; nobody is ever charged by it.
//!
//! - [`cost`]: one figure for price and waiting.
//! - [`vitals`]: how fast and how reliable a provider is with a model, as the gateway has measured it.
//! - [`ring`], [`vacancies`]: who comes into question, without looking at everyone.
//! - [`roster`]: the providers of one model, and the choice among them.
//! - [`wishes`]: what the client has said about providers; [`names`]: what it calls them.

pub mod cost;
pub mod dice;
pub mod explain;
pub mod names;
pub mod prefix;
pub mod quantiles;
pub mod ring;
pub mod roster;
pub mod vacancies;
pub mod vitals;
pub mod wishes;

#[cfg(test)]
mod tests;

use lumbung_openapi::money::TokenPrice;

use super::ids::ProviderId;
use super::provider::Standing;
use names::ProviderName;
use vitals::Vitals;

/// A provider of a model, as far as a choice needs to know it.
pub trait Candidate {
    /// Who it is.
    fn provider(&self) -> &ProviderId;
    /// What it is called beside.
    fn name(&self) -> Option<&ProviderName>;
    /// How far it is trusted: newcomers serve where nobody else can.
    fn standing(&self) -> Standing;
    /// What it asks.
    fn ask(&self) -> TokenPrice;
    /// How its weights are quantized, as it names it.
    fn quantization(&self) -> &str;
    /// Jobs at a time.
    fn slots(&self) -> u32;
    /// Jobs now.
    fn running(&self) -> u32;
    /// What has been measured.
    fn vitals(&self) -> &Vitals;

    /// How likely it is to be drawn, beside others of the same price and speed: 0 to 1.
    fn reputation(&self) -> f64 {
        match self.standing() {
            Standing::Trusted | Standing::Newcomer => 1.0,
            Standing::Banned => 0.0,
        }
    }

    /// Whether a slot is free.
    fn has_room(&self) -> bool {
        self.running() < self.slots()
    }

    /// Which share of its slots is taken: 0 to 1.
    fn crowd(&self) -> f64 {
        f64::from(self.running()) / f64::from(self.slots().max(1))
    }
}
