//! Merkle trees as RFC 6962 section 2.1 defines them: leaves hashed with a 0x00 prefix, nodes with 0x01,
//! an odd node split at the largest power of two below the count.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

/// A SHA-256 hash; base64url without padding in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash of some bytes, without any prefix.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The hash of a leaf made of these parts, one after the other.
    pub fn of_leaf(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new_with_prefix([0]);
        parts.iter().for_each(|part| hasher.update(part));
        Self(hasher.finalize().into())
    }

    fn of_node(left: Self, right: Self) -> Self {
        Self(Sha256::new_with_prefix([1]).chain_update(left.0).chain_update(right.0).finalize().into())
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl std::str::FromStr for Hash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| "not base64url")?;
        bytes.try_into().map(Self).map_err(|_| "not 32 bytes")
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The root over these leaf hashes, in order. No leaves: the hash of nothing, as the RFC has it.
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash::of(b""),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            Hash::of_node(root(left), root(right))
        }
    }
}

/// The hashes beside the way from leaf `index` to the root, from the leaf up. Empty for an index out of range.
pub fn inclusion_path(leaves: &[Hash], index: usize) -> Vec<Hash> {
    if leaves.len() < 2 || index >= leaves.len() {
        return Vec::new();
    }
    let at = split(leaves.len());
    let (left, right) = leaves.split_at(at);
    let (mut path, sibling) = match index < at {
        true => (inclusion_path(left, index), root(right)),
        false => (inclusion_path(right, index - at), root(left)),
    };
    path.push(sibling);
    path
}

/// Whether `leaf` stands at `index` of the `count` leaves under `root`. A path that is longer than any tree is deep proves nothing.
pub fn verify_inclusion(root: Hash, leaf: Hash, index: usize, count: usize, path: &[Hash]) -> bool {
    index < count && count <= MAX_LEAVES && path.len() <= MAX_DEPTH && climb(leaf, index, count, path) == Some(root)
}

/// Far beyond any tree that there will be.
const MAX_DEPTH: usize = 48;
const MAX_LEAVES: usize = 1 << MAX_DEPTH;

fn climb(leaf: Hash, index: usize, count: usize, path: &[Hash]) -> Option<Hash> {
    if count == 1 {
        return path.is_empty().then_some(leaf);
    }
    let (sibling, below) = path.split_last()?;
    let at = split(count);
    match index < at {
        true => Some(Hash::of_node(climb(leaf, index, at, below)?, *sibling)),
        false => Some(Hash::of_node(*sibling, climb(leaf, index - at, count - at, below)?)),
    }
}

/// The largest power of two below `count`, which is two or more.
fn split(count: usize) -> usize {
    (count.next_power_of_two()) >> 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test vectors of RFC 6962's reference implementation (certificate-transparency, merkletree tests).
    #[test]
    fn roots_agree_with_certificate_transparency() {
        let hex = |h: Hash| h.0.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let inputs: [&[u8]; 3] = [b"", &[0x00], &[0x10]];
        let leaves: Vec<Hash> = inputs.iter().map(|i| Hash::of_leaf(&[i])).collect();
        assert_eq!(hex(root(&leaves[..0])), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(hex(root(&leaves[..1])), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        assert_eq!(hex(root(&leaves[..2])), "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125");
        assert_eq!(hex(root(&leaves[..3])), "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77");
    }

    #[test]
    fn a_proof_beyond_all_measure_is_refused() {
        let leaf = Hash::of_leaf(&[b"leaf"]);
        assert!(!verify_inclusion(leaf, leaf, 0, usize::MAX, &[leaf; 64]));
        assert!(!verify_inclusion(leaf, leaf, 0, 2, &vec![leaf; 1 << 20]));
    }

    #[test]
    fn every_leaf_proves_itself_and_nothing_else() {
        for count in 1..=20 {
            let leaves: Vec<Hash> = (0..count).map(|i: usize| Hash::of_leaf(&[&i.to_be_bytes()])).collect();
            let root = root(&leaves);
            for index in 0..count {
                let path = inclusion_path(&leaves, index);
                assert!(verify_inclusion(root, leaves[index], index, count, &path));
                for other in (0..count).filter(|other| *other != index) {
                    assert!(
                        !verify_inclusion(root, leaves[other], index, count, &path),
                        "leaf {other} passed for {index} of {count}"
                    );
                    assert!(
                        !verify_inclusion(root, leaves[index], other, count, &path),
                        "{index} passed at {other} of {count}"
                    );
                }
            }
        }
    }
}
