//! Who may ask for answers: API keys, each with a name by which metrics know its holder.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// Longest file of keys, in bytes.
const FILE_BYTES: u64 = 4 << 20;
/// Longest name of a key, in characters.
const NAME_LONGEST: usize = 64;

/// The keys that a server takes. Where there are none, it asks for none.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys(Vec<ApiKey>);

/// A key. What is kept is its digest, so that comparing takes as long for a key that is nearly right
/// as for one that is not right at all, and nothing shows it.
#[derive(Clone)]
struct ApiKey {
    name: KeyName,
    digest: [u8; 32],
}

/// What people call the holder of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyName(Arc<str>);

/// Why keys can't be used.
#[derive(Debug, Error)]
pub enum ApiKeyError {
    /// The file can't be read.
    #[error("the keys in {} can't be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is too large to be one of keys.
    #[error("{} has {found} bytes; a file of keys has up to {FILE_BYTES}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        found: u64,
    },
    /// The file has no keys.
    #[error(
        "{} has no keys, which would leave the server open; give one in a line, or leave --api-keys out",
        path.display()
    )]
    NoKeys {
        /// The file.
        path: PathBuf,
    },
    /// A key that can't be sent, or could be guessed.
    #[error(
        "{from} has {found} characters{}; allowed: 16 to 4096, visible and ASCII, after NAME: if it has a name",
        if *visible { "" } else { ", some of which are not visible ASCII" }
    )]
    Key {
        /// Where it comes from; never the key itself.
        from: KeySource,
        /// Its length in characters.
        found: usize,
        /// Whether all of them are visible and ASCII.
        visible: bool,
    },
    /// A key that is there twice.
    #[error("{from} has the key of `{other}` again; give each holder one of their own")]
    Again {
        /// Where it comes from.
        from: KeySource,
        /// The name of the other one.
        other: String,
    },
}

/// Where a key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// An argument, counted from 1.
    Argument(usize),
    /// A line of a file, counted from 1.
    Line {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(number) => write!(f, "API key {number}"),
            Self::Line { path, line } => write!(f, "the key in line {line} of {}", path.display()),
        }
    }
}

impl ApiKeys {
    /// Whether there are none, so that the server asks for none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes a key: `KEY` or `NAME:KEY`.
    ///
    /// # Errors
    /// It is too short or too long, can't be sent in a header, or is there already.
    pub fn add(&mut self, text: &str, from: KeySource) -> Result<(), ApiKeyError> {
        let (name, key) = named(text);
        let (found, visible) = (key.chars().count(), key.bytes().all(|b| b.is_ascii_graphic()));
        if !visible || !(16..=4096).contains(&found) {
            return Err(ApiKeyError::Key { from, found, visible });
        }
        let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        if let Some(other) = self.0.iter().find(|other| other.digest == digest) {
            return Err(ApiKeyError::Again { from, other: other.name.as_str().to_owned() });
        }
        let name = name.map_or_else(|| format!("key-{}", self.0.len() + 1), str::to_owned);
        self.0.push(ApiKey { name: KeyName(name.into()), digest });
        Ok(())
    }

    /// Takes the keys of a file: one a line, `KEY` or `NAME:KEY`; empty lines and those that begin with
    /// `#` are passed over.
    ///
    /// # Errors
    /// The file can't be read or has no keys, or one of them can't be used.
    pub fn add_file(&mut self, path: &Path) -> Result<(), ApiKeyError> {
        let unreadable = |source| ApiKeyError::Unreadable { path: path.to_owned(), source };
        let found = fs::metadata(path).map_err(unreadable)?.len();
        if found > FILE_BYTES {
            return Err(ApiKeyError::TooLarge { path: path.to_owned(), found });
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let before = self.0.len();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                self.add(line, KeySource::Line { path: path.to_owned(), line: index + 1 })?;
            }
        }
        if self.0.len() == before {
            return Err(ApiKeyError::NoKeys { path: path.to_owned() });
        }
        Ok(())
    }

    /// Whose key a request carries. Every key is compared, whichever it is.
    pub(crate) fn holder(&self, headers: &HeaderMap) -> Option<KeyName> {
        let digest: [u8; 32] = Sha256::digest(bearer(headers)?).into();
        let mut holder = None;
        for key in &self.0 {
            let differing = key.digest.iter().zip(digest).fold(0, |seen, (a, b)| seen | (a ^ b));
            if std::hint::black_box(differing) == 0 {
                holder = Some(key.name.clone());
            }
        }
        holder
    }
}

/// What a request carries as `Authorization: Bearer …`. The scheme may be written in any case.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let sent = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, rest) = sent.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(rest)
}

/// A key and its name, if it has one.
fn named(text: &str) -> (Option<&str>, &str) {
    let is_name = |name: &str| {
        (1..=NAME_LONGEST).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@".contains(&b))
    };
    match text.split_once(':') {
        Some((name, key)) if is_name(name) => (Some(name), key),
        _ => (None, text),
    }
}

impl KeyName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({})", self.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "0123456789abcdef";
    const TWO: &str = "fedcba9876543210";

    fn sent(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        headers
    }

    #[test]
    fn a_key_is_known_by_its_holder_and_by_nothing_near_it() {
        let mut keys = ApiKeys::default();
        keys.add(ONE, KeySource::Argument(1)).unwrap();
        keys.add(&format!("anna:{TWO}"), KeySource::Argument(2)).unwrap();
        let holder = |value: &str| {
            keys.holder(&sent(value)).map(|name| name.as_str().to_owned()).unwrap_or_default()
        };
        assert_eq!(holder(&format!("Bearer {ONE}")), "key-1");
        assert_eq!(holder(&format!("bearer {TWO}")), "anna");
        for other in [ONE, "Bearer ", "Bearer 0123456789abcdeF", "Bearer anna:fedcba9876543210"] {
            assert_eq!(holder(other), "", "{other}");
        }
        assert!(keys.holder(&HeaderMap::new()).is_none());
        assert!(!format!("{keys:?}").contains("0123"), "{keys:?}");
    }

    #[test]
    fn keys_that_could_be_guessed_or_are_there_twice_are_refused_without_being_shown() {
        let mut keys = ApiKeys::default();
        keys.add(ONE, KeySource::Argument(1)).unwrap();
        for (bad, says) in [
            ("", "0 characters"),
            ("anna:", "0 characters"),
            ("short", "5 characters"),
            ("a key with blanks in it", "not visible"),
            (&*format!("anna:{ONE}"), "key of `key-1` again"),
        ] {
            let said = keys.add(bad, KeySource::Argument(2)).unwrap_err().to_string();
            assert!(said.starts_with("API key 2 has") && said.contains(says), "{said}");
            assert!(bad.is_empty() || !said.contains(bad), "{said}");
        }
        assert_eq!(keys.len(), 1);
    }

    #[test]
    fn a_file_has_a_key_in_a_line_and_its_mistakes_have_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            let mut keys = ApiKeys::default();
            keys.add_file(&path).map(|()| keys.len())
        };
        assert_eq!(read(&format!("# ours\n\n  {ONE}\nanna:{TWO}\n")).unwrap(), 2);
        let said = read(&format!("{ONE}\nshort\n")).unwrap_err().to_string();
        assert!(said.contains("line 2 of") && said.contains("5 characters"), "{said}");
        assert!(matches!(read("# none\n"), Err(ApiKeyError::NoKeys { .. })));
        let mut keys = ApiKeys::default();
        let missing = keys.add_file(&folder.path().join("nothing"));
        assert!(matches!(missing, Err(ApiKeyError::Unreadable { .. })));
    }
}
