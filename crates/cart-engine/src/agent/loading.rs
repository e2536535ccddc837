//! What an agent is made of, read from a verified cartridge.

use std::num::NonZeroUsize;

use cart_format::{ArchSpec, DType, Manifest, TokenizerSection};
use cart_nn::decoder::Decoder;
use cart_nn::graph::Graph;
use cart_nn::{DeviceChoice, KvFormat, Model, PackedAhead, Precision, Threads};
use cart_store::{BlobError, Verified};

use super::{LoadError, LoadOptions, TEMPLATE_BYTES, TOKENIZER_BYTES};
use crate::chat::ChatTemplate;
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::weights;

/// The model, once its weights were seen to be numbers.
pub(super) fn model(
    verified: &Verified,
    spec: &ArchSpec,
    options: &LoadOptions,
    packed: PackedAhead,
) -> Result<Decoder, LoadError> {
    let device = options.device.open()?;
    let Some(device) = device else { return kernels(verified, spec, options, packed) };
    let of_kernels = |option| LoadError::OfKernels { option, device: options.device };
    if options.kernels.is_some() {
        return Err(of_kernels("a kernel level"));
    }
    if options.activations.is_some() {
        return Err(of_kernels("a choice of activations"));
    }
    if options.kv.is_some() {
        return Err(of_kernels("a format of keys and values"));
    }
    verified.check_finite()?;
    let precision = options.precision.unwrap_or_else(|| match options.device {
        DeviceChoice::Cpu | DeviceChoice::Graph => Precision::F32,
        DeviceChoice::Cuda(_) | DeviceChoice::Metal(_) => usual_precision(verified.manifest()),
    });
    let weights = weights::weights(verified)?;
    Ok(Decoder::Graph(Graph::load(spec, &weights, &device, precision.dtype())?))
}

fn kernels(
    verified: &Verified,
    spec: &ArchSpec,
    options: &LoadOptions,
    packed: PackedAhead,
) -> Result<Decoder, LoadError> {
    if let Some(precision) = options.precision {
        return Err(LoadError::OfGraph { precision });
    }
    verified.check_finite()?;
    let weights = weights::weights(verified)?;
    let model = Model::load_packed(&threads(options)?, spec, &weights, packed)?;
    let model = model.with_activations(options.activations.unwrap_or_default());
    Ok(Decoder::Kernels(match options.kernels {
        Some(level) => model.with_kernel_level(level)?,
        None => model,
    }))
}

/// What a GPU computes in where nobody says: the type of the largest tensor, or bf16 for blocks.
fn usual_precision(manifest: &Manifest) -> Precision {
    let size = |shape: &[u64]| shape.iter().product::<u64>();
    let largest = manifest.model.tensors.values().max_by_key(|tensor| size(&tensor.shape));
    match largest.map(|tensor| tensor.dtype) {
        Some(DType::F32) => Precision::F32,
        Some(DType::F16) => Precision::F16,
        _ => Precision::BF16,
    }
}

/// Tokenizer and chat template, if the cartridge has a tokenizer.
///
/// * `ready`: the tokenizer, if it is made already
pub(super) fn text_parts(
    verified: &Verified,
    spec: &ArchSpec,
    ready: Option<Result<Tokenizer, TokenizerError>>,
) -> Result<Option<(Tokenizer, Option<ChatTemplate>)>, LoadError> {
    let Some(section) = &verified.manifest().tokenizer else { return Ok(None) };
    let tokenizer = match ready {
        Some(ready) => ready?,
        None => tokenizer(verified, section)?,
    };
    tokenizer.check_embeddings(spec.vocab_size)?;
    let Some(template) = &section.chat_template else { return Ok(Some((tokenizer, None))) };
    let source = String::from_utf8(verified.read(template, TEMPLATE_BYTES)?)
        .map_err(LoadError::TemplateEncoding)?;
    let text = |token: Option<u32>| {
        token.map_or_else(|| Ok(String::new()), |token| tokenizer.token_text(token))
    };
    let (bos, eos) = (text(section.special.bos)?, text(section.special.eos.first().copied())?);
    let template = ChatTemplate::new(source, bos, eos)?;
    Ok(Some((tokenizer, Some(template))))
}

fn tokenizer(verified: &Verified, section: &TokenizerSection) -> Result<Tokenizer, LoadError> {
    let document = verified.map(&section.document)?;
    let (blob, found, allowed) = (section.document, document.len() as u64, TOKENIZER_BYTES);
    if found > allowed {
        return Err(BlobError::TooLarge { blob, found, allowed }.into());
    }
    Ok(Tokenizer::new(&document, section.special.clone())?)
}

/// How keys and values are stored where nobody says.
pub(super) fn usual_kv(manifest: &Manifest) -> KvFormat {
    let quantized = manifest.model.tensors.values().any(|tensor| tensor.dtype.is_quantized());
    if quantized { KvFormat::F16 } else { KvFormat::F32 }
}

pub(super) fn context(spec: &ArchSpec, options: &LoadOptions) -> Result<usize, LoadError> {
    let allowed = spec.context_length;
    let found = options.context.map_or(allowed as usize, NonZeroUsize::get);
    if found as u64 > allowed {
        return Err(LoadError::Context { found, allowed });
    }
    Ok(found)
}

fn threads(options: &LoadOptions) -> Result<Threads, LoadError> {
    let Some(count) = options.threads else { return Ok(Threads::shared().clone()) };
    let threads = count.get();
    Threads::new(count).map_err(|source| LoadError::Threads { threads, source })
}
