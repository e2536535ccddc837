//! Small random models that between them use everything an `ArchSpec` can say.

use std::collections::BTreeMap;

use cart_format::arch::{
    Activation, AttentionSpec, BlockSpec, DecayForm, DenseSpec, ExpertsSpec, Mamba2Spec, MambaSpec,
    MixerSpec, MlpSpec, NormKind, NormPlacement, NormSpec, QkvLayout, RopeFactors, RopePairing,
    RopeScaling, RopeSpec, SharedExpertSpec, TensorNaming, TensorSpec,
};
use cart_format::{ArchSpec, DType};
use cart_nn::{SharedBytes, WeightTensor};

use crate::plain::Weights;

/// An architecture with random weights.
pub(crate) struct Specimen {
    pub(crate) spec: ArchSpec,
    pub(crate) weights: Weights,
    pub(crate) tensors: BTreeMap<String, WeightTensor>,
}

impl Specimen {
    /// The same architecture with a vocabulary of another size.
    pub(crate) fn of_vocabulary(spec: ArchSpec, vocab_size: u64) -> Self {
        Self::new(ArchSpec { vocab_size, ..spec })
    }

    fn new(spec: ArchSpec) -> Self {
        let mut specimen = Self { spec, weights: Weights::new(), tensors: BTreeMap::new() };
        for TensorSpec { name, shape } in specimen.spec.tensors() {
            let shape: Vec<usize> = shape.iter().map(|dim| *dim as usize).collect();
            specimen.fill(&name, &shape);
        }
        specimen
    }

    fn fill(&mut self, name: &str, shape: &[usize]) {
        let mut state = name
            .bytes()
            .fold(7_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let mut unit = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let count = shape.iter().product();
        // Norms, and divisors of RoPE, which are over 0.
        let norm = shape.len() == 1 && (name.contains("norm") || name.starts_with("rope_"));
        let norm = norm && name.ends_with(".weight");
        let inputs = *shape.last().unwrap() as f32;
        let size = if shape.len() > 1 { 1.5 / inputs.sqrt() } else { 0.3 };
        // A state that grows would not be a model.
        let decay = name.ends_with("ssm_a");
        let value = |_| match unit() * size {
            value if decay => -0.1 - value.abs(),
            value => value + if norm { 1.0 } else { 0.0 },
        };
        let values: Vec<f32> = (0..count).map(value).collect();
        self.weights.insert(name.to_owned(), values.iter().map(|v| f64::from(*v)).collect());
        self.tensors.insert(name.to_owned(), tensor(DType::F32, shape, &bytes(&values)));
    }
}

/// Little-endian bytes of `f32`.
pub(crate) fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A tensor with a copy of `bytes`, at an address that suits 8-byte numbers.
pub(crate) fn tensor(dtype: DType, shape: &[usize], bytes: &[u8]) -> WeightTensor {
    let mut room = vec![0; bytes.len() + 8];
    let start = room.as_ptr().align_offset(8);
    room[start..start + bytes.len()].copy_from_slice(bytes);
    let bytes = SharedBytes::new(room).slice(start..start + bytes.len()).unwrap();
    WeightTensor { dtype, shape: shape.to_vec(), bytes }
}

fn rope(theta: f64, dims: u64, pairing: RopePairing, scaling: Option<RopeScaling>) -> RopeSpec {
    RopeSpec { theta, dims, pairing, scaling }
}

fn attention(heads: u64, kv_heads: u64, head_dim: u64, rope: Option<RopeSpec>) -> AttentionSpec {
    AttentionSpec {
        heads,
        kv_heads,
        head_dim,
        scale: None,
        rope,
        window: None,
        score_softcap: None,
        qkv: QkvLayout::Separate,
        qkv_bias: false,
        out_bias: false,
        qk_norm: None,
    }
}

fn rms() -> NormSpec {
    NormSpec { kind: NormKind::Rms, eps: 1e-5, unit_offset: false }
}

fn block(attention: AttentionSpec, mlp: MlpSpec) -> BlockSpec {
    let mixer = MixerSpec::Attention(attention);
    BlockSpec { norm: rms(), placement: NormPlacement::Pre, mixer: Some(mixer), mlp: Some(mlp) }
}

fn dense(intermediate_size: u64, activation: Activation, bias: bool) -> DenseSpec {
    DenseSpec { intermediate_size, activation, bias, fused: false }
}

fn arch(naming: TensorNaming, blocks: Vec<BlockSpec>, layers: Vec<u32>) -> ArchSpec {
    ArchSpec {
        family: "specimen".to_owned(),
        naming,
        vocab_size: 50,
        hidden_size: 32,
        context_length: 700,
        embedding_scale: None,
        tied_head: true,
        final_norm: rms(),
        logit_softcap: None,
        blocks,
        layers,
    }
}

/// As Llama: grouped keys, rotation in halves, SiLU gate.
pub(crate) fn llama() -> Specimen {
    let attention = attention(4, 2, 8, Some(rope(1e4, 8, RopePairing::Halves, None)));
    let mlp = MlpSpec::Gated(dense(48, Activation::Silu, false));
    Specimen::new(arch(TensorNaming::Hf, vec![block(attention, mlp)], vec![0; 3]))
}

/// As Gemma 2 and 3: norms on both sides, windows, soft caps, scaled embedding.
pub(crate) fn gemma() -> Specimen {
    let unit = NormSpec { unit_offset: true, ..rms() };
    let mlp = MlpSpec::Gated(dense(40, Activation::GeluTanh, false));
    let mut local = attention(3, 1, 12, Some(rope(1e4, 12, RopePairing::Halves, None)));
    local.window = Some(5);
    local.qk_norm = Some(unit.clone());
    local.score_softcap = Some(5.0);
    local.scale = Some(0.31);
    let linear = Some(RopeScaling::Linear { factor: 8.0 });
    let mut global = attention(3, 1, 12, Some(rope(1e6, 12, RopePairing::Halves, linear)));
    global.qk_norm = Some(unit.clone());
    let mut blocks = vec![block(local, mlp.clone()), block(global, mlp)];
    for block in &mut blocks {
        block.placement = NormPlacement::Sandwich;
        block.norm = unit.clone();
    }
    let mut spec = arch(TensorNaming::Hf, blocks, vec![0, 0, 1, 0]);
    spec.embedding_scale = Some(32.0_f64.sqrt());
    spec.final_norm = unit;
    spec.logit_softcap = Some(3.0);
    Specimen::new(spec)
}

/// Layer norms, biases everywhere, a plain MLP, part of a head rotated in neighbours, a head of its
/// own, and a layer without rotation.
pub(crate) fn phi() -> Specimen {
    let layer = NormSpec { kind: NormKind::Layer, eps: 1e-5, unit_offset: false };
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 64,
    };
    let rotated = rope(1e4, 8, RopePairing::Interleaved, Some(scaling));
    let mut first = attention(2, 2, 16, Some(rotated));
    (first.qkv_bias, first.out_bias) = (true, true);
    let mut second = attention(4, 1, 40, None);
    second.qkv_bias = true;
    let mut blocks = vec![
        block(first, MlpSpec::Plain(dense(56, Activation::Gelu, true))),
        block(second, MlpSpec::Plain(dense(33, Activation::Relu, true))),
    ];
    blocks.iter_mut().for_each(|block| block.norm = layer.clone());
    let mut spec = arch(TensorNaming::Gguf, blocks, vec![0, 1, 0]);
    spec.final_norm = layer;
    spec.tied_head = false;
    Specimen::new(spec)
}

/// Layers of one part each, as in Nemotron-H: attention without rotation, or an MLP.
pub(crate) fn one_part(naming: TensorNaming) -> Specimen {
    let both =
        block(attention(4, 2, 8, None), MlpSpec::Plain(dense(40, Activation::ReluSquared, false)));
    let mixer = BlockSpec { mlp: None, ..both.clone() };
    let mlp = BlockSpec { mixer: None, ..both };
    Specimen::new(arch(naming, vec![mixer, mlp], vec![1, 0, 0, 1, 0]))
}

/// As Mamba: channels that fill no whole block, with and without biases.
pub(crate) fn mamba(naming: TensorNaming) -> Specimen {
    let mut spec = MambaSpec {
        inner_size: 50,
        state_size: 5,
        conv_kernel: 4,
        time_step_rank: 3,
        decay: decay(naming),
        conv_bias: true,
        proj_bias: false,
    };
    let mut blocks = vec![recurrent(MixerSpec::Mamba(spec.clone()))];
    (spec.conv_bias, spec.proj_bias, spec.conv_kernel) = (false, true, 1);
    blocks.push(recurrent(MixerSpec::Mamba(spec)));
    Specimen::new(arch(naming, blocks, vec![0, 1, 0]))
}

/// As Nemotron-H: Mamba-2, an MLP or attention in a layer.
pub(crate) fn hybrid(naming: TensorNaming) -> Specimen {
    let mut spec = Mamba2Spec {
        heads: 6,
        head_dim: 20,
        groups: 2,
        state_size: 9,
        conv_kernel: 3,
        decay: decay(naming),
        time_step_min: None,
        time_step_max: None,
        norm_eps: 1e-5,
        conv_bias: true,
        proj_bias: false,
    };
    let first = recurrent(MixerSpec::Mamba2(spec.clone()));
    (spec.heads, spec.head_dim, spec.groups) = (4, 16, 1);
    (spec.time_step_min, spec.time_step_max) = (Some(0.6), Some(0.8));
    (spec.conv_bias, spec.proj_bias) = (false, true);
    let mut blocks = vec![first, recurrent(MixerSpec::Mamba2(spec))];
    blocks.extend(one_part(naming).spec.blocks);
    Specimen::new(arch(naming, blocks, vec![0, 3, 1, 2, 0]))
}

fn recurrent(mixer: MixerSpec) -> BlockSpec {
    BlockSpec { norm: rms(), placement: NormPlacement::Pre, mixer: Some(mixer), mlp: None }
}

fn decay(naming: TensorNaming) -> DecayForm {
    if naming == TensorNaming::Gguf { DecayForm::Plain } else { DecayForm::Log }
}

/// As Falcon: one projection in groups, MLP beside attention, with one norm or two.
pub(crate) fn falcon() -> Specimen {
    let layer = NormSpec { kind: NormKind::Layer, eps: 1e-5, unit_offset: false };
    let mut grouped = attention(6, 2, 8, Some(rope(1e4, 8, RopePairing::Halves, None)));
    grouped.qkv = QkvLayout::Grouped;
    grouped.qkv_bias = true;
    let mlp = MlpSpec::Plain(dense(56, Activation::Gelu, false));
    let mut blocks = vec![block(grouped.clone(), mlp.clone()), block(grouped, mlp)];
    blocks[0].placement = NormPlacement::Parallel;
    blocks[1].placement = NormPlacement::ParallelShared;
    blocks.iter_mut().for_each(|block| block.norm = layer.clone());
    Specimen::new(arch(TensorNaming::Gguf, blocks, vec![0, 1, 0]))
}

/// As Phi 3: projections in one matrix, part of a head rotated by factors of its own, with a factor
/// on the scores.
pub(crate) fn phi3() -> Specimen {
    let longrope = |original_context| {
        Some(RopeScaling::LongRope {
            short: RopeFactors::Values(vec![1.0, 1.5, 2.0]),
            long: RopeFactors::Tensor("rope_long.weight".to_owned()),
            original_context,
            attention_factor: 1.2,
        })
    };
    let fused = |original_context| {
        let rope = rope(1e4, 6, RopePairing::Halves, longrope(original_context));
        let mut fused = attention(4, 2, 8, Some(rope));
        fused.qkv = QkvLayout::Fused;
        fused.window = Some(9);
        fused
    };
    let gate = DenseSpec { fused: true, ..dense(48, Activation::Silu, false) };
    // 700 is over the one and under the other.
    let blocks = [64, 1000].map(|original| block(fused(original), MlpSpec::Gated(gate.clone())));
    Specimen::new(arch(TensorNaming::Hf, blocks.to_vec(), vec![0, 1]))
}

/// As Qwen's and Mixtral's mixtures: a shared expert or none, weights normalized or not, dense
/// layers between; rotation by `YaRN` and by factors from a tensor.
pub(crate) fn experts(naming: TensorNaming) -> Specimen {
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        original_context: 64,
        beta_fast: 8.0,
        beta_slow: 1.0,
        truncate: false,
        attention_factor: 1.138,
    };
    let per_pair =
        RopeScaling::PerPair { factors: RopeFactors::Tensor("rope_freqs.weight".to_owned()) };
    let attention = |scaling| {
        let rope = rope(1e4, 8, RopePairing::Interleaved, Some(scaling));
        attention(4, 2, 8, Some(rope))
    };
    let shared = SharedExpertSpec { intermediate_size: 24, gated: true };
    let mixture = |active, normalized, shared| {
        MlpSpec::Experts(ExpertsSpec {
            experts: 5,
            active,
            intermediate_size: 16,
            activation: Activation::Silu,
            normalized,
            shared,
        })
    };
    let blocks = vec![
        block(attention(yarn.clone()), mixture(2, false, Some(shared))),
        block(attention(per_pair), mixture(3, true, None)),
        block(attention(yarn), MlpSpec::Gated(dense(40, Activation::Silu, false))),
    ];
    Specimen::new(arch(naming, blocks, vec![0, 1, 2, 1]))
}

/// All of them.
pub(crate) fn all() -> Vec<(&'static str, Specimen)> {
    let mut all = attending();
    all.extend(recurring());
    all
}

/// Those with layers whose state is of fixed size.
pub(crate) fn recurring() -> [(&'static str, Specimen); 4] {
    [
        ("mamba", mamba(TensorNaming::HfBackbone)),
        ("mamba, gguf", mamba(TensorNaming::Gguf)),
        ("hybrid", hybrid(TensorNaming::HfBackbone)),
        ("hybrid, gguf", hybrid(TensorNaming::Gguf)),
    ]
}

/// Those that keep every position as keys and values.
pub(crate) fn attending() -> Vec<(&'static str, Specimen)> {
    vec![
        ("llama", llama()),
        ("gemma", gemma()),
        ("phi", phi()),
        ("falcon", falcon()),
        ("phi3", phi3()),
        ("experts", experts(TensorNaming::Hf)),
        ("stacked experts", experts(TensorNaming::Gguf)),
        ("one part, backbone", one_part(TensorNaming::HfBackbone)),
        ("one part, gguf", one_part(TensorNaming::Gguf)),
    ]
}

/// Token ids that look random.
pub(crate) fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32).map(|index| (index * index * 7 + index * 13 + 5) % 50).collect()
}
