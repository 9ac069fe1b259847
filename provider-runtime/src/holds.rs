//! Why this provider takes no new jobs at a moment. What runs goes on, and its tunnels stay up.

use std::sync::atomic::{AtomicU8, Ordering};

use serde::{Deserialize, Serialize};

/// One reason. Any of them is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// Its owner said so, until its owner says otherwise.
    Paused,
    /// It is outside the hours that it may work in.
    OutOfHours,
    /// Somebody else uses the machine.
    MachineInUse,
    /// It finishes what it has and ends.
    Draining,
}

impl Hold {
    const ALL: [Self; 4] = [Self::Paused, Self::OutOfHours, Self::MachineInUse, Self::Draining];

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The reasons that there are now.
#[derive(Debug, Default)]
pub struct Holds(AtomicU8);

impl Holds {
    /// Notes that a reason is there, or is gone. Returns whether that is news.
    pub fn set(&self, hold: Hold, is_there: bool) -> bool {
        let before = match is_there {
            true => self.0.fetch_or(hold.bit(), Ordering::Relaxed),
            false => self.0.fetch_and(!hold.bit(), Ordering::Relaxed),
        };
        (before & hold.bit() != 0) != is_there
    }

    /// Whether a reason is there.
    pub fn has(&self, hold: Hold) -> bool {
        self.0.load(Ordering::Relaxed) & hold.bit() != 0
    }

    /// Whether there is any.
    pub fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// All that are there.
    pub fn list(&self) -> Vec<Hold> {
        Hold::ALL.into_iter().filter(|hold| self.has(*hold)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_stands_for_itself() {
        let holds = Holds::default();
        assert!(!holds.any() && holds.list().is_empty());
        assert!(holds.set(Hold::Paused, true) && !holds.set(Hold::Paused, true));
        assert!(holds.set(Hold::MachineInUse, true));
        assert_eq!(holds.list(), [Hold::Paused, Hold::MachineInUse]);
        assert!(holds.set(Hold::Paused, false) && !holds.set(Hold::Paused, false));
        assert!(holds.any() && !holds.has(Hold::Paused));
        assert!(holds.set(Hold::MachineInUse, false) && !holds.any());
    }
}
