//! An answer that is continued: what the client has already goes through engine and rendering once more, and no further.

use crate::engine::{EngineError, History, Tokens};

/// What of an answer has been delivered by earlier attempts, and has not come from the engine again yet.
#[derive(Debug, Default)]
pub struct Replay {
    choices: Vec<Delivered>,
}

#[derive(Debug)]
struct Delivered {
    history: History,
    /// How many of its tokens have come again.
    replayed: usize,
}

impl Replay {
    /// Of what was delivered, choice by choice.
    pub fn new(history: Vec<History>) -> Self {
        Self { choices: history.into_iter().map(|history| Delivered { history, replayed: 0 }).collect() }
    }

    /// Whether nothing has been delivered.
    pub fn is_empty(&self) -> bool {
        self.choices.is_empty()
    }

    /// Whether these tokens have been delivered. An error if an engine that should repeat what was delivered does not.
    pub fn has(&mut self, tokens: &Tokens) -> Result<bool, EngineError> {
        let Some(Delivered { history, replayed }) = self.choices.get_mut(usize::from(tokens.choice)) else {
            return Ok(false);
        };
        let left = &history.ids[*replayed..];
        match (left.is_empty(), tokens.count as usize) {
            (true, 0) => Ok(history.finished),
            (true, _) if history.finished => Err(unlike(tokens.choice, "goes on after the end that was delivered")),
            (true, _) => Ok(false),
            (false, count) if left.get(..count) == Some(&*tokens.ids) => {
                *replayed += count;
                Ok(true)
            }
            (false, _) => Err(unlike(tokens.choice, "is not what was delivered")),
        }
    }

    /// Whether a choice's end has been delivered. An error if it comes too early.
    pub fn has_end(&self, choice: u8) -> Result<bool, EngineError> {
        let Some(Delivered { history, replayed }) = self.choices.get(usize::from(choice)) else { return Ok(false) };
        match *replayed == history.ids.len() {
            true => Ok(history.finished),
            false => Err(unlike(choice, "ends before what was delivered")),
        }
    }
}

fn unlike(choice: u8, how: &str) -> EngineError {
    EngineError::Failed(format!("choice {choice} {how}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(choice: u8, ids: &[u32]) -> Tokens {
        Tokens { choice, count: ids.len() as u32, ids: ids.to_vec(), ..Tokens::default() }
    }

    fn replay() -> Replay {
        let history = |ids: &[u32], finished| History { ids: ids.to_vec(), finished };
        Replay::new(vec![history(&[1, 2, 3], false), history(&[7], true)])
    }

    #[test]
    fn what_was_delivered_is_told_from_what_is_new() {
        let mut replay = replay();
        let mut has = |tokens: Tokens| replay.has(&tokens).unwrap();
        assert!(has(tokens(0, &[1])) && has(tokens(0, &[])) && has(tokens(0, &[2, 3])));
        assert!(!has(tokens(0, &[])), "text that was held back comes after what was delivered");
        assert!(!has(tokens(0, &[4])) && !has(tokens(2, &[1])));
        assert!(has(tokens(1, &[7])) && has(tokens(1, &[])));
        let ends = [0, 1, 2].map(|choice| replay.has_end(choice).unwrap());
        assert_eq!(ends, [false, true, false]);
    }

    #[test]
    fn an_engine_that_repeats_something_else_is_noticed() {
        assert!(replay().has(&tokens(0, &[1, 9])).is_err());
        assert!(replay().has(&tokens(0, &[1, 2, 3, 4])).is_err(), "an event that was cut");
        assert!(replay().has(&Tokens { count: 1, ..Tokens::default() }).is_err(), "no ids");
        assert!(replay().has_end(0).is_err(), "too early");
        let mut over = replay();
        assert!(over.has(&tokens(1, &[7])).unwrap() && over.has(&tokens(1, &[8])).is_err());
    }
}
