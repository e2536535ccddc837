//! Which layer a tensor is of, by its name.

use cart_format::{Manifest, TensorName};

/// What comes before the number of a layer in a tensor's name.
const BEFORE: [&str; 5] = ["layers", "h", "blk", "blocks", "layer"];

/// The name of a layer's tensor, cut around the layer's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LayerName<'n> {
    /// With its last dot.
    pub(crate) before: &'n str,
    /// The layer, from 0.
    pub(crate) layer: u64,
    /// With its first dot.
    pub(crate) after: &'n str,
}

impl<'n> LayerName<'n> {
    /// Cuts a name; none of a tensor of the whole model.
    pub(crate) fn of(name: &'n TensorName) -> Option<Self> {
        let name = name.as_str();
        let mut at = 0;
        let mut previous = "";
        for part in name.split('.') {
            let end = at + part.len();
            let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            if is_number && BEFORE.contains(&previous) && end < name.len() {
                let layer = part.parse().ok()?;
                return Some(Self { before: &name[..at], layer, after: &name[end..] });
            }
            (at, previous) = (end + 1, part);
        }
        None
    }

    /// The name of the same part in another layer.
    pub(crate) fn in_layer(&self, layer: u64) -> TensorName {
        let name = format!("{}{layer}{}", self.before, self.after);
        TensorName::new(&name).expect("a name with another number is a name")
    }
}

/// Layers of a model, as its tensors have them.
pub(crate) fn count(manifest: &Manifest) -> u64 {
    let layers = manifest.model.tensors.keys().filter_map(LayerName::of);
    layers.map(|name| name.layer + 1).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_found_in_every_naming() {
        let layer = |name: &str| {
            let name = TensorName::new(name).unwrap();
            LayerName::of(&name).map(|found| (found.layer, found.in_layer(7).to_string()))
        };
        assert_eq!(
            layer("model.layers.12.mlp.experts.3.w1.weight"),
            Some((12, "model.layers.7.mlp.experts.3.w1.weight".to_owned()))
        );
        assert_eq!(layer("blk.0.attn_q.weight"), Some((0, "blk.7.attn_q.weight".to_owned())));
        assert_eq!(layer("transformer.h.3.ln_1.bias").unwrap().0, 3);
        assert_eq!(layer("model.embed_tokens.weight"), None);
        assert_eq!(layer("layers.x.weight"), None);
    }
}
