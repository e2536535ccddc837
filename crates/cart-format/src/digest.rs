//! Digests, and one id type for each thing that has one.

use std::fmt;
use std::str::FromStr;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::sha256::Hasher;

/// Why a text is not an id.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{found}` is not a digest: expected 64 lower-case hexadecimal digits")]
pub struct IdError {
    /// What was given, cut to 80 characters.
    pub found: String,
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The id of these bytes.
            pub fn of(bytes: &[u8]) -> Self {
                let mut hasher = Hasher::new();
                hasher.update(bytes);
                Self(hasher.finish())
            }

            /// The ids of two runs of bytes, worked out in one loop, which takes less time than one
            /// after the other.
            pub fn of_pair(first: &[u8], second: &[u8]) -> [Self; 2] {
                let [mut one, mut other] = [Hasher::new(), Hasher::new()];
                one.update_pair(first, &mut other, second);
                [Self(one.finish()), Self(other.finish())]
            }

            /// An id from a digest that was computed elsewhere.
            pub const fn from_bytes(digest: [u8; 32]) -> Self {
                Self(digest)
            }

            /// The 32 bytes of the digest.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// All 64 hexadecimal digits.
            pub fn hex(&self) -> String {
                let mut text = String::with_capacity(64);
                for byte in self.0 {
                    text.push(char::from_digit(u32::from(byte >> 4), 16).expect("a nibble is a digit"));
                    text.push(char::from_digit(u32::from(byte & 15), 16).expect("a nibble is a digit"));
                }
                text
            }

            /// The first 12 digits, for people. Never for look-up.
            pub fn short(&self) -> String {
                self.hex()[..12].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.hex())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(HexDigits).map(Self)
            }
        }
    };
}

id_type! {
    /// SHA-256 of a blob's raw bytes (spec 10 §1).
    BlobId
}
id_type! {
    /// SHA-256 of one 16 MiB segment of a blob (spec 10 §3).
    SegmentId
}
id_type! {
    /// SHA-256 of a packed chunk (spec 65 §3).
    ChunkId
}
id_type! {
    /// SHA-256 of a manifest's canonical bytes: the id of a cartridge (spec 10 §2).
    ManifestId
}
id_type! {
    /// SHA-256 of a commit's canonical bytes (spec 40 §1).
    CommitId
}
id_type! {
    /// Names a memory space: what produced the vectors of a memory (spec 30 §2). Vectors of two
    /// spaces are never compared.
    SpaceId
}

id_type! {
    /// Names the whole state of a memory: its document and its tensors (spec 30 §4).
    MemoryId
}

id_type! {
    /// Names what the numbers of a session's state depend on (spec 35 §2). A state of another basis
    /// can't be continued.
    BasisId
}

impl From<ManifestId> for BlobId {
    /// A manifest is stored as the blob of its canonical bytes.
    fn from(id: ManifestId) -> Self {
        Self(id.0)
    }
}

/// Reads digits where they stand, without a copy of them.
struct HexDigits;

impl Visitor<'_> for HexDigits {
    type Value = [u8; 32];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("64 hexadecimal digits")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<[u8; 32], E> {
        parse_hex(text).map_err(E::custom)
    }
}

fn parse_hex(text: &str) -> Result<[u8; 32], IdError> {
    let refuse = || IdError { found: text.chars().take(80).collect() };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let pairs: &[[u8; 2]; 32] = pairs.try_into().map_err(|_| refuse())?;
    let mut digest = [0; 32];
    let mut seen = 0;
    for (byte, &[high, low]) in digest.iter_mut().zip(pairs) {
        let (high, low) = (NIBBLES[usize::from(high)], NIBBLES[usize::from(low)]);
        seen |= high | low;
        *byte = high << 4 | low;
    }
    // What is no digit is above them all.
    if seen > 0xf || !rest.is_empty() {
        return Err(refuse());
    }
    Ok(digest)
}

/// The value of each digit, and 255 of what is none.
const NIBBLES: [u8; 256] = {
    let mut values = [u8::MAX; 256];
    let digits = b"0123456789abcdef";
    let mut value = 0;
    while value < digits.len() {
        values[digits[value] as usize] = value as u8;
        value += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_sha256_of_its_bytes_and_survives_its_text() {
        let id = BlobId::of(b"abc");
        assert_eq!(id.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(id.hex().parse(), Ok(id));
    }

    #[test]
    fn upper_case_short_and_foreign_digits_are_refused() {
        let good = BlobId::of(b"").hex();
        for bad in [good.to_uppercase(), good[1..].to_owned(), good.replace('e', "g")] {
            assert!(bad.parse::<BlobId>().is_err(), "{bad}");
        }
    }
}
