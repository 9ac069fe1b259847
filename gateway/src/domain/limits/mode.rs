//! How limits hold where several replicas serve the same keys.

use super::Budgets;

/// With whom a replica counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is the only one: what it has counted is all there is.
    Alone,
    /// It takes portions from counters that all replicas share.
    Shared {
        /// How many replicas there are.
        replicas: u32,
    },
    /// The shared counters cannot be reached: each replica goes on with its share.
    Apart(Share),
}

/// One replica's part of a limit: equal parts, and what does not divide goes to the first ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which of the replicas, from zero.
    pub rank: u32,
    /// How many there were when they were last seen; at least one.
    pub replicas: u32,
}

impl Share {
    /// This replica's part of a count.
    pub fn of(self, count: u32) -> u32 {
        let replicas = self.replicas.max(1);
        count / replicas + u32::from(self.rank < count % replicas)
    }

    /// This replica's part of an amount in nano-dollars; nothing of less than nothing.
    pub fn of_nanos(self, nanos: i64) -> i64 {
        nanos.max(0) / i64::from(self.replicas.max(1))
    }
}

/// The limits that are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Requests in a minute.
    pub requests: Option<u32>,
    /// Tokens in a minute.
    pub tokens: Option<u32>,
    /// Requests at a time.
    pub places: Option<u32>,
    /// Money in a period.
    pub budgets: Budgets,
}

impl Caps {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether `used` of a limit is in its last tenth: from there on nothing is set aside ahead of need.
pub(super) fn is_low(used: u64, limit: u32) -> bool {
    used.saturating_mul(10) >= u64::from(limit) * 9
}

/// What one of so many replicas may use of a large limit before it has told the others: together at most a fiftieth.
/// Nothing of a smaller one.
pub(super) fn advance(limit: u32, replicas: u32) -> u64 {
    match limit {
        ..600 => 0,
        limit => u64::from(limit / 50 / replicas.max(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_limit() {
        for (count, replicas) in [(0, 3), (2, 3), (3, 3), (100, 7), (u32::MAX, 8)] {
            let parts = (0..replicas).map(|rank| u64::from(Share { rank, replicas }.of(count)));
            assert_eq!(parts.sum::<u64>(), u64::from(count));
        }
        assert_eq!(Share { rank: 0, replicas: 0 }.of(5), 5);
        assert_eq!((Share { rank: 0, replicas: 3 }.of_nanos(10), Share { rank: 0, replicas: 3 }.of_nanos(-10)), (3, 0));
    }

    #[test]
    fn only_large_limits_are_used_in_advance() {
        assert_eq!((advance(599, 1), advance(600, 1), advance(600, 3), advance(600, 100)), (0, 12, 4, 0));
        assert!(is_low(540, 600) && !is_low(539, 600) && is_low(0, 0));
    }
}
