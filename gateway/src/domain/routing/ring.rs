//! Consistent hashing: which providers a key belongs to, the same ones as long as they are there.
//!
//! One point for each provider, and several probes for each key, of which the nearest wins (multi-probe consistent
//! hashing, Appleton and O'Reilly, 2015): as even as a hundred points for each, in a hundredth of the memory.

use super::dice::mix;

/// Probes for a key, and so the most providers that it may be tried at.
pub const PROBES: usize = 8;

/// Points on a circle of 2⁶⁴.
#[derive(Debug, Default)]
pub struct Ring {
    points: Vec<u64>,
    /// Whose point it is.
    seats: Vec<u32>,
}

impl Ring {
    /// From each provider's name, hashed, and its number.
    pub fn new(named: impl Iterator<Item = (u64, u32)>) -> Self {
        let mut both: Vec<(u64, u32)> = named.map(|(name, seat)| (mix(name), seat)).collect();
        both.sort_unstable();
        Self {
            points: both.iter().map(|(point, _)| *point).collect(),
            seats: both.iter().map(|(_, seat)| *seat).collect(),
        }
    }

    /// To whom `key` belongs, the first choice first, each with its point; the same one may come twice.
    pub fn owners(&self, key: u64) -> impl Iterator<Item = (u64, u32)> {
        let mut nearest = [(u64::MAX, 0_usize); PROBES];
        if !self.points.is_empty() {
            for (probe, near) in nearest.iter_mut().enumerate() {
                let at = mix(key ^ (probe as u64).wrapping_mul(0xd6e8_feb8_6659_fd93));
                let next = self.points.partition_point(|point| *point < at) % self.points.len();
                *near = (self.points[next].wrapping_sub(at), next);
            }
            nearest.sort_unstable();
        }
        let probes = if self.points.is_empty() { 0 } else { PROBES };
        nearest.into_iter().take(probes).map(|(_, next)| (self.points[next], self.seats[next]))
    }
}

/// A name's hash, for [`Ring::new`] (FNV-1a).
pub fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_ring_is_even_and_moves_little() {
        let names: Vec<u64> = (0..100).map(|n| name_hash(&format!("provider {n}"))).collect();
        let ring_of = |names: &[u64]| Ring::new(names.iter().enumerate().map(|(at, name)| (*name, at as u32)));
        let owner = |ring: &Ring, names: &[u64], key| ring.owners(key).next().map(|(_, at)| names[at as usize]);
        let (whole, fewer) = (ring_of(&names), ring_of(&names[1..]));
        let (mut counts, mut moved) = (HashMap::<u64, u32>::new(), 0);
        for key in 0..20_000 {
            let now = owner(&whole, &names, key).expect("someone");
            let then = owner(&fewer, &names[1..], key).expect("someone");
            assert!(now == then || now == names[0], "a key moved though its owner stayed");
            moved += u32::from(now != then);
            *counts.entry(now).or_default() += 1;
        }
        let most = counts.values().max().copied().unwrap_or(0);
        assert!(counts.len() == 100 && most < 400, "the busiest has {most} of 20000 keys, a hundredth would be 200");
        assert!(moved < 400, "{moved} of 20000 keys moved");
        assert_eq!(ring_of(&[]).owners(1).count(), 0);
        assert_eq!(whole.owners(1).count(), PROBES);
    }
}
