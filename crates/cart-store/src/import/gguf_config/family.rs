//! What the architectures of GGUF differ in: a page of data each. What their metadata leave out is
//! as llama.cpp has it.

use cart_format::arch::{Activation, NormKind, NormPlacement, QkvLayout, RopePairing};

/// An architecture of attention layers.
pub(crate) struct Family {
    pub(crate) name: &'static str,
    /// Query and key rows of the Llama family are permuted when they are converted.
    pub(crate) pairing: RopePairing,
    /// √`embedding_length` on the embedded tokens.
    pub(crate) scaled_embedding: bool,
    pub(crate) norm: NormKind,
    pub(crate) placement: NormPlacement,
    pub(crate) qkv: QkvLayout,
    pub(crate) activation: Activation,
    pub(crate) mlp: Mlp,
    /// Layers that have the window, where the metadata have one: all, or all but every so many.
    pub(crate) all_but_every: Option<u64>,
    /// Base of the rotation in layers with a window, where it is another.
    pub(crate) local_theta: Option<f64>,
    /// Every so many layers are without rotation.
    pub(crate) no_rope_every: Option<u64>,
    /// Layers of the size whose scores are scaled by `1/√(embedding_length / head_count)`.
    pub(crate) scale_by_width: Option<u64>,
    /// Whether weights of experts are normalized.
    pub(crate) normalized_experts: bool,
}

/// The form of MLPs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mlp {
    /// Gate and up.
    Gated,
    /// Gate and up in one matrix.
    Fused,
    /// Up alone.
    Plain,
}

const LLAMA: Family = Family {
    name: "llama",
    pairing: RopePairing::Interleaved,
    scaled_embedding: false,
    norm: NormKind::Rms,
    placement: NormPlacement::Pre,
    qkv: QkvLayout::Separate,
    activation: Activation::Silu,
    mlp: Mlp::Gated,
    all_but_every: None,
    local_theta: None,
    no_rope_every: None,
    scale_by_width: None,
    normalized_experts: true,
};

const QWEN: Family = Family { name: "qwen2", pairing: RopePairing::Halves, ..LLAMA };

const GEMMA: Family =
    Family { name: "gemma", scaled_embedding: true, activation: Activation::GeluTanh, ..QWEN };

/// Every architecture of attention layers.
pub(crate) const FAMILIES: &[Family] = &[
    LLAMA,
    Family { name: "smollm3", no_rope_every: Some(4), ..LLAMA },
    QWEN,
    Family { name: "qwen2moe", normalized_experts: false, ..QWEN },
    Family { name: "qwen3", ..QWEN },
    Family { name: "qwen3moe", ..QWEN },
    GEMMA,
    Family {
        name: "gemma2",
        placement: NormPlacement::Sandwich,
        all_but_every: Some(2),
        scale_by_width: Some(46),
        ..GEMMA
    },
    Family {
        name: "gemma3",
        placement: NormPlacement::Sandwich,
        all_but_every: Some(6),
        local_theta: Some(10_000.0),
        scale_by_width: Some(62),
        ..GEMMA
    },
    Family { name: "phi3", qkv: QkvLayout::Fused, mlp: Mlp::Fused, ..QWEN },
    Family {
        name: "falcon",
        norm: NormKind::Layer,
        placement: NormPlacement::ParallelShared,
        qkv: QkvLayout::Fused,
        activation: Activation::Gelu,
        mlp: Mlp::Plain,
        ..QWEN
    },
];
