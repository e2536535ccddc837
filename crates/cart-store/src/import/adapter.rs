//! Adapters of Hugging Face's PEFT as low-rank deltas: `adapter_config.json` and
//! `adapter_model.safetensors` (LoRA, Hu et al., arXiv:2106.09685).
//!
//! An adapter names modules of `transformers`; a base imported from GGUF calls them otherwise, and
//! orders the rows of some queries and keys otherwise. Both follow from the base's architecture.

mod config;
mod error;
mod names;

use std::collections::BTreeMap;
use std::path::Path;

use cart_format::low_rank::{Change, How, LowRank, Source, Values};
use cart_format::safetensors::TensorRange;
use cart_format::{BlobId, DType, Manifest, ManifestId, TensorEntry, TensorName, first_not_finite};

use self::config::AdapterConfig;
pub use self::error::AdapterError;
use self::names::{Names, Target};
use crate::import::model_file::OpenFile;

/// What is read of a folder.
const CONFIG: &str = "adapter_config.json";
/// The weights.
const WEIGHTS: &str = "adapter_model.safetensors";
/// Largest configuration, in bytes.
const CONFIG_BYTES: u64 = 16 << 20;

/// Whether a folder holds an adapter. Says nothing of whether it can be used.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(CONFIG).is_file()
}

/// Reads an adapter as what it adds to a base.
///
/// # Errors
/// It is no LoRA adapter, of a kind that is no sum of products, or for another model; a value is not
/// finite; or the folder can't be read.
pub fn read_adapter(
    folder: &Path,
    (id, base): (ManifestId, &Manifest),
) -> Result<LowRank, AdapterError> {
    let config = AdapterConfig::read(&folder.join(CONFIG), CONFIG_BYTES)?;
    let file = OpenFile::open(&folder.join(WEIGHTS))?;
    let head = file.safetensors()?;
    let names = Names::of(base)?;
    let reader = Reader { file: &file, config: &config, names: &names, base };
    let mut targets: BTreeMap<Target, Parts> = BTreeMap::new();
    for tensor in &head.tensors {
        reader.sort(tensor, &mut targets)?;
    }
    let mut tensors = Vec::new();
    for (target, parts) in targets {
        tensors.extend(reader.change(&target, parts)?);
    }
    if tensors.is_empty() {
        return Err(AdapterError::Empty);
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let weights = file.read(cart_format::low_rank::LOW_RANK_BYTES)?;
    file.check_unchanged()?;
    let source = Source::Adapter { weights: BlobId::of(&weights) };
    Ok(LowRank { base: id, source, tensors })
}

/// What an adapter has for one tensor.
#[derive(Default)]
struct Parts {
    a: Option<Values>,
    b: Option<Values>,
    whole: Option<Values>,
    /// What the tensor was when the adapter was saved.
    was: Option<Values>,
    /// Whether the factors are those of an embedding, whose rows are looked up.
    of_embedding: bool,
}

struct Reader<'a> {
    file: &'a OpenFile,
    config: &'a AdapterConfig,
    names: &'a Names<'a>,
    base: &'a Manifest,
}

impl Reader<'_> {
    /// Reads a tensor of the adapter and puts it to what it is for.
    fn sort(
        &self,
        tensor: &TensorRange,
        targets: &mut BTreeMap<Target, Parts>,
    ) -> Result<(), AdapterError> {
        let key = tensor.name.as_str();
        let (role, target) = names::split(key)
            .ok_or_else(|| AdapterError::Key { key: key.to_owned(), why: "no part of a LoRA" })?;
        let values = self.values(tensor)?;
        let parts = targets.entry(target).or_default();
        let (slot, of_embedding) = match role {
            names::Role::A => (&mut parts.a, false),
            names::Role::B => (&mut parts.b, false),
            names::Role::EmbeddingA => (&mut parts.a, true),
            names::Role::EmbeddingB => (&mut parts.b, true),
            names::Role::Whole => (&mut parts.whole, false),
            names::Role::Was => (&mut parts.was, false),
        };
        parts.of_embedding |= of_embedding;
        if slot.replace(values).is_some() {
            return Err(AdapterError::Key { key: key.to_owned(), why: "there twice" });
        }
        Ok(())
    }

    fn values(&self, tensor: &TensorRange) -> Result<Values, AdapterError> {
        let name = tensor.name.to_string();
        let TensorRange { dtype, shape, range, .. } = tensor;
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(AdapterError::DType { key: name, dtype: *dtype });
        }
        let source = self.file.range(range);
        let mut bytes = vec![0; source.len() as usize];
        source.read_at(&mut bytes, 0)?;
        if let Some(element) = first_not_finite(*dtype, &bytes) {
            return Err(AdapterError::NotFinite { key: name, element });
        }
        Ok(Values { dtype: *dtype, shape: shape.clone(), bytes })
    }

    /// What becomes of a tensor of the base; nothing where the adapter only says what it was.
    fn change(&self, target: &Target, parts: Parts) -> Result<Option<Change>, AdapterError> {
        let key = || target.to_string();
        let (name, entry) = self.tensor(target)?;
        if let Some(was) = &parts.was {
            let same = (was.dtype, &was.shape) == (entry.dtype, &entry.shape)
                && BlobId::of(&was.bytes) == entry.blob;
            if !same {
                return Err(AdapterError::OtherBase { key: key(), tensor: name });
            }
        }
        let how = match (parts.a, parts.b, parts.whole) {
            (None, None, None) => return Ok(None),
            (None, None, Some(values)) => self.whole(target, &name, entry, values)?,
            (Some(a), Some(b), None) => {
                let (a, b) = self.oriented(target, parts.of_embedding, (a, b))?;
                How::Add {
                    scale: self.config.scale(&target.module, a.shape[0])?,
                    up: self.names.reordered(&name, b),
                    down: a,
                    error: None,
                }
            }
            _ => {
                let why = "only one of the two factors, or factors beside a whole tensor";
                return Err(AdapterError::Key { key: key(), why });
            }
        };
        let change = Change { name: name.clone(), how };
        if change.shape() == entry.shape {
            return Ok(Some(change));
        }
        let (found, expected) = (change.shape(), entry.shape.clone());
        Err(AdapterError::Shape { key: key(), tensor: name, found, expected })
    }

    fn tensor(&self, target: &Target) -> Result<(TensorName, &TensorEntry), AdapterError> {
        let missing = || AdapterError::Missing { key: target.to_string() };
        let name = self.names.tensor(&target.to_string()).ok_or_else(missing)?;
        let (name, entry) = self.base.model.tensors.get_key_value(name).ok_or_else(missing)?;
        Ok((name.clone(), entry))
    }

    /// Factors as `[rank, columns]` and `[rows, rank]` of the base's tensor.
    fn oriented(
        &self,
        target: &Target,
        of_embedding: bool,
        (a, b): (Values, Values),
    ) -> Result<(Values, Values), AdapterError> {
        let fits = a.shape.len() == 2 && b.shape.len() == 2 && a.shape[0] == b.shape[1];
        if !fits || a.shape[0] == 0 {
            let (a, b) = (a.shape, b.shape);
            return Err(AdapterError::Factors { key: target.to_string(), a, b });
        }
        // Rows of an embedding, and of layers that have their weights lying, are inputs.
        if of_embedding || self.config.fan_in_fan_out {
            return Ok((transposed(&b), transposed(&a)));
        }
        Ok((a, b))
    }

    /// Values that replace a tensor, in the type that they come in.
    fn whole(
        &self,
        target: &Target,
        name: &TensorName,
        entry: &TensorEntry,
        values: Values,
    ) -> Result<How, AdapterError> {
        if values.shape != entry.shape {
            return Err(AdapterError::Shape {
                key: target.to_string(),
                tensor: name.clone(),
                found: values.shape,
                expected: entry.shape.clone(),
            });
        }
        Ok(How::Replace(self.names.reordered(name, values)))
    }
}

/// A matrix with its axes exchanged.
fn transposed(matrix: &Values) -> Values {
    let [rows, columns] = [matrix.shape[0], matrix.shape[1]].map(|axis| axis as usize);
    let size = matrix.dtype.block_bytes() as usize;
    let mut bytes = Vec::with_capacity(matrix.bytes.len());
    for column in 0..columns {
        for row in 0..rows {
            bytes.extend_from_slice(&matrix.bytes[(row * columns + column) * size..][..size]);
        }
    }
    Values { dtype: matrix.dtype, shape: vec![columns as u64, rows as u64], bytes }
}
