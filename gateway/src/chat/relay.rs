//! The way of an answer from providers to the client. One that fails is replaced: before the client has anything by any
//! other, after that by one that goes on where it stopped (`delivered`).

use std::sync::Arc;

use bytes::Bytes;
use tracing::warn;

use super::Gateway;
use super::admit::Admitted;
use super::attempt::{Attempt, Trying};
use super::choose::choose;
use super::client::Client;
use super::delivered::Delivered;
use super::error::ApiError;
use super::outcome::Outcome;
use crate::domain::ids::ProviderId;

/// Providers that are tried in a row without a token from any of them.
const MAX_FRUITLESS: u32 = 3;
/// Providers that are tried for one request in all.
const MAX_ATTEMPTS: u32 = 8;

/// A job after its last provider has spoken: nothing more will come, but the tail has not been sent.
pub struct Relayed {
    /// Every attempt that a ticket was sent for, in order: also those that were declined, because a ticket without a
    /// settlement could be presented with a receipt later.
    pub attempts: Vec<Attempt>,
    /// How it ended.
    pub ending: Ending,
}

/// How a job ended.
pub enum Ending {
    /// The answer is complete; this is what the provider has left to be completed: where it is not streamed, its JSON
    /// without usage and closing brace.
    Complete(Option<Bytes>),
    /// The client left before the end.
    ClientGone,
    /// No answer, or none to its end.
    Failed(ApiError),
}

/// Has the request answered: chooses, relays, and chooses again while that can help; by another model, if the request names
/// one and this one cannot.
pub async fn relay(gateway: &Gateway, job: &mut Admitted, client: &mut Client) -> Relayed {
    let mut course = Course { only_busy: true, ..Course::default() };
    let ending = loop {
        let ending = course.run(gateway, job, client).await;
        let may_fall_back = matches!(&ending, Ending::Failed(error) if error.is_of_the_model());
        let is_over = client.has_begun() || course.attempts.len() >= MAX_ATTEMPTS as usize;
        if !may_fall_back || is_over || !job.fall_back() {
            break ending;
        }
        course.turn_to_another_model();
    };
    // An answer that broke off is paid for as far as it got: the client has it, or left while it was being made. Where it
    // has nothing and an error or an answer from the beginning comes instead, it pays nothing.
    let is_paid = !matches!(ending, Ending::Failed(_)) || client.has_begun();
    let Course { mut attempts, begun_at, .. } = course;
    attempts.iter_mut().enumerate().for_each(|(at, attempt)| attempt.charged = is_paid && at >= begun_at);
    Relayed { attempts, ending }
}

/// The attempts at one job so far.
#[derive(Default)]
struct Course {
    attempts: Vec<Attempt>,
    /// Who has failed it already.
    tried: Vec<ProviderId>,
    /// What the answer consists of so far.
    delivered: Delivered,
    /// The attempt that began the answer as it is now; what came before was for nothing.
    begun_at: usize,
    /// Whether nobody has failed, only declined.
    only_busy: bool,
}

impl Course {
    async fn run(&mut self, gateway: &Gateway, job: &Admitted, client: &mut Client) -> Ending {
        let health = &job.model.health;
        health.retries.earn();
        let (mut fruitless, mut asked) = (0, 0);
        let most = if job.wish.allows_another() { MAX_ATTEMPTS } else { 1 };
        while fruitless < MAX_FRUITLESS && asked < most && self.attempts.len() < MAX_ATTEMPTS as usize {
            let number = self.attempts.len() as u32 + 1;
            let routed = tokio::select! {
                routed = choose(gateway, job, number, &self.tried, &self.delivered) => routed,
                () = client.gone() => return Ending::ClientGone,
            };
            let routed = match routed {
                Ok(routed) => routed,
                Err(_) if client.has_begun() => break, // nobody is left to go on
                Err(_) if self.delivered.has_any() => {
                    self.begin_anew();
                    continue;
                }
                Err(ApiError::ProviderFailed) => break, // nobody is left to try
                Err(error) => return Ending::Failed(error),
            };
            let seat = Arc::clone(&routed.seat);
            self.tried.push(seat.provider.clone());
            let hearing = match self.attempts[self.begun_at..].last() {
                Some(before) => before.hearing.clone(),
                None => gateway.recounter.choose(&routed.ticket, routed.seat.standing, job.endpoint),
            };
            let before = self.delivered.tokens();
            let trying = Trying { gateway, job, client: &mut *client, delivered: &mut self.delivered };
            let (attempt, outcome) = trying.run(routed, hearing).await;
            self.attempts.push(attempt);
            fruitless = match outcome {
                _ if self.delivered.tokens() > before => 0,
                Outcome::Busy | Outcome::Unreachable => fruitless, // nobody has failed
                _ => fruitless + 1,
            };
            asked += u32::from(!matches!(outcome, Outcome::Busy | Outcome::Unreachable));
            match outcome {
                Outcome::Busy => {
                    seat.was_busy();
                    self.tried.pop(); // once there is room again, it may serve
                }
                Outcome::Draining => {}
                Outcome::Declined | Outcome::Broken(_) | Outcome::Silent => {
                    self.only_busy = false;
                    // Whoever gave tokens has done a part of the work: to go on from there repeats nothing.
                    let goes_on = fruitless == 0 && self.delivered.can_go_on();
                    if !goes_on && !health.may_retry() {
                        warn!(job = %job.job, "not tried again: too many have failed lately");
                        break;
                    }
                }
                // Another has taken this very request.
                Outcome::Refused(_) if before > 0 => self.only_busy = false,
                Outcome::Unreachable => {
                    self.only_busy = false;
                    self.tried.pop(); // there may be another way to it
                }
                Outcome::Complete(body) => return Ending::Complete(body),
                Outcome::ClientGone => return Ending::ClientGone,
                Outcome::ClientTooSlow => return Ending::Failed(ApiError::ClientTooSlow),
                Outcome::Refused(invalid) => return Ending::Failed(invalid.into()),
                Outcome::OutOfMoney(error) => return Ending::Failed(error),
            }
            match (self.delivered.can_go_on(), client.has_begun()) {
                (true, _) => {}
                (false, true) => break,
                (false, false) => self.begin_anew(),
            }
        }
        Ending::Failed(if self.only_busy { ApiError::AllBusy } else { ApiError::ProviderFailed })
    }

    /// Nobody can go on, and the client has nothing yet: the next attempt is at the whole answer.
    fn begin_anew(&mut self) {
        self.begun_at = self.attempts.len();
        self.delivered = Delivered::default();
    }

    /// The next attempt is at the whole answer, by whoever serves another model.
    fn turn_to_another_model(&mut self) {
        self.begin_anew();
        self.tried.clear();
        self.only_busy = true;
    }
}
