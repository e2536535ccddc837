//! The bytes of a log: records after the magic, each
//! `length of the document u32 · number of floats u32 · check of the two, 4 bytes · document · floats f32 · digest, 32 bytes`.
//!
//! The digest is SHA-256 over the digest before, the lengths, the document and the floats; the check
//! is the first 4 bytes of SHA-256 over the digest before and the lengths, so that a changed length
//! is not taken for a cut.

use cart_format::json;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{LogError, MAGIC, sha256};
use crate::Input;

/// Largest document of a record, in bytes.
const MAX_DOCUMENT: u32 = 64 << 20;
/// Most floats of a record, 1 GiB: a span of 4,095 tokens with 65,536 values each and its key.
const MAX_FLOATS: u32 = 1 << 28;
const LENGTHS: usize = 8;
const CHECK: usize = 4;
const DIGEST: usize = 32;

/// A record's content.
pub(super) struct Payload {
    document: Vec<u8>,
    floats: Vec<u8>,
}

impl Payload {
    /// # Errors
    /// It is larger than what a reader takes, or has a number without a canonical form.
    pub(super) fn new<T: Serialize>(document: &T, floats: Vec<f32>) -> Result<Self, LogError> {
        let document = json::to_canonical(document).map_err(LogError::Number)?;
        let limits = [
            ("bytes in its document", document.len(), MAX_DOCUMENT),
            ("floats", floats.len(), MAX_FLOATS),
        ];
        for (what, found, most) in limits {
            if found > most as usize {
                return Err(LogError::TooLarge { what, found, most });
            }
        }
        Ok(Self { document, floats: floats.into_iter().flat_map(f32::to_le_bytes).collect() })
    }
}

/// The digest of all records so far.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    digest: [u8; DIGEST],
}

impl Chain {
    pub(super) fn new() -> Self {
        Self { digest: sha256(&[&MAGIC]) }
    }

    pub(super) fn after(digest: [u8; DIGEST]) -> Self {
        Self { digest }
    }

    pub(super) fn digest(&self) -> [u8; DIGEST] {
        self.digest
    }

    /// The bytes of the next record.
    pub(super) fn record(&mut self, payload: &Payload) -> Vec<u8> {
        let Payload { document, floats } = payload;
        let mut bytes = Vec::with_capacity(document.len() + floats.len() + 44);
        bytes.extend((document.len() as u32).to_le_bytes());
        bytes.extend(((floats.len() / 4) as u32).to_le_bytes());
        let check = sha256(&[&self.digest, &bytes]);
        self.digest = sha256(&[&self.digest, &bytes, document, floats]);
        bytes.extend(&check[..CHECK]);
        bytes.extend(document);
        bytes.extend(floats);
        bytes.extend(self.digest);
        bytes
    }
}

/// Reads a log's records one by one.
#[derive(Debug)]
pub(super) struct LogReader<'b> {
    bytes: &'b [u8],
    offset: usize,
    chain: Chain,
    record: u64,
}

impl<'b> LogReader<'b> {
    /// Looks at the first bytes.
    ///
    /// # Errors
    /// It is no log.
    pub(super) fn open(bytes: &'b [u8]) -> Result<Self, LogError> {
        let start = &bytes[..bytes.len().min(MAGIC.len())];
        if start != MAGIC {
            let cut = MAGIC.starts_with(start);
            let bytes = bytes.len();
            return Err(if cut { LogError::NoHead { bytes } } else { LogError::Magic });
        }
        Ok(Self { bytes, offset: MAGIC.len(), chain: Chain::new(), record: 0 })
    }

    /// Bytes of the records that were read.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn digest(&self) -> [u8; DIGEST] {
        self.chain.digest()
    }

    /// The next record; none where the log ends, or was cut within it.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<(T, Vec<f32>)>, LogError> {
        let rest = &self.bytes[self.offset..];
        let Some((lengths, rest)) = rest.split_at_checked(LENGTHS) else { return Ok(None) };
        let Some((check, rest)) = rest.split_at_checked(CHECK) else { return Ok(None) };
        let edited = LogError::Edited { record: self.record, offset: self.offset };
        if sha256(&[&self.chain.digest, lengths])[..CHECK] != *check {
            return Err(edited);
        }
        let document = u32_at(lengths, 0);
        let floats = u32_at(lengths, 4);
        if document > MAX_DOCUMENT || floats > MAX_FLOATS {
            return Err(edited);
        }
        let Some((document, rest)) = rest.split_at_checked(document as usize) else {
            return Ok(None);
        };
        let Some((floats, rest)) = rest.split_at_checked(floats as usize * 4) else {
            return Ok(None);
        };
        let Some((digest, _)) = rest.split_at_checked(DIGEST) else { return Ok(None) };
        let chained = sha256(&[&self.chain.digest, lengths, document, floats]);
        if chained != *digest {
            return Err(edited);
        }
        let read = json::from_canonical(document, u64::from(MAX_DOCUMENT))
            .map_err(|source| LogError::Document { record: self.record, source })?;
        let read = serde_json::from_value(read)
            .map_err(|source| LogError::Fields { record: self.record, source })?;
        self.offset += LENGTHS + CHECK + document.len() + floats.len() + DIGEST;
        self.chain = Chain::after(chained);
        self.record += 1;
        let floats = floats.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect();
        Ok(Some((read, floats)))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The vectors of an input, in order of declaration.
fn vectors(input: &mut Input) -> Vec<&mut Vec<f32>> {
    match input {
        Input::Observe { seen, .. } => {
            vec![&mut seen.key, &mut seen.token_keys, &mut seen.surprise]
        }
        Input::Recall { query, .. }
        | Input::RecallTokens { query, .. }
        | Input::Associate { query, .. }
        | Input::Address { query, .. }
        | Input::Counterfactual { query, .. }
        | Input::Novelty { query }
        | Input::Reflect { query, .. } => vec![query],
        Input::AttachGoal { vector, .. } => vec![vector],
        Input::Prompt { vector } => vector.iter_mut().collect(),
        Input::Advance { .. }
        | Input::Cycle { .. }
        | Input::SetGate { .. }
        | Input::Supersede { .. }
        | Input::Successors { .. } => Vec::new(),
    }
}

/// Takes the vectors out; returns their lengths and their values.
pub(super) fn take_floats(input: &mut Input) -> (Vec<u32>, Vec<f32>) {
    let (mut lengths, mut floats) = (Vec::new(), Vec::new());
    for vector in vectors(input) {
        lengths.push(vector.len() as u32);
        floats.append(vector);
    }
    (lengths, floats)
}

/// Puts the vectors back. Says how many floats there are and how many are needed, where they differ.
pub(super) fn put_floats(
    input: &mut Input,
    lengths: &[u32],
    floats: &[f32],
) -> Result<(), (usize, usize)> {
    let needed: usize = lengths.iter().map(|&length| length as usize).sum();
    let vectors = vectors(input);
    if needed != floats.len() || vectors.len() != lengths.len() {
        return Err((floats.len(), needed));
    }
    let mut rest = floats;
    for (vector, &length) in vectors.into_iter().zip(lengths) {
        let (own, others) = rest.split_at(length as usize);
        *vector = own.to_vec();
        rest = others;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_reader_would_take_is_not_written() {
        let text = "x".repeat(MAX_DOCUMENT as usize - 1);
        let refused = Payload::new(&text, Vec::new()).err().unwrap();
        let found = MAX_DOCUMENT as usize + 1;
        assert!(
            matches!(refused, LogError::TooLarge { found: f, most: MAX_DOCUMENT, .. } if f == found),
            "{refused}"
        );
        let fits = Payload::new(&&text[1..], vec![0.5]).unwrap();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(Chain::new().record(&fits));
        let (read, floats) = LogReader::open(&bytes).unwrap().next::<String>().unwrap().unwrap();
        assert_eq!((read.len(), floats), (text.len() - 1, vec![0.5]));
    }
}
