//! How many are there, for whoever watches over the fleet.

use std::collections::HashSet;

use super::Fleet;
use crate::domain::provider::Standing;

/// The fleet in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Providers with a tunnel to this gateway, by standing.
    pub tunnels: Vec<(Standing, usize)>,
    /// Those of them that finish what they have.
    pub draining: usize,
    /// Providers that only another gateway has a tunnel to.
    pub elsewhere: usize,
    /// Other gateways that can be reached.
    pub peers_open: usize,
    /// Other gateways that are known and cannot be reached.
    pub peers_closed: usize,
}

impl Fleet {
    /// Counts everybody.
    pub fn census(&self) -> Census {
        let members = self.lock();
        let standings: Vec<Standing> = members.tunnels.keys().map(|provider| members.standing(provider)).collect();
        let of = |standing| (standing, standings.iter().filter(|found| **found == standing).count());
        let elsewhere: HashSet<_> = members.peers.values().flat_map(|peer| peer.offers.keys()).collect();
        let peers_open = members.peers.values().filter(|fleet| fleet.peer.as_ref().is_some_and(|peer| peer.is_open()));
        let peers_open = peers_open.count();
        Census {
            tunnels: [Standing::Newcomer, Standing::Trusted, Standing::Banned].map(of).into(),
            draining: members.tunnels.values().filter(|member| member.offer.draining).count(),
            elsewhere: elsewhere.iter().filter(|provider| !members.tunnels.contains_key(**provider)).count(),
            peers_open,
            peers_closed: members.peers.len() - peers_open,
        }
    }
}
