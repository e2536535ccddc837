//! Tokens that end a text under well-known names.

use cart_format::SpecialTokens;

use crate::import::error::ImportError;

/// Special tokens that end a turn or a text wherever they occur.
pub(crate) const ENDS: &[&str] = &[
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|return|>",
    "<end_of_turn>",
    "<EOT>",
    "</s>",
    "<eos>",
];

/// Sorts the ends, drops repetitions, and refuses ids that don't exist.
pub(crate) fn settle(mut special: SpecialTokens, ids: u64) -> Result<SpecialTokens, ImportError> {
    special.eos.sort_unstable();
    special.eos.dedup();
    let eos = special.eos.iter().map(|&id| ("end-of-text", id));
    let roles =
        [("begin-of-text", special.bos), ("padding", special.pad), ("unknown", special.unk)];
    let roles = roles.into_iter().filter_map(|(role, id)| Some((role, id?)));
    for (role, id) in roles.chain(eos) {
        if u64::from(id) >= ids {
            return Err(ImportError::SpecialToken { role, found: id.into(), allowed: ids });
        }
    }
    Ok(special)
}
