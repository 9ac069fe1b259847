//! What providers are called beside their ids. A name is its bearer's own word, so it counts only for those that the operator
//! trusts, and several may have the same: an id names one provider and proves it.

use std::collections::HashMap;

use lumbung_openapi::provider::is_name;

/// A provider's name ([`is_name`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderName(String);

impl ProviderName {
    /// What a provider says of itself; `None` where that is no name.
    pub fn new(said: &str) -> Option<Self> {
        is_name(said).then(|| Self(said.to_owned()))
    }

    /// As it is shown.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether clients mean it by this name: small and large letters are alike, and so are spaces, `_` and `-`.
    pub fn is(&self, named: &str) -> bool {
        self.0.len() == named.len() && self.0.bytes().map(alike).eq(named.bytes().map(alike))
    }
}

fn alike(byte: u8) -> u8 {
    match byte {
        b' ' | b'_' => b'-',
        other => other.to_ascii_lowercase(),
    }
}

/// Who of a roster has which name.
#[derive(Debug, Default)]
pub struct Named(HashMap<Vec<u8>, Vec<u32>>);

impl Named {
    /// Of the names of a roster's providers, in its order.
    pub fn of<'a>(names: impl Iterator<Item = Option<&'a ProviderName>>) -> Self {
        let mut named: HashMap<Vec<u8>, Vec<u32>> = HashMap::new();
        for (at, name) in (0..).zip(names) {
            if let Some(name) = name {
                named.entry(name.0.bytes().map(alike).collect()).or_default().push(at);
            }
        }
        Self(named)
    }

    /// Who is called so.
    pub fn find(&self, name: &str) -> &[u32] {
        let found = (!self.0.is_empty()).then(|| self.0.get(&name.bytes().map(alike).collect::<Vec<u8>>()));
        found.flatten().map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_meant_however_it_is_written() {
        let name = ProviderName::new("Acme GPU_2").expect("a name");
        assert!(["acme-gpu-2", "ACME GPU 2", "Acme GPU_2"].iter().all(|named| name.is(named)));
        assert!(!["acme", "acme-gpu-22", "acme.gpu-2"].iter().any(|named| name.is(named)));
        assert_eq!(ProviderName::new("acme/fp8"), None);
    }

    #[test]
    fn whoever_has_a_name_is_found_by_it() {
        let names = ["Acme", "other", "acme"].map(ProviderName::new);
        let named = Named::of([names[0].as_ref(), None, names[1].as_ref(), names[2].as_ref()].into_iter());
        assert_eq!((named.find("ACME"), named.find("other"), named.find("nobody")), (&[0, 3][..], &[2][..], &[][..]));
    }
}
