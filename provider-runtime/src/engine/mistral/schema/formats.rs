//! Formats of strings, as patterns that are no wider than the format: every string that matches is one, to any validator.

use std::borrow::Cow;

/// Days that every year has; 29 February is left out.
const DATE: &str = "[1-9][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))";
/// RFC 3339, without leap seconds.
const TIME: &str = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
/// RFC 3339, appendix A.
const DURATION: &str = "P([0-9]{1,9}W|([0-9]{1,9}Y([0-9]{1,9}M([0-9]{1,9}D)?)?|[0-9]{1,9}M([0-9]{1,9}D)?|[0-9]{1,9}D)(T([0-9]{1,9}H([0-9]{1,9}M([0-9]{1,9}S)?)?|[0-9]{1,9}M([0-9]{1,9}S)?|[0-9]{1,9}S))?|T([0-9]{1,9}H([0-9]{1,9}M([0-9]{1,9}S)?)?|[0-9]{1,9}M([0-9]{1,9}S)?|[0-9]{1,9}S))";
/// RFC 1123, of at most four labels of at most 47 characters, which have no two dashes together: those have a meaning.
const HOSTNAME: &str = "[a-z0-9]{1,15}(-[a-z0-9]{1,15}){0,2}(\\.[a-z][a-z0-9]{0,14}(-[a-z0-9]{1,15}){0,2}){0,3}";
/// The addresses that people have, of RFC 5321's.
const EMAIL: &str =
    "[A-Za-z0-9_+]{1,30}(\\.[A-Za-z0-9_+]{1,30})?@[a-z0-9]{1,15}(-[a-z0-9]{1,15}){0,2}(\\.[a-z]{2,24}){1,2}";
const IPV4: &str = "((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
/// In full, or with its zeros left out at one end.
const IPV6: &str = "(([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|([0-9a-f]{1,4}:){1,6}:|:(:[0-9a-f]{1,4}){1,6}|::)";
const UUID: &str = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
/// The web's, of RFC 3986's.
const URI: &str = "https?://[a-z0-9]{1,15}(-[a-z0-9]{1,15}){0,2}(\\.[a-z][a-z0-9]{0,14}(-[a-z0-9]{1,15}){0,2}){0,3}(:[1-9][0-9]{0,3})?(/[A-Za-z0-9._~-]*)*(\\?[A-Za-z0-9._~=&-]*)?(#[A-Za-z0-9._~-]*)?";

/// What a string of a format matches, from its beginning to its end; `None` where the format is not known.
pub fn pattern_of(name: &str) -> Option<String> {
    let pattern: Cow<'static, str> = match name {
        "date" => DATE.into(),
        "time" => TIME.into(),
        "date-time" => format!("({DATE})T({TIME})").into(),
        "duration" => DURATION.into(),
        "hostname" => HOSTNAME.into(),
        "email" => EMAIL.into(),
        "ipv4" => IPV4.into(),
        "ipv6" => IPV6.into(),
        "uuid" => UUID.into(),
        "uri" => URI.into(),
        _ => return None,
    };
    Some(format!("^({pattern})$"))
}
