//! When a provider that fails is left alone, and how it comes back: a circuit breaker for one model of one provider.
//! Pure: time is passed in, in microseconds of any clock that does not run backwards.
//!
//! ```text
//! closed ──score reaches TRIP──▶ open ──its time is over──▶ half-open ──the probe succeeds──▶ closed
//!                                 ▲                            │
//!                                 └──the probe fails, twice as long─┘
//! ```
//!
//! Only what is the provider's own doing counts: not a client that leaves, not a full house, not the way through another
//! gateway.

/// At this score the provider is left alone.
const TRIP: u32 = 6;
/// What a failure adds to the score, and what a success takes away: more than one failure in three trips in the end.
const FAILURE: u32 = 2;
const SUCCESS: u32 = 1;
/// How long it is left alone for the first time, and at most.
const SHORTEST_US: i64 = 5_000_000;
const LONGEST_US: i64 = 300_000_000;
/// As many successes in a row, and the times before are forgotten.
const FORGIVEN_AFTER: u32 = 20;

/// How a provider failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It said so, broke the connection or the protocol, or did not begin in time.
    Failed,
    /// It fell silent in mid-answer. That costs a client the whole stall timeout, so once is enough.
    Stalled,
}

/// What a job says of its provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It did what it had to.
    Good,
    /// It did not.
    Bad(Fault),
    /// Nothing: the client left, or it had no room.
    Neither,
}

/// A job under way, as the breaker knows it. Handed back with the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// One of many.
    Ordinary,
    /// The one by which a provider shows that it is well again.
    Probe,
}

/// The breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    state: State,
    /// Failures weighed against successes.
    score: u32,
    /// How often it has tripped without being forgiven.
    trips: u32,
    /// Successes in a row.
    good: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until_us: i64,
    },
    /// A probe is out.
    Probing,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed, score: 0, trips: 0, good: 0 }
    }
}

impl Breaker {
    /// Whether a job may be sent, as any other or as a probe.
    pub fn admits(&self, now_us: i64) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { until_us } => now_us >= until_us,
            State::Probing => false,
        }
    }

    /// Whether jobs are sent as ever.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether nothing has happened that is worth remembering.
    pub fn is_pristine(&self) -> bool {
        self.state == State::Closed && self.score == 0 && self.trips == 0
    }

    /// A job is sent. One that is sent although the breaker does not admit it, because there is nobody else, decides nothing
    /// unless it is the probe.
    pub fn begin(&mut self, now_us: i64) -> Trial {
        match self.state {
            State::Open { until_us } if now_us >= until_us => {
                self.state = State::Probing;
                Trial::Probe
            }
            _ => Trial::Ordinary,
        }
    }

    /// A job is over.
    pub fn end(&mut self, trial: Trial, verdict: Verdict, now_us: i64) {
        match (trial, self.state, verdict) {
            (Trial::Probe, State::Probing, Verdict::Good) => {
                (self.state, self.score, self.good) = (State::Closed, TRIP / 2, 0);
            }
            (Trial::Probe, State::Probing, Verdict::Bad(_)) => self.trip(now_us),
            // The next job is the probe.
            (Trial::Probe, State::Probing, Verdict::Neither) => self.state = State::Open { until_us: now_us },
            (_, State::Closed, Verdict::Good) => {
                self.score = self.score.saturating_sub(SUCCESS);
                self.good = self.good.saturating_add(1);
                if self.good >= FORGIVEN_AFTER {
                    self.trips = 0;
                }
            }
            (_, State::Closed, Verdict::Bad(fault)) => {
                self.good = 0;
                self.score += match fault {
                    Fault::Failed => FAILURE,
                    Fault::Stalled => TRIP,
                };
                if self.score >= TRIP {
                    self.trip(now_us);
                }
            }
            // Jobs that began before it tripped say nothing new.
            (_, _, _) => {}
        }
    }

    fn trip(&mut self, now_us: i64) {
        let alone = SHORTEST_US.saturating_mul(1 << self.trips.min(16)).min(LONGEST_US);
        self.trips += 1;
        (self.score, self.good) = (0, 0);
        self.state = State::Open { until_us: now_us.saturating_add(alone) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BAD: Verdict = Verdict::Bad(Fault::Failed);

    fn job(breaker: &mut Breaker, verdict: Verdict, now_us: i64) {
        let trial = breaker.begin(now_us);
        breaker.end(trial, verdict, now_us);
    }

    #[test]
    fn three_failures_in_a_row_or_one_silence_trip_it() {
        let mut failing = Breaker::default();
        for left in [true, true, false] {
            job(&mut failing, BAD, 0);
            assert_eq!(failing.admits(0), left);
        }
        let mut silent = Breaker::default();
        job(&mut silent, Verdict::Bad(Fault::Stalled), 0);
        assert!(!silent.admits(SHORTEST_US - 1) && silent.admits(SHORTEST_US));
    }

    #[test]
    fn one_probe_decides_and_each_failure_of_it_doubles_the_time() {
        let mut breaker = Breaker::default();
        job(&mut breaker, Verdict::Bad(Fault::Stalled), 0);
        let mut now = 0;
        for alone in [1, 2, 4, 8].map(|times| times * SHORTEST_US) {
            assert!(!breaker.admits(now + alone - 1), "{alone}");
            now += alone;
            assert_eq!(breaker.begin(now), Trial::Probe);
            assert!(!breaker.admits(now) && breaker.begin(now) == Trial::Ordinary, "one at a time");
            breaker.end(Trial::Ordinary, Verdict::Good, now); // an older job
            assert!(!breaker.admits(now));
            breaker.end(Trial::Probe, BAD, now);
        }
        now += LONGEST_US;
        assert_eq!(breaker.begin(now), Trial::Probe);
        breaker.end(Trial::Probe, Verdict::Neither, now);
        assert_eq!(breaker.begin(now), Trial::Probe, "a client that left has proved nothing");
        breaker.end(Trial::Probe, Verdict::Good, now);
        assert!(breaker.admits(now));
        (0..FORGIVEN_AFTER).for_each(|_| job(&mut breaker, Verdict::Good, now));
        job(&mut breaker, Verdict::Bad(Fault::Stalled), now);
        assert!(breaker.admits(now + SHORTEST_US), "forgiven");
    }

    proptest! {
        #[test]
        fn whatever_happens_it_comes_back_and_lets_one_probe_through(
            steps in proptest::collection::vec((0..5u8, 0..20_000_000i64), 0..200),
        ) {
            let (mut breaker, mut now, mut out) = (Breaker::default(), 0, Vec::new());
            let mut alone_since: Option<i64> = None;
            for (step, pause) in steps {
                now += pause;
                let admitted = breaker.admits(now);
                match step {
                    0 if admitted => out.push(breaker.begin(now)),
                    0 => prop_assert_eq!(breaker.begin(now), Trial::Ordinary),
                    1 => out.pop().into_iter().for_each(|trial| breaker.end(trial, Verdict::Good, now)),
                    2 => out.pop().into_iter().for_each(|trial| breaker.end(trial, BAD, now)),
                    3 => out.pop().into_iter().for_each(|trial| breaker.end(trial, Verdict::Bad(Fault::Stalled), now)),
                    _ => {
                        let trial = out.pop();
                        let before = breaker.admits(now);
                        trial.into_iter().for_each(|trial| breaker.end(trial, Verdict::Neither, now));
                        prop_assert!(trial == Some(Trial::Probe) || breaker.admits(now) == before, "it says nothing");
                    }
                }
                let probes = out.iter().filter(|trial| **trial == Trial::Probe).count();
                prop_assert!(probes <= 1, "{probes} probes at once");
                alone_since = match breaker.admits(now) || probes > 0 {
                    true => None,
                    false => alone_since.or(Some(now)),
                };
                prop_assert!(alone_since.is_none_or(|since| now - since <= LONGEST_US), "it was left alone for too long");
                prop_assert!(probes > 0 || breaker.admits(now + LONGEST_US), "it comes back");
            }
        }

        #[test]
        fn who_fails_rarely_is_never_left_alone(gaps in proptest::collection::vec(2..10u32, 0..100)) {
            let mut breaker = Breaker::default();
            for gap in gaps {
                job(&mut breaker, BAD, 0);
                prop_assert!(breaker.admits(0));
                (0..gap).for_each(|_| job(&mut breaker, Verdict::Good, 0));
            }
            prop_assert!(breaker.score == 0 || breaker.admits(0));
        }
    }
}
