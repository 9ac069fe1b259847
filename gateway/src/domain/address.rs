//! Where a request comes from, as limits per address see it: the peer, or what trusted proxies in front say of it.

use std::net::IpAddr;
use std::str::FromStr;

/// One client as far as limits go: an IPv4 address, or the 64 bits of IPv6 that one customer of a network has at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddress(u128);

/// A range of addresses: `10.0.0.0/8`, `fd00::/8`, or a single one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    start: u128,
    mask: u128,
}

/// Not a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no address and no range of addresses such as 10.0.0.0/8")]
pub struct NotARange(String);

/// Every address as one of IPv6: IPv4's as `::ffff:a.b.c.d`.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl From<IpAddr> for ClientAddress {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.to_ipv6_mapped().to_bits()),
            IpAddr::V6(address) => Self(address.to_bits() & !u128::from(u64::MAX)),
        }
    }
}

impl FromStr for AddressRange {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, NotARange> {
        let refused = || NotARange(text.to_owned());
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.trim().parse().map_err(|_| refused())?;
        let (longest, before) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let length = length.map_or(Ok(longest), |length| length.trim().parse().map_err(|_| refused()))?;
        if length > longest {
            return Err(refused());
        }
        let mask = u128::MAX.checked_shl(128 - before - length).unwrap_or(0);
        Ok(Self { start: bits(address) & mask, mask })
    }
}

impl AddressRange {
    fn contains(&self, address: IpAddr) -> bool {
        bits(address) & self.mask == self.start
    }
}

/// The client behind a connection. `forwarded` is what `X-Forwarded-For` names, from the right, which is the proxy nearest to
/// this gateway, to the left. A name counts only as far as whoever wrote it is trusted: the first that is not is the client.
pub fn client<'a>(
    trusted: &[AddressRange],
    peer: IpAddr,
    forwarded: impl IntoIterator<Item = &'a str>,
) -> ClientAddress {
    let mut address = peer.to_canonical();
    for name in forwarded {
        if !trusted.iter().any(|range| range.contains(address)) {
            break;
        }
        let Some(named) = parse(name) else { break };
        address = named.to_canonical();
    }
    address.into()
}

/// An address as proxies write it, some with a port, IPv6 then in brackets.
fn parse(name: &str) -> Option<IpAddr> {
    let name = name.trim();
    name.parse().ok().or_else(|| name.parse().ok().map(|socket: std::net::SocketAddr| socket.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Vec<AddressRange> {
        texts.iter().map(|text| text.parse().expect("a range")).collect()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_client_is_the_rightmost_that_no_trusted_proxy_is() {
        let trusted = ranges(&["10.0.0.0/8", "127.0.0.1", "fd00::/8"]);
        for (peer, forwarded, expected) in [
            ("203.0.113.9", "198.51.100.1", "203.0.113.9"), // the peer is no proxy of ours: what it says is its own word
            ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "1.2.3.4, 198.51.100.1", "198.51.100.1"), // the client made the first one up
            ("127.0.0.1", "198.51.100.1, 10.9.9.9", "198.51.100.1"), // two proxies
            ("::ffff:10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
            ("fd00::1", "[2001:db8::7]:443", "2001:db8::7"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", "198.51.100.1, unknown", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.2, 10.0.0.3", "10.0.0.2"), // one of ours asks
        ] {
            let from_the_right = forwarded.split(',').rev();
            let found = client(&trusted, address(peer), from_the_right);
            assert_eq!(found, address(expected).into(), "{peer} for {forwarded}");
        }
        assert_eq!(client(&[], address("127.0.0.1"), ["198.51.100.1"]), address("127.0.0.1").into());
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_client_and_an_ipv4_address_as_one() {
        let same = |a: &str, b: &str| ClientAddress::from(address(a)) == ClientAddress::from(address(b));
        assert!(same("2001:db8::1", "2001:db8::ffff:0:0:1"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(same("198.51.100.1", "::ffff:198.51.100.1"));
        assert!(!same("198.51.100.1", "198.51.100.2"));
    }

    #[test]
    fn ranges_are_read_and_nonsense_is_not() {
        let all = ranges(&["0.0.0.0/0"]);
        assert!(all[0].contains(address("255.1.2.3")) && !all[0].contains(address("2001:db8::1")));
        assert!(ranges(&["::/0"])[0].contains(address("255.1.2.3")));
        let some = ranges(&["192.168.0.0/23"]);
        assert!(some[0].contains(address("192.168.1.255")) && !some[0].contains(address("192.168.2.0")));
        for nonsense in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "example.com", "10.0.0.0/-1", "10.0.0.0/"] {
            assert_eq!(nonsense.parse::<AddressRange>(), Err(NotARange(nonsense.into())));
        }
    }
}
