//! Keeps an answer to its form: which tokens may come next, given where in the answer it is.

use llguidance::toktrie::SimpleVob;

use super::form::HoldsFrom;
use super::grammar::{Grammar, Lost};
use super::parts::{Begun, Place};

/// Keeps one choice to its form.
pub struct Guide {
    grammar: Grammar,
    holds_from: HoldsFrom,
    /// Whether the grammar holds by now.
    holds: bool,
    /// The token that opens the reasoning, if one does.
    opens_reasoning: Option<u32>,
}

impl Guide {
    /// For one choice, whose prompt leaves off at `place`.
    pub fn new(grammar: Grammar, holds_from: HoldsFrom, place: Place, opens_reasoning: Option<u32>) -> Self {
        let holds = holds_from == HoldsFrom::Answer && place == Place::Answer;
        Self { grammar, holds_from, holds, opens_reasoning }
    }

    /// Which tokens may come; `None` where any may.
    pub fn allowed(&mut self, place: Place) -> Result<Option<SimpleVob>, Lost> {
        if self.holds {
            return self.grammar.allowed().map(Some);
        }
        match (self.holds_from, place) {
            (HoldsFrom::Call, _) => Ok(None),
            // The reasoning may say anything, but the answer is still to come.
            (HoldsFrom::Answer, Place::Reasoning) => {
                let mut allowed = self.grammar.allowed()?;
                allowed.set_all(true);
                self.grammar.ends().iter().for_each(|end| allowed.disallow_token(*end));
                Ok(Some(allowed))
            }
            (HoldsFrom::Answer, _) => {
                let mut allowed = self.grammar.allowed()?;
                self.opens_reasoning.into_iter().for_each(|token| allowed.allow_token(token));
                Ok(Some(allowed))
            }
        }
    }

    /// A token has come. `false` if it is not of the form.
    pub fn accept(&mut self, token: u32) -> bool {
        !self.holds || self.grammar.accept(token)
    }

    /// Something has begun, and so much of it has come. `false` if that is not of the form.
    pub fn begin(&mut self, begun: Begun, bytes: &[u8]) -> bool {
        let begins = match (self.holds_from, begun) {
            (HoldsFrom::Answer, _) => !self.holds,
            (HoldsFrom::Call, begun) => begun == Begun::Calls,
        };
        if !begins {
            return self.holds || begun == Begun::Answer;
        }
        self.holds = self.grammar.accept_bytes(bytes);
        self.holds
    }

    /// Whether the answer can have no more.
    pub fn is_complete(&self) -> bool {
        self.holds && self.grammar.is_complete()
    }
}
