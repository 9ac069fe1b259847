//! The texts of an attempt as a SQLite file keeps them. A row of a few hundred bytes instead of two thousand is what makes
//! settling cheap there, for whole pages are written. In Postgres they stand as they are, because a gateway of the release
//! before may read them (see `migrations/README.md`); both ways are read everywhere.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use lumbung_openapi::receipt::SettlementRecord;
use sqlx::AnyConnection;

use super::{Result, StoreError};

/// What our tickets have in common, in their order: each stands as one character, its place in this list, counted from 1.
/// **Never changed**: rows that are there are read by it. What a later ticket has besides is kept as it is.
const COMMON: [&str; 24] = [
    "{\"typ\":\"lumbung-ticket\",\"alg\":\"HS256\",\"kid\":\"",
    "\"}.",
    "{\"replica\":\"",
    "\",\"allowance\":\"",
    "\",\"job\":\"",
    "\",\"attempt\":",
    ",\"first_token\":",
    ",\"provider\":\"",
    "\",\"model\":\"",
    "\",\"digests\":[",
    "\"prompt_usd_per_mtok\":\"",
    "\",\"completion_usd_per_mtok\":\"",
    "\",\"fee_bps\":",
    ",\"max_prompt_tokens\":",
    ",\"max_completion_tokens\":",
    ",\"whole\":true",
    ",\"ceiling_usd\":\"",
    "\",\"request_sha256\":\"",
    "\",\"public_id\":\"",
    "\",\"public_model\":\"",
    "\",\"created\":",
    ",\"start_by\":",
    ",\"claim_by\":",
    "}.",
];

/// What a shortened ticket begins with, and no other text that is kept.
const MARK: char = '\u{1}';

/// Whether this database keeps texts compactly.
pub(super) fn is_for(connection: &AnyConnection) -> bool {
    connection.backend_name() == "SQLite"
}

/// A ticket, shortened; `None` for a text that would not come out again as it is.
pub(super) fn shortened(ticket: &str) -> Option<String> {
    let (message, signature) = ticket.rsplit_once('.')?;
    let (header, claims) = message.split_once('.')?;
    let decoded = |part: &str| String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    let text = format!("{}.{}.", decoded(header)?, decoded(claims)?);
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return None;
    }
    let (mut short, mut rest) = (String::with_capacity(text.len()), text.as_str());
    for (code, common) in ('\u{1}'..).zip(COMMON) {
        if let Some(at) = place_of(common, rest) {
            short.push_str(&rest[..at]);
            short.push(code);
            rest = &rest[at + common.len()..];
        }
    }
    short.push_str(rest);
    short.push_str(signature);
    (short.starts_with(MARK) && expanded(&short).ok()? == ticket).then_some(short)
}

/// Where `common` stands, which is not far: `str::find` would take longer to prepare than to search.
fn place_of(common: &str, text: &str) -> Option<usize> {
    let (common, text) = (common.as_bytes(), text.as_bytes());
    let first = *common.first()?;
    (0..text.len()).find(|at| text[*at] == first && text[*at..].starts_with(common))
}

/// A ticket as it was signed, from what is kept of it.
pub(super) fn whole(kept: String) -> Result<String> {
    if kept.starts_with(MARK) { expanded(&kept) } else { Ok(kept) }
}

fn expanded(short: &str) -> Result<String> {
    let mut text = String::with_capacity(3 * short.len());
    let mut from = 0;
    for (at, byte) in short.bytes().enumerate() {
        if let Some(common) = usize::from(byte).checked_sub(1).and_then(|place| COMMON.get(place)) {
            text.push_str(&short[from..at]);
            text.push_str(common);
            from = at + 1;
        }
    }
    text.push_str(&short[from..]);
    let damaged = || StoreError::corrupt("a ticket is malformed");
    // JSON of ours ends where this does: inside it, a quotation mark is escaped.
    let (header, rest) = text.split_once("\"}.").ok_or_else(damaged)?;
    let (claims, signature) = rest.rsplit_once("}.").ok_or_else(damaged)?;
    let (header, claims) = (&text[..header.len() + 2], &text[header.len() + 3..][..claims.len() + 1]);
    let mut ticket = String::with_capacity(text.len() * 4 / 3 + 4);
    BASE64_URL_SAFE_NO_PAD.encode_string(header, &mut ticket);
    ticket.push('.');
    BASE64_URL_SAFE_NO_PAD.encode_string(claims, &mut ticket);
    ticket.push('.');
    ticket.push_str(signature);
    Ok(ticket)
}

/// The text that the gateway signed of an attempt. It follows from what its row says: kept texts are from before it did not
/// have to be.
pub(super) fn record_text(record: &SettlementRecord) -> Result<String> {
    serde_json::to_string(record).map_err(|_| StoreError::corrupt("a record has no JSON"))
}

#[cfg(test)]
mod tests {
    use lumbung_openapi::jws::HmacKey;
    use lumbung_openapi::merkle::Hash;
    use lumbung_openapi::money::{NanoUsd, TokenPrice};
    use lumbung_openapi::ticket::{TICKET_TYP, Ticket};

    use super::*;

    fn ticket() -> Ticket {
        let nanos = NanoUsd::from_nanos;
        Ticket {
            replica: "rep_1".into(),
            allowance: "alw_1".into(),
            job: "job_1".into(),
            attempt: 1,
            first_token: 0,
            provider: "someone".into(),
            model: "tiny".into(),
            digests: vec!["sha256:a".into()],
            price: TokenPrice { prompt: nanos(1_000_000_000), completion: nanos(2_000_000_000) },
            fee_bps: 1000,
            max_prompt_tokens: 100,
            max_completion_tokens: 200,
            whole: true,
            ceiling: nanos(500_000),
            request_sha256: Hash::of(b"request"),
            public_id: "chatcmpl-job_1".into(),
            public_model: "tiny".into(),
            created: 1_700_000_000,
            start_by: 1_700_000_010,
            claim_by: 1_700_000_300,
        }
    }

    fn sign(ticket: &Ticket) -> String {
        HmacKey::from_secret(&[7; 32]).sign(TICKET_TYP, "key_1", ticket)
    }

    #[test]
    fn a_ticket_comes_out_as_it_was_signed() {
        let odd = |name: &str| Ticket { public_model: name.into(), model: name.into(), ..ticket() };
        let others = [
            ticket(),
            Ticket { digests: Vec::new(), whole: false, ..ticket() },
            Ticket { digests: vec!["a".into(), "b\"}.".into()], ..ticket() },
            odd("\",\"created\":1"),
            odd("lumbung \u{1}\u{2}\n}.{\"kid\":\"x\"}."),
            odd("größer ✓"),
            odd(""),
        ];
        for other in others {
            let text = sign(&other);
            let short = shortened(&text).expect("a ticket of ours");
            assert!(short.len() * 3 < text.len() * 2, "{short:?}");
            assert!(short.ends_with(text.rsplit_once('.').expect("a signature").1), "{short:?}");
            assert_eq!(whole(short).expect("it is ours"), text);
        }
    }

    #[test]
    fn what_is_no_ticket_of_ours_is_kept_as_it_is() {
        let other_header = HmacKey::from_secret(&[7; 32]).sign("another", "key_1", &ticket());
        for text in [other_header.as_str(), "", "a ticket", "a.b.c", "e30.e30.", "e31.e30.c2ln", "AQ.Ag.Aw", "\u{1}"] {
            assert_eq!(shortened(text), None, "{text:?}");
        }
        assert_eq!(whole("a.b.c".into()).expect("as it is"), "a.b.c");
        assert!(whole("\u{1}key_1".into()).is_err(), "without its end");
    }

    /// Rows that are there are read by this.
    #[test]
    fn what_is_kept_of_a_ticket_stays_readable() {
        let kept = "\u{1}key_1\u{2}\u{3}rep_1\u{4}alw_1\u{5}job_1\u{6}1\u{7}0\u{8}someone\u{9}tiny\u{a}\"sha256:a\"],\u{b}1\u{c}2\
                    \u{d}1000\u{e}100\u{f}200\u{10}\u{11}0.0005\u{12}H1i5FFsk0QjXrDiIcziz6jIpgzucHkGCUDQ_kHv9EEc\u{13}\
                    chatcmpl-job_1\u{14}tiny\u{15}1700000000\u{16}1700000010\u{17}1700000300\u{18}";
        let text = sign(&ticket());
        let signature = text.rsplit_once('.').expect("a signature").1;
        assert_eq!(shortened(&text), Some(format!("{kept}{signature}")));
    }

    /// What was signed of an attempt must be said again in the same words for ever.
    #[test]
    fn a_record_is_said_in_these_words() {
        let mut record = SettlementRecord {
            id: "chatcmpl-job_1".into(),
            job: "job_1".into(),
            attempt: 1,
            provider: "someone".into(),
            model: "tiny".into(),
            prompt_tokens: 10,
            completion_tokens: 20,
            charge: NanoUsd::from_nanos(50_000),
            fee: NanoUsd::from_nanos(5_000),
            delivered_sha256: Some(Hash::of(b"request")),
        };
        let known = r#"{"id":"chatcmpl-job_1","job":"job_1","attempt":1,"provider":"someone","model":"tiny","prompt_tokens":10,"completion_tokens":20,"charge_usd":"0.00005","fee_usd":"0.000005","delivered_sha256":"H1i5FFsk0QjXrDiIcziz6jIpgzucHkGCUDQ_kHv9EEc"}"#;
        assert_eq!(record_text(&record).expect("JSON"), known);
        record.delivered_sha256 = None;
        let known = known.replace("\"H1i5FFsk0QjXrDiIcziz6jIpgzucHkGCUDQ_kHv9EEc\"", "null");
        assert_eq!(record_text(&record).expect("JSON"), known);
    }
}
