//! Safetensors: eight bytes with the header's length, a JSON header, and the tensors' bytes without
//! holes.
//!
//! The header is read as strictly as the format is defined: no key twice, no unknown field, every
//! byte of the data in exactly one tensor. Nothing is allocated by a number that was not checked.

mod error;

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::dtype::{DType, DTypeError};
pub use crate::head::{Parsed, TensorRange};
use crate::limits::{DIMENSIONS, HEADER_BYTES, TENSORS};
use crate::names::TensorName;
pub use error::SafetensorsError;

/// Bytes of the header's length.
pub const LENGTH_BYTES: u64 = 8;

/// What stands before the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Where the data starts.
    pub data_start: u64,
    /// The tensors, in the order of their bytes.
    pub tensors: Vec<TensorRange>,
    /// `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

impl Head {
    /// Reads the head of a file of `file_len` bytes from its first bytes.
    ///
    /// # Errors
    /// The file is not safetensors, breaks a limit, or contradicts itself.
    pub fn parse(prefix: &[u8], file_len: u64) -> Result<Parsed<Self>, SafetensorsError> {
        if file_len < LENGTH_BYTES {
            return Err(SafetensorsError::TooShort { found: file_len });
        }
        let Some((length, rest)) = prefix.split_first_chunk() else {
            return Ok(Parsed::NeedMore(LENGTH_BYTES));
        };
        let length = u64::from_le_bytes(*length);
        if length > HEADER_BYTES {
            return Err(SafetensorsError::HeaderTooLarge { found: length });
        }
        let data_start = LENGTH_BYTES + length;
        if data_start > file_len {
            return Err(SafetensorsError::HeaderTruncated { end: data_start, len: file_len });
        }
        let Some(header) = rest.get(..length as usize) else {
            return Ok(Parsed::NeedMore(data_start));
        };
        Self::from_header(header, data_start, file_len - data_start).map(Parsed::Head)
    }

    fn from_header(header: &[u8], data_start: u64, data: u64) -> Result<Self, SafetensorsError> {
        let found = header.first().copied().unwrap_or(0);
        if found != b'{' {
            return Err(SafetensorsError::Start { found });
        }
        let header: Header = serde_json::from_slice(header).map_err(SafetensorsError::Header)?;
        if header.count > TENSORS {
            return Err(SafetensorsError::TooManyTensors { found: header.count });
        }
        let tensors = header.tensors.into_iter().map(|(name, raw)| check(name, raw, data));
        let mut tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        check_names(&tensors)?;
        tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
        check_cover(&tensors, data)?;
        for tensor in &mut tensors {
            tensor.range = data_start + tensor.range.start..data_start + tensor.range.end;
        }
        Ok(Self { data_start, tensors, metadata: header.metadata })
    }
}

/// The bytes that stand before the data of a new file, whose tensors follow each other in this
/// order. The data starts at a multiple of 8.
///
/// # Errors
/// An element type that safetensors lacks, or a size that does not fit.
pub fn new_header(tensors: &[(&TensorName, DType, &[u64])]) -> Result<Vec<u8>, DTypeError> {
    let mut fields = serde_json::Map::new();
    let mut end = 0_u64;
    for &(name, dtype, shape) in tensors {
        let begin = end;
        let overflow = || DTypeError::Overflow { dtype, shape: shape.to_vec() };
        let code = dtype
            .safetensors()
            .ok_or_else(|| DTypeError::Unknown { found: dtype.name().to_owned() })?;
        end = begin.checked_add(dtype.size_of(shape)?).ok_or_else(overflow)?;
        let entry = serde_json::json!({
            "dtype": code, "shape": shape, "data_offsets": [begin, end],
        });
        fields.insert(name.to_string(), entry);
    }
    fields.sort_keys();
    fields.values_mut().for_each(serde_json::Value::sort_all_objects);
    let mut json = serde_json::Value::Object(fields).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    Ok(bytes)
}

fn check(name: String, raw: RawTensor, data: u64) -> Result<TensorRange, SafetensorsError> {
    let name = TensorName::new(name)?;
    if raw.shape.count > DIMENSIONS as u64 {
        return Err(SafetensorsError::TooManyDimensions { name, found: raw.shape.count });
    }
    let Some(dtype) = DType::from_safetensors(&raw.dtype) else {
        let source = DTypeError::Unknown { found: raw.dtype.chars().take(80).collect() };
        return Err(SafetensorsError::UnknownDType { name, source });
    };
    let shape = raw.shape.dims;
    let needed = match dtype.size_of(&shape) {
        Ok(needed) => needed,
        Err(source) => return Err(SafetensorsError::Shape { name, source }),
    };
    let [begin, end] = raw.data_offsets;
    let Some(found) = end.checked_sub(begin) else {
        return Err(SafetensorsError::Backwards { name, begin, end });
    };
    if found != needed {
        return Err(SafetensorsError::Size { name, dtype, shape, needed, found });
    }
    if end > data {
        return Err(SafetensorsError::OutOfBounds { name, claimed: begin..end, end: data });
    }
    Ok(TensorRange { name, dtype, shape, range: begin..end })
}

fn check_names(tensors: &[TensorRange]) -> Result<(), SafetensorsError> {
    let mut names: Vec<&TensorName> = tensors.iter().map(|tensor| &tensor.name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(SafetensorsError::DuplicateTensor { name: pair[0].clone() }),
        None => Ok(()),
    }
}

/// Every byte of the data in exactly one of the tensors, which are sorted.
fn check_cover(tensors: &[TensorRange], data: u64) -> Result<(), SafetensorsError> {
    let mut end = 0;
    let mut last: Option<&TensorRange> = None;
    for tensor in tensors {
        let begin = tensor.range.start;
        if let Some(last) = last.filter(|_| begin < end) {
            let (first, second) = (last.name.clone(), tensor.name.clone());
            return Err(SafetensorsError::Overlap { first, second, at: begin });
        }
        if begin > end {
            return Err(SafetensorsError::Hole { hole: end..begin, before: tensor.name.clone() });
        }
        end = tensor.range.end;
        last = Some(tensor);
    }
    if end != data {
        return Err(SafetensorsError::Trailing { end, found: data });
    }
    Ok(())
}

/// The header as it is written, nothing checked but its form.
#[derive(Default)]
struct Header {
    tensors: Vec<(String, RawTensor)>,
    /// Tensors seen; those over the limit are not kept.
    count: u64,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: RawShape,
    data_offsets: [u64; 2],
}

/// The first dimensions, and how many there are.
struct RawShape {
    dims: Vec<u64>,
    count: u64,
}

/// `__metadata__`, with no key twice.
struct RawMetadata(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Header, A::Error> {
                let mut header = Header::default();
                let mut metadata = None;
                while let Some(name) = fields.next_key::<String>()? {
                    if name == "__metadata__" {
                        if metadata.is_some() {
                            return Err(A::Error::duplicate_field("__metadata__"));
                        }
                        metadata = Some(fields.next_value::<RawMetadata>()?.0);
                        continue;
                    }
                    header.count += 1;
                    if header.count > TENSORS {
                        fields.next_value::<IgnoredAny>()?;
                    } else {
                        header.tensors.push((name, fields.next_value()?));
                    }
                }
                header.metadata = metadata.unwrap_or_default();
                Ok(header)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl<'de> Deserialize<'de> for RawShape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dims;
        impl<'de> Visitor<'de> for Dims {
            type Value = RawShape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<RawShape, A::Error> {
                let mut shape = RawShape { dims: Vec::new(), count: 0 };
                while let Some(dim) = items.next_element::<u64>()? {
                    if shape.dims.len() < DIMENSIONS {
                        shape.dims.push(dim);
                    }
                    shape.count += 1;
                }
                Ok(shape)
            }
        }
        deserializer.deserialize_seq(Dims)
    }
}

impl<'de> Deserialize<'de> for RawMetadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = RawMetadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<RawMetadata, A::Error> {
                let mut texts = BTreeMap::new();
                while let Some((key, text)) = fields.next_entry::<String, String>()? {
                    if texts.contains_key(&key) {
                        return Err(A::Error::custom(format!("the key {key:?} comes twice")));
                    }
                    texts.insert(key, text);
                }
                Ok(RawMetadata(texts))
            }
        }
        deserializer.deserialize_map(Texts)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn a_new_header_reads_back() {
        let (a, b) = (TensorName::new("b").unwrap(), TensorName::new("a").unwrap());
        let tensors: [(&TensorName, DType, &[u64]); 2] =
            [(&a, DType::F32, &[2, 3]), (&b, DType::BF16, &[])];
        let bytes = new_header(&tensors).unwrap();
        let file_len = bytes.len() as u64 + 26;
        assert_eq!(Head::parse(&bytes[..4], file_len).unwrap(), Parsed::NeedMore(8));
        let needed = Parsed::NeedMore(bytes.len() as u64);
        assert_eq!(Head::parse(&bytes[..9], file_len).unwrap(), needed);
        let Parsed::Head(head) = Head::parse(&bytes, file_len).unwrap() else { panic!() };
        assert_eq!(head.data_start, bytes.len() as u64);
        assert!(head.data_start.is_multiple_of(8));
        let names: Vec<_> = head.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!(head.tensors[1].range, file_len - 2..file_len);
        assert!(new_header(&[(&a, DType::Q4_1, &[32])]).is_err());
    }

    #[test]
    fn a_tensor_over_the_limit_is_refused_by_count() {
        let mut json = String::from("{");
        for name in 0..=TENSORS {
            if name > 0 {
                json.push(',');
            }
            write!(json, r#""{name:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#)
                .unwrap();
        }
        json.push('}');
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        let error = Head::parse(&bytes, bytes.len() as u64).unwrap_err();
        assert!(matches!(error, SafetensorsError::TooManyTensors { found: 1_000_001 }), "{error}");
    }
}
