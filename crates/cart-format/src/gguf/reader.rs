//! Little-endian numbers and texts out of the first bytes of a file.

use super::{GgufError, KEY_BYTES, MAGIC};
use crate::limits::HEADER_BYTES;

/// Why reading stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// The head goes on to this byte, which was not given.
    NeedMore(u64),
    /// The file is refused.
    Error(GgufError),
}

impl From<GgufError> for Stop {
    fn from(error: GgufError) -> Self {
        Self::Error(error)
    }
}

/// A position in the first bytes of a file.
pub(super) struct Reader<'a> {
    prefix: &'a [u8],
    file_len: u64,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(prefix: &'a [u8], file_len: u64) -> Self {
        Self { prefix, file_len, at: 0 }
    }

    pub(super) fn at(&self) -> u64 {
        self.at as u64
    }

    pub(super) fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Whether the bytes up to `end` were given; if not, whether there can be such.
    pub(super) fn need(&self, what: &str, end: u64) -> Result<(), Stop> {
        if end <= self.prefix.len() as u64 {
            return Ok(());
        }
        if end > HEADER_BYTES {
            return Err(GgufError::HeadTooLarge { what: what.to_owned(), end }.into());
        }
        if end > self.file_len {
            let what = what.to_owned();
            return Err(GgufError::Truncated { what, end, len: self.file_len }.into());
        }
        Err(Stop::NeedMore(end))
    }

    /// The next `count` elements of `size` bytes.
    pub(super) fn take(&mut self, what: &str, count: u64, size: u64) -> Result<&'a [u8], Stop> {
        let end = self.at().saturating_add(count.saturating_mul(size));
        self.need(what, end)?;
        let bytes = &self.prefix[self.at..end as usize];
        self.at = end as usize;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Stop> {
        let bytes = self.take(what, 1, N as u64)?;
        Ok(bytes.try_into().expect("`take` gives as many bytes as were asked for"))
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, Stop> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, Stop> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Refuses a file that begins with something else, even if it ends right there.
    pub(super) fn check_magic(&mut self) -> Result<(), Stop> {
        let what = "the magic number";
        self.need(what, self.file_len.min(MAGIC.len() as u64))?;
        let given = self.prefix.len().min(MAGIC.len());
        if self.prefix[..given] != MAGIC[..given] {
            let found = self.prefix[..given].to_vec();
            return Err(GgufError::Magic { found }.into());
        }
        self.take(what, 1, MAGIC.len() as u64).map(drop)
    }

    /// How many of something there are.
    pub(super) fn count(
        &mut self,
        things: &'static str,
        what: &str,
        allowed: u64,
    ) -> Result<u64, Stop> {
        let found = self.u64(what)?;
        if found > allowed {
            return Err(GgufError::TooMany { what: things, found, allowed }.into());
        }
        Ok(found)
    }

    pub(super) fn key(&mut self) -> Result<String, Stop> {
        let what = "a metadata key";
        let found = self.u64(what)?;
        if found == 0 || found > KEY_BYTES as u64 {
            return Err(GgufError::Key { found }.into());
        }
        let bytes = self.take(what, found, 1)?;
        utf8(what, bytes)
    }

    pub(super) fn string(&mut self, what: &str) -> Result<String, Stop> {
        let length = self.u64(what)?;
        let bytes = self.take(what, length, 1)?;
        utf8(what, bytes)
    }
}

fn utf8(what: &str, bytes: &[u8]) -> Result<String, Stop> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(GgufError::NotUtf8 { what: what.to_owned() }.into()),
    }
}
