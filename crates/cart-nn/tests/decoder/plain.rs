//! A decoder in plain `f64` loops, written from the documentation of `ArchSpec`: what the real one
//! is compared with.

use std::collections::BTreeMap;
use std::f64::consts::{PI, SQRT_2};

use cart_format::ArchSpec;
use cart_format::arch::{
    Activation, AttentionSpec, BlockSpec, DecayForm, ExpertsSpec, Mamba2Spec, MambaSpec, MixerSpec,
    MlpSpec, NormKind, NormPlacement, NormSpec, QkvLayout, RopeFactors, RopePairing, RopeScaling,
    RopeSpec, TensorNaming,
};

/// Values of tensors by name.
pub(crate) type Weights = BTreeMap<String, Vec<f64>>;

type Rows = Vec<Vec<f64>>;

/// The name of a layer's tensor from those of the two conventions.
type Namer<'a> = &'a dyn Fn(&str, &str) -> String;

/// What a query sees of a key: nothing, or the key with something added to its score.
pub(crate) type Sees<'a> = &'a dyn Fn(usize, usize) -> Option<f64>;

pub(crate) struct Plain<'a> {
    pub(crate) spec: &'a ArchSpec,
    pub(crate) weights: &'a Weights,
}

impl Plain<'_> {
    /// Logits of every position of `tokens`; `sees` narrows the causal view further.
    pub(crate) fn logits(&self, tokens: &[u32], sees: Sees<'_>) -> Rows {
        let hidden = self.spec.hidden_size as usize;
        let names = match self.spec.naming {
            TensorNaming::Hf | TensorNaming::HfMixtral | TensorNaming::HfFalcon => {
                ["model.embed_tokens", "model.norm", "lm_head"]
            }
            TensorNaming::HfBackbone => ["backbone.embeddings", "backbone.norm_f", "lm_head"],
            TensorNaming::Gguf => ["token_embd", "output_norm", "output"],
        };
        let embedding = &self.weights[&format!("{}.weight", names[0])];
        let scale = self.spec.embedding_scale.unwrap_or(1.0);
        let mut x: Rows = tokens
            .iter()
            .map(|&token| embedding[token as usize * hidden..][..hidden].iter().map(|v| v * scale))
            .map(Iterator::collect)
            .collect();
        for (index, block) in self.spec.layer_blocks().enumerate() {
            self.block(index, block, &mut x, sees);
        }
        let head = if self.spec.tied_head { names[0] } else { names[2] };
        let cap = |v: f64| self.spec.logit_softcap.map_or(v, |cap| cap * (v / cap).tanh());
        let logits = |row: &Vec<f64>| {
            let row = self.norm(names[1], &self.spec.final_norm, row);
            self.linear(head, &row, false).into_iter().map(cap).collect()
        };
        x.iter().map(logits).collect()
    }

    fn block(&self, index: usize, block: &BlockSpec, x: &mut Rows, sees: Sees<'_>) {
        let name = |hf: &str, gguf: &str| match self.spec.naming {
            TensorNaming::Hf | TensorNaming::HfMixtral | TensorNaming::HfFalcon => {
                format!("model.layers.{index}.{hf}")
            }
            TensorNaming::HfBackbone => {
                let last = hf.rsplit('.').next().unwrap();
                let part = if last.ends_with("layernorm") { "norm" } else { last };
                let within = if last.ends_with("layernorm") { "" } else { "mixer." };
                format!("backbone.layers.{index}.{within}{part}")
            }
            TensorNaming::Gguf => format!("blk.{index}.{gguf}"),
        };
        let sandwich = block.placement == NormPlacement::Sandwich;
        let normed = |norm: &str, x: &Rows| -> Rows {
            x.iter().map(|row| self.norm(norm, &block.norm, row)).collect()
        };
        let add = |x: &mut Rows, branch: Rows, after: &str| {
            for (x, mut row) in x.iter_mut().zip(branch) {
                if sandwich {
                    row = self.norm(after, &block.norm, &row);
                }
                x.iter_mut().zip(row).for_each(|(x, value)| *x += value);
            }
        };
        let before = x.clone();
        let parallel = block.placement == NormPlacement::Parallel;
        let shared = block.placement == NormPlacement::ParallelShared;
        if let Some(mixer) = &block.mixer {
            let gguf = if parallel { "attn_norm_2" } else { "attn_norm" };
            let rows = normed(&name("input_layernorm", gguf), x);
            let mixed = match mixer {
                MixerSpec::Attention(spec) => self.attention(&name, spec, &rows, sees),
                MixerSpec::Mamba(spec) => self.mamba(&name, spec, &rows),
                MixerSpec::Mamba2(spec) => self.mamba2(&name, spec, &rows),
            };
            add(x, mixed, &name("post_attention_layernorm", "post_attention_norm"));
        }
        if let Some(mlp) = &block.mlp {
            let hf =
                if sandwich { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
            let alone = block.mixer.is_none() || parallel || shared;
            let gguf = if alone { "attn_norm" } else { "ffn_norm" };
            let rows = normed(&name(hf, gguf), if parallel || shared { &before } else { x });
            let worked = rows.iter().map(|row| self.mlp(&name, mlp, row)).collect();
            add(x, worked, &name("post_feedforward_layernorm", "post_ffw_norm"));
        }
    }

    fn attention(
        &self,
        name: &dyn Fn(&str, &str) -> String,
        spec: &AttentionSpec,
        rows: &Rows,
        sees: Sees<'_>,
    ) -> Rows {
        let dim = spec.head_dim as usize;
        let mut projected = [Vec::new(), Vec::new(), Vec::new()];
        let norms = [
            Some(name("self_attn.q_norm", "attn_q_norm")),
            Some(name("self_attn.k_norm", "attn_k_norm")),
            None,
        ];
        for (position, row) in rows.iter().enumerate() {
            let qkv = self.qkv(name, spec, row);
            for ((projected, row), norm) in projected.iter_mut().zip(qkv).zip(&norms) {
                let head = |head: &[f64]| {
                    let mut head = head.to_vec();
                    let Some(name) = norm else { return head };
                    if let Some(norm) = &spec.qk_norm {
                        head = self.norm(name, norm, &head);
                    }
                    if let Some(rope) = &spec.rope {
                        self.rotate(rope, position, &mut head);
                    }
                    head
                };
                projected.push(row.chunks(dim).map(head).collect::<Rows>());
            }
        }
        let [queries, keys, values] = projected;
        let scale = spec.scale.unwrap_or(1.0 / (dim as f64).sqrt());
        let group = (spec.heads / spec.kv_heads) as usize;
        let mix = |position: usize| {
            let mut out = Vec::new();
            for (head, query) in queries[position].iter().enumerate() {
                let (mut total, mut sum) = (0.0, vec![0.0; dim]);
                for key in 0..=position {
                    let Some(bias) = sees(position, key) else { continue };
                    if spec.window.is_some_and(|window| position - key >= window as usize) {
                        continue;
                    }
                    let mut score = dot(query, &keys[key][head / group]) * scale;
                    if let Some(cap) = spec.score_softcap {
                        score = cap * (score / cap).tanh();
                    }
                    let weight = (score + bias).exp();
                    total += weight;
                    let value = &values[key][head / group];
                    sum.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight * value);
                }
                out.extend(sum.into_iter().map(|value| value / total));
            }
            self.linear(&name("self_attn.o_proj", "attn_output"), &out, spec.out_bias)
        };
        (0..rows.len()).map(mix).collect()
    }

    fn mamba(&self, name: Namer<'_>, spec: &MambaSpec, rows: &Rows) -> Rows {
        let (inner, size) = (spec.inner_size as usize, spec.state_size as usize);
        let rank = spec.time_step_rank as usize;
        let input = self.each(&name("mamba.in_proj", "ssm_in"), rows, spec.proj_bias);
        let x = self.conv(name, &columns(&input, 0..inner), spec.conv_kernel, spec.conv_bias);
        let parameters = self.each(&name("mamba.x_proj", "ssm_x"), &x, false);
        let steps = columns(&parameters, 0..rank);
        let steps = self.each(&name("mamba.dt_proj", "ssm_dt"), &steps, true);
        let decay = self.decay(name, spec.decay);
        let skip = &self.weights[&name("mamba.D", "ssm_d")];
        let mut state = vec![0.0; inner * size];
        let mut out = Vec::new();
        for row in 0..rows.len() {
            let (b, c) = parameters[row][rank..].split_at(size);
            let mut y = Vec::new();
            for channel in 0..inner {
                let (step, x) = (steps[row][channel].exp().ln_1p(), x[row][channel]);
                let mut sum = skip[channel] * x;
                for n in 0..size {
                    let h = &mut state[channel * size + n];
                    *h = (step * decay[channel * size + n]).exp() * *h + step * x * b[n];
                    sum += *h * c[n];
                }
                y.push(sum * activate(Activation::Silu, input[row][inner + channel]));
            }
            out.push(self.linear(&name("mamba.out_proj", "ssm_out"), &y, spec.proj_bias));
        }
        out
    }

    fn mamba2(&self, name: Namer<'_>, spec: &Mamba2Spec, rows: &Rows) -> Rows {
        let (heads, dim) = (spec.heads as usize, spec.head_dim as usize);
        let (groups, size) = (spec.groups as usize, spec.state_size as usize);
        let inner = heads * dim;
        let wide = inner + 2 * groups * size;
        let input = self.each(&name("mamba.in_proj", "ssm_in"), rows, spec.proj_bias);
        let x = columns(&input, inner..inner + wide);
        let x = self.conv(name, &x, spec.conv_kernel, spec.conv_bias);
        let decay = self.decay(name, spec.decay);
        let skip = &self.weights[&name("mamba.D", "ssm_d")];
        let bias = &self.weights[&name("mamba.dt_bias", "ssm_dt.bias")];
        let norm = &self.weights[&format!("{}.weight", name("mamba.norm", "ssm_norm"))];
        let mut state = vec![0.0; inner * size];
        let mut out = Vec::new();
        for row in 0..rows.len() {
            let mut y = Vec::new();
            for channel in 0..inner {
                let head = channel / dim;
                let step = (input[row][inner + wide + head] + bias[head]).exp().ln_1p();
                let step = step.max(spec.time_step_min.unwrap_or(0.0));
                let step = step.min(spec.time_step_max.unwrap_or(f64::INFINITY));
                let group = head / (heads / groups);
                let mut sum = skip[head] * x[row][channel];
                for n in 0..size {
                    let b = x[row][inner + group * size + n];
                    let c = x[row][inner + (groups + group) * size + n];
                    let h = &mut state[channel * size + n];
                    *h = (step * decay[head]).exp() * *h + step * x[row][channel] * b;
                    sum += *h * c;
                }
                y.push(sum * activate(Activation::Silu, input[row][channel]));
            }
            for (part, weight) in y.chunks_mut(inner / groups).zip(norm.chunks(inner / groups)) {
                let square = part.iter().map(|v| v * v).sum::<f64>() / part.len() as f64;
                let scale = 1.0 / (square + spec.norm_eps).sqrt();
                part.iter_mut().zip(weight).for_each(|(v, weight)| *v *= scale * weight);
            }
            out.push(self.linear(&name("mamba.out_proj", "ssm_out"), &y, spec.proj_bias));
        }
        out
    }

    fn conv(&self, name: Namer<'_>, rows: &Rows, kernel: u64, bias: bool) -> Rows {
        let (name, kernel) = (name("mamba.conv1d", "ssm_conv1d"), kernel as usize);
        let weight = &self.weights[&format!("{name}.weight")];
        let bias = bias.then(|| &self.weights[&format!("{name}.bias")]);
        let at = |position: usize, channel: usize| {
            let mut sum = bias.map_or(0.0, |bias| bias[channel]);
            for tap in 0..kernel {
                if let Some(source) = (position + tap + 1).checked_sub(kernel) {
                    sum += weight[channel * kernel + tap] * rows[source][channel];
                }
            }
            activate(Activation::Silu, sum)
        };
        let row = |position| (0..rows[0].len()).map(|channel| at(position, channel)).collect();
        (0..rows.len()).map(row).collect()
    }

    fn decay(&self, name: Namer<'_>, form: DecayForm) -> Vec<f64> {
        let stored = &self.weights[&name("mamba.A_log", "ssm_a")];
        let decay = |stored: &f64| match form {
            DecayForm::Log => -stored.exp(),
            DecayForm::Plain => *stored,
        };
        stored.iter().map(decay).collect()
    }

    fn each(&self, name: &str, rows: &Rows, bias: bool) -> Rows {
        rows.iter().map(|row| self.linear(name, row, bias)).collect()
    }

    /// Queries, keys and values of a position.
    fn qkv(
        &self,
        name: &dyn Fn(&str, &str) -> String,
        spec: &AttentionSpec,
        row: &[f64],
    ) -> [Vec<f64>; 3] {
        let names = [
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
        ];
        if spec.qkv == QkvLayout::Separate {
            return names.map(|(hf, gguf)| self.linear(&name(hf, gguf), row, spec.qkv_bias));
        }
        let all = self.linear(&name("self_attn.qkv_proj", "attn_qkv"), row, spec.qkv_bias);
        let groups = if spec.qkv == QkvLayout::Grouped { spec.kv_heads } else { 1 };
        let keys = (spec.kv_heads / groups * spec.head_dim) as usize;
        let mut parts = [Vec::new(), Vec::new(), Vec::new()];
        for group in all.chunks(all.len() / groups as usize) {
            let queries = group.len() - 2 * keys;
            parts[0].extend(&group[..queries]);
            parts[1].extend(&group[queries..queries + keys]);
            parts[2].extend(&group[queries + keys..]);
        }
        parts
    }

    fn mlp(&self, name: &dyn Fn(&str, &str) -> String, spec: &MlpSpec, row: &[f64]) -> Vec<f64> {
        let dense = match spec {
            MlpSpec::Gated(dense) | MlpSpec::Plain(dense) => dense,
            MlpSpec::Experts(spec) => return self.experts(name, spec, row),
        };
        let inner: Vec<f64> = if dense.fused {
            let both = self.linear(&name("mlp.gate_up_proj", "ffn_up"), row, dense.bias);
            let (gate, up) = both.split_at(both.len() / 2);
            gate.iter().zip(up).map(|(gate, up)| activate(dense.activation, *gate) * up).collect()
        } else if matches!(spec, MlpSpec::Gated(_)) {
            let up = self.linear(&name("mlp.up_proj", "ffn_up"), row, dense.bias);
            let gate = self.linear(&name("mlp.gate_proj", "ffn_gate"), row, dense.bias);
            gate.iter().zip(up).map(|(gate, up)| activate(dense.activation, *gate) * up).collect()
        } else {
            let up = self.linear(&name("mlp.up_proj", "ffn_up"), row, dense.bias);
            up.iter().map(|up| activate(dense.activation, *up)).collect()
        };
        self.linear(&name("mlp.down_proj", "ffn_down"), &inner, dense.bias)
    }

    fn experts(
        &self,
        name: &dyn Fn(&str, &str) -> String,
        spec: &ExpertsSpec,
        row: &[f64],
    ) -> Vec<f64> {
        let scores = self.linear(&name("mlp.gate", "ffn_gate_inp"), row, false);
        let total: f64 = scores.iter().map(|score| score.exp()).sum();
        let mut weights: Vec<(usize, f64)> =
            scores.iter().map(|score| score.exp() / total).enumerate().collect();
        weights.sort_by(|a, b| b.1.total_cmp(&a.1));
        weights.truncate(spec.active as usize);
        if spec.normalized {
            let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
            weights.iter_mut().for_each(|(_, weight)| *weight /= total);
        }
        let gated = |gate: Vec<f64>, up: Vec<f64>| -> Vec<f64> {
            gate.iter().zip(up).map(|(gate, up)| activate(spec.activation, *gate) * up).collect()
        };
        let mut out = vec![0.0; row.len()];
        let mut add = |weight: f64, values: Vec<f64>| {
            out.iter_mut().zip(values).for_each(|(out, value)| *out += weight * value);
        };
        for (expert, weight) in weights {
            let linear = |role: &str, row: &[f64]| {
                let hf = format!("mlp.experts.{expert}.{role}_proj");
                let name = name(&hf, &format!("ffn_{role}_exps"));
                let weight = &self.weights[&format!("{name}.weight")];
                let stacked = self.spec.naming == TensorNaming::Gguf;
                let size =
                    if stacked { weight.len() / spec.experts as usize } else { weight.len() };
                let weight = if stacked { &weight[expert * size..][..size] } else { weight };
                weight.chunks(row.len()).map(|weight| dot(weight, row)).collect::<Vec<f64>>()
            };
            add(weight, linear("down", &gated(linear("gate", row), linear("up", row))));
        }
        if let Some(shared) = &spec.shared {
            let linear = |role: &str, row: &[f64]| {
                let hf = format!("mlp.shared_expert.{role}_proj");
                self.linear(&name(&hf, &format!("ffn_{role}_shexp")), row, false)
            };
            let gate = name("mlp.shared_expert_gate", "ffn_gate_inp_shexp");
            let score = self.linear(&gate, row, false)[0];
            let weight = if shared.gated { 1.0 / (1.0 + (-score).exp()) } else { 1.0 };
            add(weight, linear("down", &gated(linear("gate", row), linear("up", row))));
        }
        out
    }

    fn linear(&self, name: &str, row: &[f64], bias: bool) -> Vec<f64> {
        let weight = &self.weights[&format!("{name}.weight")];
        let mut out: Vec<f64> = weight.chunks(row.len()).map(|weight| dot(weight, row)).collect();
        if bias {
            let bias = &self.weights[&format!("{name}.bias")];
            out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
        }
        out
    }

    fn norm(&self, name: &str, spec: &NormSpec, row: &[f64]) -> Vec<f64> {
        let weight = &self.weights[&format!("{name}.weight")];
        let count = row.len() as f64;
        let mean = match spec.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => row.iter().sum::<f64>() / count,
        };
        let square = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
        let offset = if spec.unit_offset { 1.0 } else { 0.0 };
        let scaled = row
            .iter()
            .zip(weight)
            .map(|(v, weight)| (v - mean) / (square + spec.eps).sqrt() * (weight + offset));
        match spec.kind {
            NormKind::Rms => scaled.collect(),
            NormKind::Layer => scaled
                .zip(&self.weights[&format!("{name}.bias")])
                .map(|(v, bias)| v + bias)
                .collect(),
        }
    }

    fn rotate(&self, spec: &RopeSpec, position: usize, head: &mut [f64]) {
        let pairs = spec.dims as usize / 2;
        let divisor = |factors: &RopeFactors, pair: usize| match factors {
            RopeFactors::Values(values) => values[pair],
            RopeFactors::Tensor(name) => self.weights[name][pair],
        };
        for pair in 0..pairs {
            let mut frequency = spec.theta.powf(-2.0 * pair as f64 / spec.dims as f64);
            let mut size = 1.0;
            match &spec.scaling {
                None => {}
                Some(RopeScaling::Linear { factor }) => frequency /= factor,
                Some(RopeScaling::PerPair { factors }) => frequency /= divisor(factors, pair),
                Some(RopeScaling::LongRope { short, long, original_context, attention_factor }) => {
                    let is_long = self.spec.context_length > *original_context;
                    frequency /= divisor(if is_long { long } else { short }, pair);
                    size = *attention_factor;
                }
                Some(RopeScaling::Llama3 {
                    factor,
                    low_freq_factor,
                    high_freq_factor,
                    original_context,
                }) => {
                    let wavelength = 2.0 * PI / frequency;
                    let original = *original_context as f64;
                    if wavelength > original / low_freq_factor {
                        frequency /= factor;
                    } else if wavelength >= original / high_freq_factor {
                        let smooth = (original / wavelength - low_freq_factor)
                            / (high_freq_factor - low_freq_factor);
                        frequency = (1.0 - smooth) * frequency / factor + smooth * frequency;
                    }
                }
                Some(RopeScaling::Yarn {
                    factor,
                    original_context,
                    beta_fast,
                    beta_slow,
                    truncate: _,
                    attention_factor,
                }) => {
                    // The pair, not a whole one, that turns so often over the original context.
                    let pair_of = |turns: f64| {
                        let wavelength = *original_context as f64 / turns;
                        (wavelength / (2.0 * PI)).ln() / spec.theta.ln() * spec.dims as f64 / 2.0
                    };
                    let first = pair_of(*beta_fast).max(0.0);
                    let ramp = (pair as f64 - first) / (pair_of(*beta_slow) - first);
                    let slow = ramp.clamp(0.0, 1.0);
                    frequency = slow * frequency / factor + (1.0 - slow) * frequency;
                    size = *attention_factor;
                }
            }
            let (first, second) = match spec.pairing {
                RopePairing::Halves => (pair, pair + pairs),
                RopePairing::Interleaved => (2 * pair, 2 * pair + 1),
            };
            let (sine, cosine) = (position as f64 * frequency).sin_cos();
            let (a, b) = (head[first] * size, head[second] * size);
            (head[first], head[second]) = (a * cosine - b * sine, b * cosine + a * sine);
        }
    }
}

fn columns(rows: &Rows, columns: std::ops::Range<usize>) -> Rows {
    rows.iter().map(|row| row[columns.clone()].to_vec()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => x / 2.0 * (1.0 + erf(x / SQRT_2)),
        Activation::GeluTanh => {
            x / 2.0 * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::Relu => x.max(0.0),
        Activation::ReluSquared => x.max(0.0).powi(2),
    }
}

/// The series `2/√π · Σ (−1)ⁿ x²ⁿ⁺¹ / (n! (2n+1))`, enough for `|x| < 4`.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..120 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    2.0 / PI.sqrt() * sum
}
