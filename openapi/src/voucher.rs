//! Vouchers: the gateway's word, given while an answer runs, on how much of it has arrived and what it may cost by now.
//!
//! A provider that still has the last one is paid by it, should the gateway die before it settles. Like a ticket, a
//! voucher is authenticated for the gateways alone: a provider cannot check it, need not, and hands it back in its receipt.

use serde::{Deserialize, Serialize};

use crate::money::NanoUsd;

/// `typ` of a voucher.
pub const VOUCHER_TYP: &str = "lumbung-voucher";

/// Claims of a voucher. Signed with HMAC-SHA256 under a key id, as tickets are. Each stands for all before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voucher {
    /// The job.
    pub job: String,
    /// Which attempt at it: together with the job, this names the ticket and so the provider.
    pub attempt: u32,
    /// Completion tokens of this attempt that the gateway has received in whole frames.
    pub tokens: u32,
    /// The most that the job may cost by now: the ticket's ceiling, or more, where an answer outgrew what was first held.
    #[serde(rename = "ceiling_usd")]
    pub ceiling: NanoUsd,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jws::{HmacKey, JwsError};
    use crate::ticket::TICKET_TYP;

    fn voucher() -> Voucher {
        let ceiling = "0.00205".parse().expect("an amount");
        Voucher { job: "job_01J".into(), attempt: 2, tokens: 64, ceiling }
    }

    #[test]
    fn a_voucher_is_small_and_comes_back_as_it_was() {
        let key = HmacKey::from_secret(&[1; 32]);
        let text = key.sign(VOUCHER_TYP, "k1", &voucher());
        assert_eq!(key.verify::<Voucher>(VOUCHER_TYP, &text), Ok(voucher()));
        assert!(text.len() < 256, "{} bytes", text.len());
        let json = serde_json::to_string(&voucher()).expect("JSON");
        assert_eq!(json, r#"{"job":"job_01J","attempt":2,"tokens":64,"ceiling_usd":"0.00205"}"#);
    }

    #[test]
    fn a_voucher_is_nobody_elses_nor_anything_else() {
        let (key, other) = (HmacKey::from_secret(&[1; 32]), HmacKey::from_secret(&[2; 32]));
        let text = key.sign(VOUCHER_TYP, "k1", &voucher());
        assert_eq!(other.verify::<Voucher>(VOUCHER_TYP, &text), Err(JwsError::BadSignature));
        assert_eq!(key.verify::<Voucher>(TICKET_TYP, &text), Err(JwsError::WrongType), "no ticket");
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] ^= 1;
            let changed = String::from_utf8_lossy(&changed);
            assert!(key.verify::<Voucher>(VOUCHER_TYP, &changed).is_err(), "bit changed at {at}");
        }
    }
}
