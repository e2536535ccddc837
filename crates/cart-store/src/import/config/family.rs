//! What the families of Hugging Face differ in: a page of data each.

use cart_format::arch::{Activation, NormPlacement, QkvLayout, TensorNaming};

/// A family with the field names of Llama, and the values that `transformers` gives to fields that
/// a `config.json` leaves out.
pub(crate) struct Family {
    pub(crate) model_type: &'static str,
    pub(crate) naming: TensorNaming,
    pub(crate) context_length: u64,
    pub(crate) tied_head: bool,
    /// √`hidden_size` on the embedded tokens.
    pub(crate) scaled_embedding: bool,
    pub(crate) norm_eps: f64,
    /// Norm weights are stored as `w` and applied as `1 + w`.
    pub(crate) unit_offset: bool,
    pub(crate) placement: NormPlacement,
    pub(crate) qkv: QkvLayout,
    pub(crate) qkv_bias: Bias,
    pub(crate) out_bias: Bias,
    pub(crate) qk_norm: bool,
    /// `hidden_size / num_attention_heads` where absent.
    pub(crate) head_dim: Option<u64>,
    /// `query_pre_attn_scalar`; the scale is one over its root.
    pub(crate) query_scalar: Option<f64>,
    /// `attn_logit_softcapping`.
    pub(crate) score_cap: Cap,
    /// `final_logit_softcapping`.
    pub(crate) logit_cap: Cap,
    pub(crate) theta: f64,
    /// Base of the rotation in layers with a window.
    pub(crate) local_theta: Option<f64>,
    pub(crate) windows: Windows,
    /// Layers without rotation: every so many, where `no_rope_layers` does not say.
    pub(crate) no_rope_every: Option<u64>,
    pub(crate) activation: Activation,
    /// The word `gelu` means the tanh approximation.
    pub(crate) gelu_is_tanh: bool,
    pub(crate) mlp_bias: Bias,
    /// Gate and up are one matrix.
    pub(crate) fused_mlp: bool,
    pub(crate) experts: Option<Experts>,
}

/// Whether there is a soft cap.
#[derive(Clone, Copy)]
pub(crate) enum Cap {
    Never,
    /// As the field says, where null is none; this where the field is absent.
    Field(Option<f64>),
}

/// Whether projections have biases.
#[derive(Clone, Copy)]
pub(crate) enum Bias {
    Never,
    /// As the field says, else as is said here.
    Field(&'static str, bool),
}

/// Which layers have the window of `sliding_window`, where `layer_types` does not say.
#[derive(Clone, Copy)]
pub(crate) enum Windows {
    Never,
    /// All. The window is this where the field is absent; null says that there is none.
    All(Option<u64>),
    /// All, where `use_sliding_window` is true.
    Used,
    /// Those from `max_window_layers` on, where `use_sliding_window` is true.
    From(u64),
    /// All but every so many; `sliding_window_pattern` may say how many. The window is `size` where
    /// the configuration has none.
    ButEvery {
        count: u64,
        size: u64,
    },
    /// Those without rotation, where `use_sliding_window` is true.
    WithoutRope,
}

/// Fields of a mixture of experts, and their values where absent.
#[derive(Clone, Copy)]
pub(crate) struct Experts {
    /// `num_experts` or `num_local_experts`.
    pub(crate) count: u64,
    /// `num_experts_per_tok`.
    pub(crate) active: u64,
    /// The field of an expert's width, and its value.
    pub(crate) width: (&'static str, u64),
    /// Whether weights are normalized; where absent, `norm_topk_prob` says.
    pub(crate) normalized: Option<bool>,
    /// `shared_expert_intermediate_size`, where there is a shared expert.
    pub(crate) shared: Option<u64>,
    /// Whether `decoder_sparse_step` and `mlp_only_layers` say which layers have experts.
    pub(crate) sparse: bool,
}

const LLAMA: Family = Family {
    model_type: "llama",
    naming: TensorNaming::Hf,
    context_length: 2048,
    tied_head: false,
    scaled_embedding: false,
    norm_eps: 1e-6,
    unit_offset: false,
    placement: NormPlacement::Pre,
    qkv: QkvLayout::Separate,
    qkv_bias: Bias::Field("attention_bias", false),
    out_bias: Bias::Field("attention_bias", false),
    qk_norm: false,
    head_dim: None,
    query_scalar: None,
    score_cap: Cap::Never,
    logit_cap: Cap::Never,
    theta: 10_000.0,
    local_theta: None,
    windows: Windows::Never,
    no_rope_every: None,
    activation: Activation::Silu,
    gelu_is_tanh: false,
    mlp_bias: Bias::Field("mlp_bias", false),
    fused_mlp: false,
    experts: None,
};

/// Projections without biases but those of Llama's attention.
const PLAIN: Family = Family {
    out_bias: Bias::Never,
    qkv_bias: Bias::Never,
    mlp_bias: Bias::Never,
    context_length: 32_768,
    ..LLAMA
};

const GEMMA: Family = Family {
    model_type: "gemma",
    context_length: 8192,
    tied_head: true,
    scaled_embedding: true,
    unit_offset: true,
    qkv_bias: Bias::Field("attention_bias", false),
    out_bias: Bias::Field("attention_bias", false),
    head_dim: Some(256),
    activation: Activation::GeluTanh,
    gelu_is_tanh: true,
    ..PLAIN
};

const QWEN3: Family = Family {
    model_type: "qwen3",
    qkv_bias: Bias::Field("attention_bias", false),
    out_bias: Bias::Field("attention_bias", false),
    qk_norm: true,
    head_dim: Some(128),
    windows: Windows::From(28),
    ..PLAIN
};

/// Every family that has the field names of Llama.
pub(crate) const FAMILIES: &[Family] = &[
    LLAMA,
    Family {
        model_type: "mistral",
        context_length: 131_072,
        windows: Windows::All(Some(4096)),
        ..PLAIN
    },
    Family {
        model_type: "mixtral",
        naming: TensorNaming::HfMixtral,
        context_length: 131_072,
        norm_eps: 1e-5,
        theta: 1e6,
        windows: Windows::All(None),
        experts: Some(Experts {
            count: 8,
            active: 2,
            width: ("intermediate_size", 14_336),
            normalized: Some(true),
            shared: None,
            sparse: false,
        }),
        ..PLAIN
    },
    Family {
        model_type: "smollm3",
        tied_head: true,
        theta: 2e6,
        windows: Windows::WithoutRope,
        no_rope_every: Some(4),
        context_length: 32_768,
        ..LLAMA
    },
    Family {
        model_type: "qwen2",
        qkv_bias: Bias::Field("qkv_bias", true),
        windows: Windows::From(28),
        ..PLAIN
    },
    Family {
        model_type: "qwen2_moe",
        qkv_bias: Bias::Field("qkv_bias", true),
        windows: Windows::From(28),
        experts: Some(Experts {
            count: 60,
            active: 4,
            width: ("moe_intermediate_size", 1408),
            normalized: None,
            shared: Some(5632),
            sparse: true,
        }),
        ..PLAIN
    },
    QWEN3,
    Family {
        model_type: "qwen3_moe",
        head_dim: None,
        windows: Windows::Used,
        experts: Some(Experts {
            count: 128,
            active: 8,
            width: ("moe_intermediate_size", 768),
            normalized: None,
            shared: None,
            sparse: true,
        }),
        ..QWEN3
    },
    GEMMA,
    Family {
        model_type: "gemma2",
        placement: NormPlacement::Sandwich,
        query_scalar: Some(256.0),
        score_cap: Cap::Field(Some(50.0)),
        logit_cap: Cap::Field(Some(30.0)),
        windows: Windows::ButEvery { count: 2, size: 4096 },
        ..GEMMA
    },
    Family {
        model_type: "gemma3_text",
        context_length: 131_072,
        placement: NormPlacement::Sandwich,
        qk_norm: true,
        query_scalar: Some(256.0),
        // `transformers` reads a cap on the scores too, and does not apply it.
        logit_cap: Cap::Field(None),
        theta: 1e6,
        local_theta: Some(10_000.0),
        windows: Windows::ButEvery { count: 6, size: 4096 },
        ..GEMMA
    },
    Family {
        model_type: "phi3",
        context_length: 4096,
        norm_eps: 1e-5,
        qkv: QkvLayout::Fused,
        fused_mlp: true,
        windows: Windows::All(None),
        ..PLAIN
    },
];
