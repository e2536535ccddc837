//! Names of cartridges.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Longest name, in bytes.
const NAME_BYTES: usize = 128;
/// Longest tag, in bytes.
const TAG_BYTES: usize = 128;
/// The tag of a name that is given without one.
pub const DEFAULT_TAG: &str = "latest";

/// Why a text is not `name` or `name:tag`.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RefNameError {
    /// A part of the name is not acceptable.
    #[error(
        "`{found}` is not a cartridge name; allowed: parts of a-z, 0-9, `.`, `_`, `-` that begin with a letter or digit, joined by `/`, up to {NAME_BYTES} bytes, not ending in `.cart`"
    )]
    Name {
        /// What was given.
        found: String,
    },
    /// The tag is not acceptable.
    #[error(
        "`{found}` is not a tag; allowed: a-z, 0-9, `.`, `_`, `-`, beginning with a letter or digit, up to {TAG_BYTES} bytes"
    )]
    Tag {
        /// What was given.
        found: String,
    },
}

/// A name and a tag: what a ref is called (spec 40 §3).
///
/// A name is one or more parts of `[a-z0-9][a-z0-9._-]*` joined by `/`, up to 128 bytes, and does
/// not end in `.cart` (that is a file). A tag is one such part. Names are lower case so that they
/// mean the same on file systems that ignore case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefName {
    name: String,
    tag: String,
}

impl RefName {
    /// A name and a tag.
    ///
    /// # Errors
    /// One of them has characters that are not allowed, or is empty or too long.
    pub fn new(name: &str, tag: &str) -> Result<Self, RefNameError> {
        let plain = name.len() <= NAME_BYTES && name.split('/').all(is_part);
        if !plain || names_a_cart_file(name) {
            return Err(RefNameError::Name { found: name.chars().take(NAME_BYTES).collect() });
        }
        if tag.len() > TAG_BYTES || !is_part(tag) {
            return Err(RefNameError::Tag { found: tag.chars().take(TAG_BYTES).collect() });
        }
        Ok(Self { name: name.to_owned(), tag: tag.to_owned() })
    }

    /// The name, without the tag.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The name as a folder name: `/` becomes `+`, so that `a:b` and `a/b` never collide.
    pub(crate) fn folder(&self) -> String {
        self.name.replace('/', "+")
    }

    /// The ref that lies at `folder/tag`.
    pub(crate) fn from_folder(folder: &str, tag: &str) -> Result<Self, RefNameError> {
        if folder.contains('/') {
            return Err(RefNameError::Name { found: folder.to_owned() });
        }
        Self::new(&folder.replace('+', "/"), tag)
    }
}

impl FromStr for RefName {
    type Err = RefNameError;

    /// `name` or `name:tag`.
    fn from_str(text: &str) -> Result<Self, RefNameError> {
        let (name, tag) = text.split_once(':').unwrap_or((text, DEFAULT_TAG));
        Self::new(name, tag)
    }
}

impl fmt::Display for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.tag)
    }
}

impl Serialize for RefName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RefName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether people mean a file by it.
pub(crate) fn names_a_cart_file(text: &str) -> bool {
    Path::new(text).extension().is_some_and(|extension| extension == "cart")
}

fn is_part(text: &str) -> bool {
    let begins = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    begins
        && text.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_tag_defaults_to_latest() {
        let plain: RefName = "team/smol.v2".parse().unwrap();
        assert_eq!(plain.to_string(), "team/smol.v2:latest");
        assert_eq!("smol:old".parse::<RefName>().unwrap().tag(), "old");
    }

    #[test]
    fn names_that_could_leave_the_folder_or_be_files_are_refused() {
        let long = "a".repeat(NAME_BYTES + 1);
        let bad =
            ["", "/a", "a/", "a//b", ".a", "../a", "a/../b", "A", "a b", "a+b", "x.cart", &long];
        for name in bad {
            assert!(matches!(RefName::new(name, "t"), Err(RefNameError::Name { .. })), "{name}");
        }
        for tag in ["", ".", "..", "a/b", "A", "a:b"] {
            assert!(matches!(RefName::new("a", tag), Err(RefNameError::Tag { .. })), "{tag}");
        }
    }

    proptest! {
        #[test]
        fn folders_and_names_are_one_to_one(
            name in "[a-z0-9][a-z0-9._-]{0,5}(/[a-z0-9][a-z0-9._-]{0,5}){0,2}",
            tag in "[a-z0-9][a-z0-9._-]{0,5}",
        ) {
            prop_assume!(!names_a_cart_file(&name));
            let made = RefName::new(&name, &tag).unwrap();
            prop_assert_eq!(RefName::from_folder(&made.folder(), &tag).unwrap(), made.clone());
            prop_assert_eq!(made.to_string().parse::<RefName>().unwrap(), made);
        }
    }
}
