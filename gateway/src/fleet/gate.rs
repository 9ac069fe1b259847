//! Who gets as far as a signature check, and who gets a tunnel: joins are limited per address, and for newcomers together.
//!
//! What is refused before the signature costs a hash and a few loads. Trusted providers always find room: newcomers have a
//! share of the tunnels, and where that is not enough the latest of them makes way.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::domain::address::ClientAddress;
use crate::domain::flood::{Each, Rate, Shared};
use crate::domain::provider::Standing;

/// Limits of joins and tunnels.
#[derive(Clone, Debug)]
pub struct GateLimits {
    /// Requests of the join protocol per address and minute.
    pub joins_per_minute: u32,
    /// Joins of newcomers per minute, all together.
    pub newcomer_joins_per_minute: u32,
    /// Tunnels at a time.
    pub max_tunnels: usize,
    /// Tunnels of newcomers at a time.
    pub newcomer_tunnels: usize,
    /// Tunnels of newcomers from one address at a time.
    pub newcomer_tunnels_per_address: usize,
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Crowded {
    /// The address asks too often.
    #[error("too many joins from this address")]
    Address {
        /// When it may ask again, in microseconds.
        wait_us: u64,
    },
    /// Newcomers together join too often.
    #[error("too many new providers are joining at this moment")]
    Newcomers {
        /// When one may ask again, in microseconds.
        wait_us: u64,
    },
    /// The address has as many tunnels of newcomers as it may.
    #[error("this address has as many tunnels of new providers as it may")]
    AddressFull,
    /// Newcomers have as many tunnels as they may.
    #[error("this gateway takes no more new providers at this moment")]
    NewcomersFull,
    /// Every tunnel is taken by trusted providers.
    #[error("this gateway takes no more tunnels at this moment")]
    Full,
}

/// Lets providers in, or not.
pub struct Gate {
    limits: GateLimits,
    joins: Each,
    newcomer_joins: Shared,
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    taken: usize,
    /// Newcomers by when they came, with what tells them to make way.
    newcomers: BTreeMap<u64, CancellationToken>,
    newcomers_at: HashMap<ClientAddress, usize>,
    next: u64,
}

/// A tunnel's place; free again when this is dropped.
pub struct Place {
    gate: Arc<Gate>,
    newcomer: Option<(u64, ClientAddress)>,
    taken_back: CancellationToken,
}

impl Gate {
    /// Nobody is in.
    pub fn new(limits: GateLimits) -> Self {
        let joins = Each::new(Rate::per_minute(limits.joins_per_minute));
        let newcomer_joins = Shared::new(Rate::per_minute(limits.newcomer_joins_per_minute));
        Self { limits, joins, newcomer_joins, places: Mutex::default() }
    }

    /// Somebody asks, for a challenge or for a tunnel. To be called before anything else.
    pub fn knock(&self, address: ClientAddress, now_us: u64) -> Result<(), Crowded> {
        self.joins.take(&address, now_us).map_err(|wait_us| Crowded::Address { wait_us })
    }

    /// Somebody shows a join, not verified yet, of a provider that has this standing: whether it is worth verifying.
    pub fn expect(&self, address: ClientAddress, standing: Standing, now_us: u64) -> Result<(), Crowded> {
        if standing != Standing::Newcomer {
            return Ok(());
        }
        self.room_for_a_newcomer(&self.lock(), address)?;
        self.newcomer_joins.take(now_us).map_err(|wait_us| Crowded::Newcomers { wait_us })
    }

    /// A place for a provider whose join is in order.
    pub fn claim(self: &Arc<Self>, address: ClientAddress, standing: Standing) -> Result<Place, Crowded> {
        let mut places = self.lock();
        let taken_back = CancellationToken::new();
        let newcomer = match standing {
            Standing::Newcomer => {
                self.room_for_a_newcomer(&places, address)?;
                let number = places.next;
                places.next += 1;
                places.newcomers.insert(number, taken_back.clone());
                *places.newcomers_at.entry(address).or_default() += 1;
                Some((number, address))
            }
            _ => {
                if places.taken >= self.limits.max_tunnels {
                    // Its tunnel ends a moment later; until then there is one more than there may be.
                    let (_, latest) = places.newcomers.pop_last().ok_or(Crowded::Full)?;
                    latest.cancel();
                }
                None
            }
        };
        places.taken += 1;
        drop(places);
        Ok(Place { gate: self.clone(), newcomer, taken_back })
    }

    fn room_for_a_newcomer(&self, places: &Places, address: ClientAddress) -> Result<(), Crowded> {
        let limits = &self.limits;
        if places.newcomers.len() >= limits.newcomer_tunnels || places.taken >= limits.max_tunnels {
            return Err(Crowded::NewcomersFull);
        }
        match places.newcomers_at.get(&address) {
            Some(here) if *here >= limits.newcomer_tunnels_per_address => Err(Crowded::AddressFull),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Resolves when a trusted provider needs this place.
    pub async fn taken_back(&self) {
        self.taken_back.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.gate.lock();
        places.taken -= 1;
        let Some((number, address)) = self.newcomer else { return };
        places.newcomers.remove(&number);
        if let Some(here) = places.newcomers_at.get_mut(&address) {
            *here -= 1;
            if *here == 0 {
                places.newcomers_at.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    const NOW: u64 = 1_700_000_000_000_000;

    fn address(text: &str) -> ClientAddress {
        text.parse::<IpAddr>().expect("an address").into()
    }

    fn gate() -> Arc<Gate> {
        Arc::new(Gate::new(GateLimits {
            joins_per_minute: 6,
            newcomer_joins_per_minute: 60,
            max_tunnels: 4,
            newcomer_tunnels: 3,
            newcomer_tunnels_per_address: 2,
        }))
    }

    #[test]
    fn an_address_that_knocks_too_often_is_alone_in_waiting() {
        let gate = gate();
        let (a, b) = (address("198.51.100.1"), address("198.51.100.2"));
        assert!((0..6).all(|_| gate.knock(a, NOW).is_ok()));
        assert_eq!(gate.knock(a, NOW), Err(Crowded::Address { wait_us: 10_000_000 }));
        assert_eq!((gate.knock(b, NOW), gate.knock(a, NOW + 10_000_000)), (Ok(()), Ok(())));
    }

    #[test]
    fn newcomers_have_their_share_and_each_address_its_own() {
        let gate = gate();
        let (a, b) = (address("198.51.100.1"), address("198.51.100.2"));
        let first = gate.claim(a, Standing::Newcomer).ok();
        let second = gate.claim(a, Standing::Newcomer).ok();
        assert_eq!(gate.claim(a, Standing::Newcomer).err(), Some(Crowded::AddressFull));
        assert_eq!(gate.expect(a, Standing::Newcomer, NOW), Err(Crowded::AddressFull));
        let third = gate.claim(b, Standing::Newcomer).ok();
        assert_eq!(gate.claim(b, Standing::Newcomer).err(), Some(Crowded::NewcomersFull));
        assert_eq!(gate.expect(b, Standing::Newcomer, NOW), Err(Crowded::NewcomersFull));
        drop(first);
        assert!(gate.claim(a, Standing::Newcomer).is_ok());
        drop((second, third));
        let places = gate.lock();
        assert_eq!((places.taken, places.newcomers_at.len()), (0, 0));
    }

    #[tokio::test]
    async fn a_trusted_provider_finds_room_and_the_latest_newcomer_makes_way() {
        let gate = gate();
        let a = address("198.51.100.1");
        let newcomers: Vec<Place> = (0..2).filter_map(|_| gate.claim(a, Standing::Newcomer).ok()).collect();
        let mut trusted: Vec<Place> = (0..2).filter_map(|_| gate.claim(a, Standing::Trusted).ok()).collect();
        assert_eq!((newcomers.len(), trusted.len()), (2, 2));
        trusted.extend(gate.claim(a, Standing::Trusted));
        newcomers[1].taken_back().await;
        assert!(!newcomers[0].taken_back.is_cancelled(), "only one has to go");
        assert_eq!(gate.claim(a, Standing::Newcomer).err(), Some(Crowded::NewcomersFull));
        drop(newcomers);
        trusted.extend(gate.claim(a, Standing::Trusted));
        assert_eq!((trusted.len(), gate.claim(a, Standing::Trusted).err()), (4, Some(Crowded::Full)));
    }

    #[test]
    fn newcomers_together_do_not_join_faster_than_they_may_and_trusted_ones_are_not_counted() {
        let gate = gate();
        let address_of = |n: u32| ClientAddress::from(IpAddr::from(n.to_be_bytes()));
        let passed = (0..100).filter(|n| gate.expect(address_of(*n), Standing::Newcomer, NOW).is_ok()).count();
        assert_eq!(passed, 60);
        assert_eq!(gate.expect(address_of(7), Standing::Newcomer, NOW), Err(Crowded::Newcomers { wait_us: 1_000_000 }));
        assert_eq!(gate.expect(address_of(7), Standing::Trusted, NOW), Ok(()));
    }
}
