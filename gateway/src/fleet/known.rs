//! What the gateway remembers of providers when their tunnels and offers are gone, so that whoever returns is known.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::domain::ids::ProviderId;
use crate::domain::routing::vitals::Vitals;

/// Who was away for longer than this has to warm up again, Unix microseconds; a connection that broke is made again sooner.
const SHORT_ABSENCE_US: i64 = 30_000_000;
/// Who has been away for so long is forgotten.
const FORGET_AFTER_US: i64 = 3600 * 1_000_000;
/// How many of those who are away are remembered: who joins and leaves at once must not fill memory.
const MAX_AWAY: usize = 20_000;
/// How many regions have a distance: anyone can make up names.
const MAX_REGIONS: usize = 256;
/// How much one round trip counts in the average of its region.
const REGION_WEIGHT: f64 = 0.05;

/// Providers and their vitals with each model.
#[derive(Default)]
pub struct Known {
    providers: HashMap<ProviderId, Acquaintance>,
    away: usize,
    /// Seconds there and back, on average, of those who say that they are there and have been measured.
    regions: HashMap<String, f64>,
}

#[derive(Default)]
struct Acquaintance {
    models: HashMap<String, Arc<Vitals>>,
    /// When it left, Unix microseconds.
    left_us: Option<i64>,
    /// How long it takes there and back, as measured last: only where the tunnel is this gateway's own.
    round_trip_secs: Option<f64>,
    /// Where it says it is.
    region: String,
}

impl Known {
    /// The vitals of a provider with a model. Until its own distance is measured, it is taken to be as far away as others
    /// of the region that it names (empty: none).
    pub fn vitals(&mut self, provider: &ProviderId, region: &str, model: &str, now_us: i64) -> Arc<Vitals> {
        let provider = self.providers.entry(provider.clone()).or_default();
        if provider.region != region {
            region.clone_into(&mut provider.region);
        }
        let vitals = provider.models.entry(model.to_owned()).or_insert_with(|| {
            let vitals = Vitals::new(now_us);
            provider.round_trip_secs.into_iter().for_each(|secs| vitals.round_trip(secs));
            Arc::new(vitals)
        });
        self.regions.get(region).into_iter().for_each(|secs| vitals.suppose_round_trip(*secs));
        vitals.clone()
    }

    /// A provider's offer took so long to come.
    pub fn round_trip(&mut self, provider: &ProviderId, secs: f64) {
        let provider = self.providers.entry(provider.clone()).or_default();
        provider.round_trip_secs = Some(secs);
        provider.models.values().for_each(|vitals| vitals.round_trip(secs));
        if let Some(average) = self.regions.get_mut(&provider.region) {
            *average += (secs - *average) * REGION_WEIGHT;
        } else if !provider.region.is_empty() && self.regions.len() < MAX_REGIONS {
            self.regions.insert(provider.region.clone(), secs);
        }
    }

    /// A provider is here.
    pub fn came(&mut self, provider: &ProviderId, now_us: i64) {
        let Some(provider) = self.providers.get_mut(provider) else { return };
        let Some(left_us) = provider.left_us.take() else { return };
        self.away -= 1;
        if now_us - left_us > SHORT_ABSENCE_US {
            provider.models.values().for_each(|vitals| vitals.returned(now_us));
        }
    }

    /// A provider is no longer here.
    pub fn left(&mut self, provider: &ProviderId, now_us: i64) {
        let Some(provider) = self.providers.get_mut(provider) else { return };
        if provider.left_us.is_none() {
            provider.left_us = Some(now_us);
            self.away += 1;
        }
    }

    /// Forgets those who left long ago, and the longest gone where there are too many.
    pub fn tidy(&mut self, now_us: i64) {
        let mut forget_before = now_us - FORGET_AFTER_US;
        if self.away > MAX_AWAY {
            let mut left: Vec<i64> = self.providers.values().filter_map(|provider| provider.left_us).collect();
            let (_, oldest_kept, _) = left.select_nth_unstable(self.away - MAX_AWAY / 2);
            forget_before = forget_before.max(*oldest_kept);
        }
        self.providers.retain(|_, provider| provider.left_us.is_none_or(|left_us| left_us >= forget_before));
        self.away = self.providers.values().filter(|provider| provider.left_us.is_some()).count();
        let named: HashSet<&str> = self.providers.values().map(|provider| provider.region.as_str()).collect();
        self.regions.retain(|region, _| named.contains(region.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::routing::cost::Work;
    use crate::domain::routing::vitals::Prior;
    use lumbung_openapi::jws::SigningKey;

    fn provider(number: u64) -> ProviderId {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&number.to_le_bytes());
        ProviderId::from(SigningKey::from_seed(&seed).public())
    }

    #[test]
    fn who_returns_is_known_and_warms_up_again() {
        let (mut known, who) = (Known::default(), provider(1));
        let vitals = known.vitals(&who, "", "m", 0);
        let warm_at = 200_000_000;
        assert_eq!(vitals.warmth(warm_at), 1.0);
        known.left(&who, warm_at);
        known.came(&who, warm_at + 1_000_000);
        assert_eq!(vitals.warmth(warm_at + 1_000_000), 1.0, "a connection that broke for a second");
        known.left(&who, warm_at + 2_000_000);
        let back_at = warm_at + 3_000_000 + SHORT_ABSENCE_US;
        known.came(&who, back_at);
        assert!(Arc::ptr_eq(&vitals, &known.vitals(&who, "", "m", back_at)));
        assert!(vitals.warmth(back_at) < 0.2);
    }

    #[test]
    fn who_has_not_been_measured_is_as_far_away_as_its_region() {
        let mut known = Known::default();
        let distance = |vitals: &Vitals| {
            vitals
                .read(&Prior::default(), &Work { prompt_tokens: 10, prefix_tokens: 0, completion_tokens: 10 }, 0, false)
                .round_trip_secs
        };
        let average = Prior::default().round_trip_secs;
        for number in 1..=3 {
            known.vitals(&provider(number), "far", "m", 0);
            known.round_trip(&provider(number), 0.3);
        }
        let stranger = known.vitals(&provider(4), "far", "m", 0);
        assert!((distance(&stranger) - 0.3).abs() < 1e-6, "its gateway is another one, so nothing is measured here");
        assert_eq!(distance(&known.vitals(&provider(5), "", "m", 0)), average, "it does not say where it is");
        assert_eq!(distance(&known.vitals(&provider(6), "elsewhere", "m", 0)), average, "nobody is known there");
        known.round_trip(&provider(4), 0.02);
        assert!((distance(&stranger) - 0.02).abs() < 1e-6, "what is measured counts, whatever it says");
        for number in 10..10 + 2 * MAX_REGIONS as u64 {
            known.vitals(&provider(number), &format!("made up {number}"), "m", 0);
            known.round_trip(&provider(number), 0.1);
            known.left(&provider(number), 0);
        }
        assert_eq!(known.regions.len(), MAX_REGIONS);
        known.tidy(FORGET_AFTER_US + 1);
        assert_eq!(known.regions.keys().collect::<Vec<_>>(), ["far"]);
    }

    #[test]
    fn who_is_long_gone_is_forgotten_and_who_is_here_is_not() {
        let mut known = Known::default();
        for number in 0..10 {
            known.vitals(&provider(number), "", "m", 0);
        }
        known.left(&provider(3), 0);
        known.left(&provider(4), FORGET_AFTER_US);
        known.tidy(FORGET_AFTER_US + 1);
        assert_eq!((known.providers.len(), known.away), (9, 1));
        assert!(!known.providers.contains_key(&provider(3)));
    }
}
