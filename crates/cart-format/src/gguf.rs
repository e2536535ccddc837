//! GGUF, versions 2 and 3: metadata, a table of tensors, and the tensors' bytes at aligned offsets.
//!
//! The head is read from bytes, strictly: no key or name twice, every tensor aligned, inside the
//! file and apart from the others. Counts are believed only as far as the bytes that are there.

mod error;
mod reader;
mod value;

use std::collections::BTreeSet;

use crate::dtype::DType;
pub use crate::head::{Parsed, TensorRange};
use crate::limits::{DIMENSIONS, HEADER_BYTES, TENSORS};
use crate::names::TensorName;
pub use error::GgufError;
use reader::{Reader, Stop};
pub use value::{Array, Value};

/// The first four bytes.
pub const MAGIC: &[u8; 4] = b"GGUF";
/// Most entries of metadata.
pub const ENTRIES: u64 = 65_536;
/// Longest key, in bytes.
pub const KEY_BYTES: usize = 65_535;
/// Deepest nesting of arrays.
pub const ARRAY_DEPTH: usize = 4;
/// Alignment of tensors where the metadata does not say.
pub const ALIGNMENT: u64 = 32;
/// Largest alignment.
pub const MAX_ALIGNMENT: u64 = 1 << 20;

/// What stands before the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// 2 or 3.
    pub version: u32,
    /// The metadata, in the file's order.
    pub metadata: Vec<(String, Value)>,
    /// The tensors, in the order of their bytes.
    pub tensors: Vec<TensorRange>,
    /// Where the data starts.
    pub data_start: u64,
}

/// A tensor as the table has it.
struct Listed {
    name: TensorName,
    dtype: DType,
    shape: Vec<u64>,
    offset: u64,
    size: u64,
}

impl Head {
    /// Reads the head of a file of `file_len` bytes from its first bytes.
    ///
    /// # Errors
    /// The file is not GGUF of a version that is known, breaks a limit, or contradicts itself.
    pub fn parse(prefix: &[u8], file_len: u64) -> Result<Parsed<Self>, GgufError> {
        match Self::read(&mut Reader::new(prefix, file_len)) {
            Ok(head) => Ok(Parsed::Head(head)),
            Err(Stop::Error(error)) => Err(error),
            Err(Stop::NeedMore(end)) => {
                // Doubling keeps the work of reading again within twice that of reading once.
                let limit = file_len.min(HEADER_BYTES);
                Ok(Parsed::NeedMore(end.max(prefix.len() as u64 * 2).min(limit).max(end)))
            }
        }
    }

    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.iter().find(|(found, _)| found == key).map(|(_, value)| value)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Stop> {
        let version = read_version(reader)?;
        let tensors = reader.count("tensors", "the number of tensors", TENSORS)?;
        let entries = reader.count("metadata entries", "the number of entries", ENTRIES)?;
        let metadata = read_metadata(reader, entries)?;
        let alignment = alignment(&metadata)?;
        let listed = read_table(reader, tensors)?;
        // A file without tensors may end before the padding.
        let padded = reader.at().next_multiple_of(alignment);
        let data_start = if tensors == 0 { padded.min(reader.file_len()) } else { padded };
        reader.need("the padding after the head", data_start)?;
        let tensors = place(listed, alignment, data_start, reader.file_len())?;
        Ok(Self { version, metadata, tensors, data_start })
    }
}

fn read_version(reader: &mut Reader<'_>) -> Result<u32, Stop> {
    reader.check_magic()?;
    match reader.u32("the version")? {
        version @ (2 | 3) => Ok(version),
        swapped if matches!(swapped.swap_bytes(), 1..=3) => Err(GgufError::BigEndian.into()),
        found => Err(GgufError::Version { found }.into()),
    }
}

fn read_metadata(reader: &mut Reader<'_>, entries: u64) -> Result<Vec<(String, Value)>, Stop> {
    let mut metadata = Vec::new();
    let mut keys = BTreeSet::new();
    for _ in 0..entries {
        let key = reader.key()?;
        if !keys.insert(key.clone()) {
            return Err(GgufError::DuplicateKey { key }.into());
        }
        let value = Value::read(reader, &key)?;
        metadata.push((key, value));
    }
    Ok(metadata)
}

fn alignment(metadata: &[(String, Value)]) -> Result<u64, GgufError> {
    let Some((_, value)) = metadata.iter().find(|(key, _)| key == "general.alignment") else {
        return Ok(ALIGNMENT);
    };
    match value {
        Value::U32(alignment) if alignment.is_power_of_two() => Some(u64::from(*alignment)),
        _ => None,
    }
    .filter(|&alignment| alignment <= MAX_ALIGNMENT)
    .ok_or_else(|| GgufError::Alignment { found: value.describe() })
}

fn read_table(reader: &mut Reader<'_>, tensors: u64) -> Result<Vec<Listed>, Stop> {
    let mut listed = Vec::new();
    let mut names = BTreeSet::new();
    for index in 0..tensors {
        let tensor = read_tensor(reader, &format!("tensor {index} of the table"))?;
        if !names.insert(tensor.name.clone()) {
            return Err(GgufError::DuplicateTensor { name: tensor.name }.into());
        }
        listed.push(tensor);
    }
    Ok(listed)
}

fn read_tensor(reader: &mut Reader<'_>, what: &str) -> Result<Listed, Stop> {
    let name = TensorName::new(reader.string(what)?).map_err(GgufError::Name)?;
    let dimensions = reader.u32(what)?;
    if dimensions as usize > DIMENSIONS {
        return Err(GgufError::TooManyDimensions { name, found: dimensions }.into());
    }
    // GGUF lists the contiguous axis first; everywhere else here it is the last.
    let mut shape = (0..dimensions).map(|_| reader.u64(what)).collect::<Result<Vec<_>, _>>()?;
    shape.reverse();
    let number = reader.u32(what)?;
    let Some(dtype) = DType::from_ggml(number) else {
        return Err(GgufError::UnknownType { name, found: number }.into());
    };
    let offset = reader.u64(what)?;
    match dtype.size_of(&shape) {
        Ok(size) => Ok(Listed { name, dtype, shape, offset, size }),
        Err(source) => Err(GgufError::Shape { name, source }.into()),
    }
}

/// Where the tensors are in the file, in order, after checking that each has its own bytes.
fn place(
    listed: Vec<Listed>,
    alignment: u64,
    data_start: u64,
    file_len: u64,
) -> Result<Vec<TensorRange>, GgufError> {
    let end = file_len.saturating_sub(data_start);
    let mut tensors = Vec::with_capacity(listed.len());
    for Listed { name, dtype, shape, offset, size } in listed {
        if !offset.is_multiple_of(alignment) {
            return Err(GgufError::Misaligned { name, offset, alignment });
        }
        if offset.checked_add(size).is_none_or(|stop| stop > end) {
            return Err(GgufError::OutOfBounds { name, offset, size, end });
        }
        let start = data_start + offset;
        tensors.push(TensorRange { name, dtype, shape, range: start..start + size });
    }
    tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    for pair in tensors.windows(2) {
        let shared = pair[1].range.start..pair[0].range.end.min(pair[1].range.end);
        if pair[0].range.end > pair[1].range.start {
            let (first, second) = (pair[0].name.clone(), pair[1].name.clone());
            return Err(GgufError::Overlap { first, second, shared });
        }
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &mut Vec<u8>, text: &str) {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    }

    /// One key of each kind, one tensor of two rows of a Q8_0 block.
    fn sample() -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend(3_u64.to_le_bytes());
        text(&mut bytes, "a");
        bytes.extend(8_u32.to_le_bytes());
        text(&mut bytes, "ä");
        text(&mut bytes, "b");
        bytes.extend(9_u32.to_le_bytes());
        bytes.extend(9_u32.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend(6_u32.to_le_bytes());
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend(1.5_f32.to_le_bytes());
        bytes.extend((-2.0_f32).to_le_bytes());
        text(&mut bytes, "c");
        bytes.extend(7_u32.to_le_bytes());
        bytes.push(1);
        text(&mut bytes, "w");
        bytes.extend(2_u32.to_le_bytes());
        bytes.extend(32_u64.to_le_bytes());
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend(8_u32.to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes
    }

    #[test]
    fn every_prefix_asks_for_more_until_the_head_is_whole() {
        let bytes = sample();
        let file_len = bytes.len() as u64 + 68 + 5;
        for cut in 0..bytes.len() {
            let Parsed::NeedMore(more) = Head::parse(&bytes[..cut], file_len).unwrap() else {
                panic!("{cut} bytes are not a head");
            };
            assert!(more > cut as u64 && more <= file_len);
        }
        let Parsed::Head(head) = Head::parse(&bytes, file_len).unwrap() else { panic!() };
        assert_eq!(head.value("a").and_then(Value::as_str), Some("ä"));
        let nested = Value::Array(Array::Arrays(vec![Array::F32(vec![1.5, -2.0])]));
        assert_eq!(head.value("b"), Some(&nested));
        assert_eq!(head.value("c"), Some(&Value::Bool(true)));
        assert_eq!(head.tensors[0].shape, [2, 32]);
        let start = bytes.len() as u64;
        assert_eq!((head.data_start, head.tensors[0].range.clone()), (start, start..start + 68));
    }

    #[test]
    fn a_file_cut_anywhere_in_its_head_is_refused() {
        let bytes = sample();
        for cut in 4..bytes.len() {
            let error = Head::parse(&bytes[..cut], cut as u64).unwrap_err();
            let expected =
                matches!(error, GgufError::Truncated { .. } | GgufError::OutOfBounds { .. });
            assert!(expected, "{cut}: {error}");
        }
    }
}
