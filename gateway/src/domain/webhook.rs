//! Webhooks in the form of Standard Webhooks: how a message is signed, when it is tried again, and which addresses it may
//! go to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What every secret begins with; the rest is its bytes in base64.
pub const SECRET_PREFIX: &str = "whsec_";
/// Tries of one delivery at most: with the pauses between them about a day.
pub const MAX_TRIES: i64 = 10;

/// The text of a secret.
pub fn secret_text(secret: &[u8]) -> String {
    format!("{SECRET_PREFIX}{}", BASE64_STANDARD.encode(secret))
}

/// The header `webhook-signature` of a message: sent at `timestamp`, Unix seconds. `None` if the secret is none.
pub fn signature(secret: &str, id: &str, timestamp: u64, body: &str) -> Option<String> {
    let secret = BASE64_STANDARD.decode(secret.strip_prefix(SECRET_PREFIX)?).ok()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret).ok()?;
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    Some(format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes())))
}

/// How long to wait after so many failed tries; `None`: it is given up. Four times as long each time, and by chance up to
/// a half less, so that what failed together is not tried together.
pub fn pause(tries: i64, chance: u64) -> Option<Duration> {
    if tries >= MAX_TRIES {
        return None;
    }
    let longest = 1000 << (2 * (tries.max(1) - 1));
    Some(Duration::from_millis(longest - chance % (longest / 2)))
}

/// Whether an address is one on the public Internet.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => is_public_v4(address),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let assigned = (a, b, c) == (192, 0, 0);
    let benchmark = a == 198 && (b == 18 || b == 19);
    // 224 and above: multicast, reserved, broadcast.
    !(a == 0
        || a >= 224
        || shared
        || assigned
        || benchmark
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation())
}

/// Global unicast, without what leads into IPv4 (Teredo, 6to4) or is for documents.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let special = a == 0x2001 && (b < 0x200 || b == 0xdb8);
    a & 0xe000 == 0x2000 && !special && a != 0x2002
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example that the Standard Webhooks libraries test themselves with.
    #[test]
    fn a_message_is_signed_as_standard_webhooks_says() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let signed = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signed.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
        assert_eq!(signature("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg", 1, ""), None, "without its prefix");
        assert_eq!(signature("whsec_!", "msg", 1, ""), None);
        let own = secret_text(&[7; 32]);
        assert!(signature(&own, "msg", 1, "").is_some_and(|text| text.starts_with("v1,")));
    }

    #[test]
    fn ten_tries_take_about_a_day() {
        let (least, most) = (u64::MAX, 0);
        let all = |chance| (1..MAX_TRIES).filter_map(|tries| pause(tries, chance)).sum::<Duration>();
        let hours = |time: Duration| time.as_secs() / 3600;
        assert_eq!(hours(all(most)), 24);
        assert!((12..=24).contains(&hours(all(least))));
        assert!((1..MAX_TRIES).all(|tries| pause(tries + 1, 0) > pause(tries, 0) || tries + 1 == MAX_TRIES));
        assert_eq!(pause(1, 0), Some(Duration::from_secs(1)));
        assert_eq!(pause(MAX_TRIES, 0), None);
    }

    #[test]
    fn only_public_addresses_are_public() {
        for address in ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8"] {
            assert!(is_public(address.parse().expect("an address")), "{address}");
        }
        for address in [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2002:7f00:1::",
            "64:ff9b::7f00:1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
        ] {
            assert!(!is_public(address.parse().expect("an address")), "{address}");
        }
    }
}
