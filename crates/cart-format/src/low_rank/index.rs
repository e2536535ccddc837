//! The index of a low-rank delta, and the header around it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::error::LowRankError;
use super::{
    Change, How, LOW_RANK_BYTES, LOW_RANK_FORMAT, LOW_RANK_VERSION, LowRank, Source, Values,
};
use crate::digest::{BlobId, ManifestId};
use crate::dtype::DType;
use crate::json;
use crate::limits::INDEX_BYTES;
use crate::manifest::Version;
use crate::names::TensorName;
use crate::safetensors::{Head, LENGTH_BYTES, Parsed};

/// The name of the index among the file's tensors.
const INDEX: &str = "cart.low_rank.index";
/// The data starts at a multiple of this.
const ALIGN: usize = 64;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    base: ManifestId,
    source: IndexedSource,
    tensors: Vec<Indexed>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum IndexedSource {
    Difference { target: ManifestId, rank: u64, error: f64 },
    Adapter { weights: BlobId },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Indexed {
    name: TensorName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scale: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    up: Option<Part>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    down: Option<Part>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    values: Option<Part>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    dtype: DType,
    shape: Vec<u64>,
    sha256: BlobId,
}

impl Part {
    fn of(values: &Values) -> Self {
        let sha256 = BlobId::of(&values.bytes);
        Self { dtype: values.dtype, shape: values.shape.clone(), sha256 }
    }
}

/// The canonical bytes of the index.
pub(super) fn write(delta: &LowRank) -> Vec<u8> {
    let source = match delta.source {
        Source::Difference { target, rank, error } => {
            IndexedSource::Difference { target, rank, error }
        }
        Source::Adapter { weights } => IndexedSource::Adapter { weights },
    };
    let of = |change: &Change| {
        let name = change.name.clone();
        match &change.how {
            How::Add { scale, up, down, error } => Indexed {
                name,
                scale: Some(*scale),
                error: *error,
                up: Some(Part::of(up)),
                down: Some(Part::of(down)),
                values: None,
            },
            How::Replace(values) => Indexed {
                name,
                scale: None,
                error: None,
                up: None,
                down: None,
                values: Some(Part::of(values)),
            },
        }
    };
    let tensors = delta.tensors.iter().map(of).collect();
    let index = Index { base: delta.base, source, tensors };
    json::to_canonical(&index).expect("numbers were seen to be finite")
}

/// What stands before the index.
pub(super) fn header(delta: &LowRank, index: &[u8]) -> Result<Vec<u8>, LowRankError> {
    use std::fmt::Write as _;
    let mut text = format!(
        "{{\"__metadata__\":{{\"format\":\"{LOW_RANK_FORMAT}\",\"version\":\"{LOW_RANK_VERSION}\",\"base\":\"{}\",\"index\":\"{}\"}}",
        delta.base.hex(),
        BlobId::of(index).hex(),
    );
    let mut end = 0;
    let mut entry = |name: &str, (code, shape): (&str, &[u64]), len: u64| {
        let name = serde_json::Value::from(name);
        let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
        let shape = shape.join(",");
        let start = end;
        end += len;
        write!(
            text,
            ",{name}:{{\"dtype\":\"{code}\",\"shape\":[{shape}],\"data_offsets\":[{start},{end}]}}"
        )
        .expect("writing to a string does not fail");
    };
    let len = index.len() as u64;
    entry(INDEX, ("U8", &[len]), len);
    for change in &delta.tensors {
        for (part, values) in change.parts() {
            let name = TensorName::new(format!("{}.{part}", change.name))?;
            let len = values.bytes.len() as u64;
            // Types that safetensors lacks are bytes there.
            match values.dtype.safetensors() {
                Some(code) => entry(name.as_str(), (code, &values.shape), len),
                None => entry(name.as_str(), ("U8", &[len]), len),
            }
        }
    }
    text.push('}');
    let end = (LENGTH_BYTES as usize + text.len()).next_multiple_of(ALIGN);
    let mut bytes = (end as u64 - LENGTH_BYTES).to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(end, b' ');
    Ok(bytes)
}

/// Reads a whole file.
pub(super) fn read(bytes: &[u8]) -> Result<LowRank, LowRankError> {
    let len = bytes.len() as u64;
    if len > LOW_RANK_BYTES {
        return Err(LowRankError::TooLarge { found: len });
    }
    let Parsed::Head(head) = Head::parse(bytes, len)? else { return Err(LowRankError::Foreign) };
    let place = index_of(&head)?;
    let (data_start, index) = (place.end as usize, slice(bytes, &place));
    if head.metadata.get("index").map(String::as_str) != Some(BlobId::of(index).hex().as_str()) {
        return Err(LowRankError::IndexDigest);
    }
    let value = json::from_canonical(index, INDEX_BYTES).map_err(LowRankError::Index)?;
    let parsed: Index = serde_json::from_value(value).map_err(LowRankError::Fields)?;
    let mut rest = &bytes[data_start..];
    let tensors = parsed.tensors.into_iter().map(|one| change(one, &mut rest));
    let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
    let source = match parsed.source {
        IndexedSource::Difference { target, rank, error } => {
            Source::Difference { target, rank, error }
        }
        IndexedSource::Adapter { weights } => Source::Adapter { weights },
    };
    let delta = LowRank { base: parsed.base, source, tensors };
    delta.check()?;
    let expected = header(&delta, index)?;
    if !bytes.starts_with(&expected) || !rest.is_empty() {
        let at = expected.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        return Err(LowRankError::Header { at: at as u64 });
    }
    Ok(delta)
}

/// Where the index is, in a file of this format and version.
fn index_of(head: &Head) -> Result<Range<u64>, LowRankError> {
    let fields = &head.metadata;
    if fields.get("format").is_none_or(|format| format != LOW_RANK_FORMAT) {
        return Err(LowRankError::Foreign);
    }
    let version: Option<Version> = fields.get("version").and_then(|text| text.parse().ok());
    match version {
        Some(found) if found.major > LOW_RANK_VERSION.major => {
            return Err(LowRankError::NewerMajor { found });
        }
        Some(_) => {}
        None => return Err(LowRankError::Foreign),
    }
    let first = head.tensors.first().filter(|tensor| tensor.name.as_str() == INDEX);
    first.map(|tensor| tensor.range.clone()).ok_or(LowRankError::Foreign)
}

fn slice<'b>(bytes: &'b [u8], range: &Range<u64>) -> &'b [u8] {
    &bytes[range.start as usize..range.end as usize]
}

/// A tensor of the index, whose bytes come next.
fn change(indexed: Indexed, rest: &mut &[u8]) -> Result<Change, LowRankError> {
    let Indexed { name, scale, error, up, down, values } = indexed;
    let mut take = |what: &'static str, part: Part| {
        let size = part.dtype.size_of(&part.shape).ok().and_then(|size| usize::try_from(size).ok());
        let found = size.and_then(|size| rest.split_at_checked(size));
        let refuse = LowRankError::Tensor { name: name.clone(), what: "without all of its bytes" };
        let (bytes, left) = found.ok_or(refuse)?;
        *rest = left;
        if BlobId::of(bytes) != part.sha256 {
            return Err(LowRankError::Damaged { name: name.clone(), part: what });
        }
        Ok(Values { dtype: part.dtype, shape: part.shape, bytes: bytes.to_vec() })
    };
    let how = match (scale, up, down, values) {
        (Some(scale), Some(up), Some(down), None) => {
            How::Add { scale, up: take("up", up)?, down: take("down", down)?, error }
        }
        (None, None, None, Some(values)) if error.is_none() => {
            How::Replace(take("values", values)?)
        }
        _ => {
            let what = "neither as two factors nor as values";
            return Err(LowRankError::Tensor { name, what });
        }
    };
    Ok(Change { name, how })
}
