//! Which memories a model can read: the space of its vectors.

use cart_format::json::{self, JsonError};
use cart_format::{ArchSpec, Manifest, SpaceId};
use serde_json::json;

use crate::calibration;

/// Version of the procedure that makes keys. It counts up when pooling, tap or calibration change.
const PROCEDURE: u32 = 1;

/// The layer after which memory listens: at four fifths of the depth, where hidden states say what
/// comes next and still what was said.
pub(crate) fn tap_layer(spec: &ArchSpec) -> usize {
    let layers = spec.layers.len();
    (layers * 4 / 5).clamp(1, layers) - 1
}

/// Names the space of a cartridge's memory: the digest of a canonical document of everything that
/// decides its vectors.
///
/// * the architecture, and each tensor's name, type, shape and blob
/// * the tokenizer's document
/// * the tap layer and the way of pooling
/// * how centre and scale are found: the procedure and the digest of its text. Their values are not
///   covered. They follow from all the above up to the rounding of a machine's arithmetic, and two
///   memories that differ by rounding are of one space.
pub(crate) fn space(manifest: &Manifest, spec: &ArchSpec) -> Result<SpaceId, JsonError> {
    let document = json!({
        "procedure": PROCEDURE,
        "architecture": spec.to_value(),
        "tensors": manifest.model.tensors,
        "tokenizer": manifest.tokenizer.as_ref().map(|tokenizer| tokenizer.document),
        "tap_layer": tap_layer(spec),
        "pooling": "mean_without_first",
        "normalization": {
            "method": "mean_and_deviation_without_first",
            "text": calibration::text_digest(),
        },
    });
    Ok(SpaceId::of(&json::to_canonical(&document)?))
}
