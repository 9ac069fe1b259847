//! Vouching for an answer while it runs, so that its provider is paid for it even if this gateway dies.

use std::time::Duration;

use lumbung_openapi::ticket::Ticket;
use lumbung_openapi::voucher::Voucher;
use tokio::time::Instant;

use crate::fleet::job::JobStream;
use crate::store::SigningKeys;

/// As many tokens, or as much time, may pass unvouched: what a provider risks, and a client is charged too little, when
/// this gateway dies.
pub const EVERY_TOKENS: u32 = 64;
const EVERY: Duration = Duration::from_secs(1);

/// The vouchers of one attempt.
pub struct Vouching<'a> {
    keys: &'a SigningKeys,
    /// An answer that counts only as a whole is vouched for at its end.
    at_the_end_only: bool,
    last: Voucher,
    last_at: Instant,
}

impl<'a> Vouching<'a> {
    /// Nothing has arrived yet: the ticket itself says so.
    pub fn new(keys: &'a SigningKeys, ticket: &Ticket) -> Self {
        let last = Voucher { job: ticket.job.clone(), attempt: ticket.attempt, tokens: 0, ceiling: ticket.ceiling };
        Self { keys, at_the_end_only: ticket.whole, last, last_at: Instant::now() }
    }

    /// When `tokens`, which have arrived, must have been vouched for; `None` if they are.
    pub fn due_at(&self, tokens: u32) -> Option<Instant> {
        (tokens > self.last.tokens && !self.at_the_end_only).then(|| self.last_at + EVERY)
    }

    /// Sends a voucher if it is time for one. Where the provider leaves no room, that is its own loss.
    pub fn keep_up(&mut self, stream: &mut JobStream, ticket: &Ticket, tokens: u32) {
        if self.is_due(ticket, tokens) {
            self.note(ticket, tokens);
            if stream.has_room() {
                stream.vouch(&self.keys.sign_voucher(&self.last), tokens);
            }
        }
    }

    /// Sends the last voucher, which ends the request. Returns whether it goes at once; otherwise it goes in a moment.
    pub fn finish(mut self, stream: JobStream, ticket: &Ticket, tokens: u32) -> bool {
        self.note(ticket, tokens);
        stream.finish(&self.keys.sign_voucher(&self.last), tokens)
    }

    fn is_due(&self, ticket: &Ticket, tokens: u32) -> bool {
        let enough = tokens.saturating_sub(self.last.tokens) >= EVERY_TOKENS || ticket.ceiling > self.last.ceiling;
        !self.at_the_end_only && (enough || self.due_at(tokens).is_some_and(|due| due <= Instant::now()))
    }

    fn note(&mut self, ticket: &Ticket, tokens: u32) {
        self.last.tokens = tokens;
        self.last.ceiling = ticket.ceiling;
        self.last_at = Instant::now();
    }
}
