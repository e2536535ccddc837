//! The tensors that an architecture asks for (spec 21).

use crate::arch::{
    ArchSpec, AttentionSpec, BlockSpec, Expert, ExpertsSpec, Global, Mamba2Spec, MambaSpec,
    MixerSpec, MlpSpec, NormKind, NormPlacement, NormSpec, Part, QkvLayout, TensorNaming,
};

/// A tensor that an architecture asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Its shape; a projection is `[out, in]`.
    pub shape: Vec<u64>,
}

impl ArchSpec {
    /// Every tensor that the architecture asks for.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut list = List { naming: self.naming, tensors: Vec::new() };
        let (vocab, hidden) = (self.vocab_size, self.hidden_size);
        list.weight(self.naming.global(Global::Embedding), vec![vocab, hidden]);
        list.norm(self.naming.global(Global::FinalNorm), &self.final_norm, hidden);
        if !self.tied_head {
            list.weight(self.naming.global(Global::Head), vec![vocab, hidden]);
        }
        list.tensors.extend(self.rope_tensors());
        for (index, block) in self.layer_blocks().enumerate() {
            Layer { list: &mut list, index, block, hidden }.push();
        }
        list.tensors
    }

    /// The tensors of one layer, in the order of [`ArchSpec::tensors`]. Layers of blocks that differ
    /// in sizes alone have the same tensors in the same order. Panics where there is no such layer.
    pub fn layer_tensors(&self, index: usize) -> Vec<TensorSpec> {
        let mut list = List { naming: self.naming, tensors: Vec::new() };
        let block = &self.blocks[self.layers[index] as usize];
        Layer { list: &mut list, index, block, hidden: self.hidden_size }.push();
        list.tensors
    }

    /// Tensors that hold RoPE factors, each once. They are no weights: nothing learns them.
    pub fn rope_tensors(&self) -> Vec<TensorSpec> {
        let mut tensors: Vec<TensorSpec> = Vec::new();
        for block in &self.blocks {
            let Some(MixerSpec::Attention(AttentionSpec { rope: Some(rope), .. })) = &block.mixer
            else {
                continue;
            };
            for name in rope.factor_tensors() {
                let tensor = TensorSpec { name: name.to_owned(), shape: vec![rope.dims / 2] };
                if !tensors.contains(&tensor) {
                    tensors.push(tensor);
                }
            }
        }
        tensors
    }
}

struct List {
    naming: TensorNaming,
    tensors: Vec<TensorSpec>,
}

impl List {
    fn weight(&mut self, name: &str, shape: Vec<u64>) {
        self.tensors.push(TensorSpec { name: format!("{name}.weight"), shape });
    }

    fn bias(&mut self, name: &str, width: u64) {
        self.tensors.push(TensorSpec { name: format!("{name}.bias"), shape: vec![width] });
    }

    fn norm(&mut self, name: &str, spec: &NormSpec, width: u64) {
        self.weight(name, vec![width]);
        if spec.kind == NormKind::Layer {
            self.bias(name, width);
        }
    }
}

/// The tensors of one layer.
struct Layer<'a> {
    list: &'a mut List,
    index: usize,
    block: &'a BlockSpec,
    hidden: u64,
}

impl Layer<'_> {
    fn push(&mut self) {
        let (block, hidden) = (self.block, self.hidden);
        let sandwich = block.placement == NormPlacement::Sandwich;
        if let Some(mixer) = &block.mixer {
            self.norm(Part::MixerNorm, &block.norm, hidden);
            match mixer {
                MixerSpec::Attention(attention) => self.attention(attention),
                MixerSpec::Mamba(mamba) => self.mamba(mamba),
                MixerSpec::Mamba2(mamba) => self.mamba2(mamba),
            }
            if sandwich {
                self.norm(Part::AfterMixerNorm, &block.norm, hidden);
            }
        }
        if let Some(mlp) = &block.mlp {
            if block.placement != NormPlacement::ParallelShared {
                self.norm(Part::MlpNorm, &block.norm, hidden);
            }
            self.mlp(mlp);
            if sandwich {
                self.norm(Part::AfterMlpNorm, &block.norm, hidden);
            }
        }
    }

    fn attention(&mut self, spec: &AttentionSpec) {
        let hidden = self.hidden;
        let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        if spec.qkv == QkvLayout::Separate {
            self.linear(Part::Query, queries, hidden, spec.qkv_bias);
            self.linear(Part::Key, keys, hidden, spec.qkv_bias);
            self.linear(Part::Value, keys, hidden, spec.qkv_bias);
        } else {
            self.linear(Part::Qkv, queries + 2 * keys, hidden, spec.qkv_bias);
        }
        self.linear(Part::Out, hidden, queries, spec.out_bias);
        if let Some(norm) = &spec.qk_norm {
            self.norm(Part::QueryNorm, norm, spec.head_dim);
            self.norm(Part::KeyNorm, norm, spec.head_dim);
        }
    }

    fn mamba(&mut self, spec: &MambaSpec) {
        let (hidden, inner) = (self.hidden, spec.inner_size);
        self.linear(Part::SsmIn, spec.input_width(), hidden, spec.proj_bias);
        self.conv(inner, spec.conv_kernel, spec.conv_bias);
        self.linear(Part::SsmParameters, spec.parameter_width(), inner, false);
        self.linear(Part::TimeStep, inner, spec.time_step_rank, true);
        self.whole(Part::Decay, vec![inner, spec.state_size]);
        self.whole(Part::Skip, vec![inner]);
        self.linear(Part::SsmOut, hidden, inner, spec.proj_bias);
    }

    fn mamba2(&mut self, spec: &Mamba2Spec) {
        let (hidden, inner, naming) = (self.hidden, spec.inner_size(), self.list.naming);
        self.linear(Part::SsmIn, spec.input_width(), hidden, spec.proj_bias);
        self.conv(spec.conv_width(), spec.conv_kernel, spec.conv_bias);
        self.whole(Part::TimeStepBias, vec![spec.heads]);
        self.whole(Part::Decay, naming.head_shape(spec.heads));
        self.whole(Part::Skip, naming.head_shape(spec.heads));
        let name = self.name(Part::SsmNorm);
        self.list.weight(&name, naming.group_norm_shape(spec.groups, inner));
        self.linear(Part::SsmOut, hidden, inner, spec.proj_bias);
    }

    fn conv(&mut self, channels: u64, kernel: u64, bias: bool) {
        let name = self.name(Part::SsmConv);
        self.list.weight(&name, self.list.naming.conv_shape(channels, kernel));
        if bias {
            self.list.bias(&name, channels);
        }
    }

    fn whole(&mut self, part: Part, shape: Vec<u64>) {
        let name = self.name(part);
        self.list.tensors.push(TensorSpec { name, shape });
    }

    fn mlp(&mut self, spec: &MlpSpec) {
        let hidden = self.hidden;
        match spec {
            MlpSpec::Gated(dense) if dense.fused => {
                self.linear(Part::GateUp, 2 * dense.intermediate_size, hidden, dense.bias);
                self.linear(Part::Down, hidden, dense.intermediate_size, dense.bias);
            }
            MlpSpec::Gated(dense) => {
                self.linear(Part::Gate, dense.intermediate_size, hidden, dense.bias);
                self.linear(Part::Up, dense.intermediate_size, hidden, dense.bias);
                self.linear(Part::Down, hidden, dense.intermediate_size, dense.bias);
            }
            MlpSpec::Plain(dense) => {
                self.linear(Part::Up, dense.intermediate_size, hidden, dense.bias);
                self.linear(Part::Down, hidden, dense.intermediate_size, dense.bias);
            }
            MlpSpec::Experts(experts) => self.experts(experts),
        }
    }

    fn experts(&mut self, spec: &ExpertsSpec) {
        let (hidden, width) = (self.hidden, spec.intermediate_size);
        self.linear(Part::Router, spec.experts, hidden, false);
        let parts = |expert| {
            [
                (Part::ExpertGate(expert), [width, hidden]),
                (Part::ExpertUp(expert), [width, hidden]),
                (Part::ExpertDown(expert), [hidden, width]),
            ]
        };
        if self.list.naming.stacks_experts() {
            for (part, [out, input]) in parts(Expert::All) {
                let name = self.name(part);
                self.list.weight(&name, vec![spec.experts, out, input]);
            }
        } else {
            for (part, [out, input]) in
                (0..spec.experts).flat_map(|index| parts(Expert::One(index)))
            {
                self.linear(part, out, input, false);
            }
        }
        if let Some(shared) = &spec.shared {
            let width = shared.intermediate_size;
            if shared.gated {
                self.shared_router();
            }
            self.linear(Part::SharedGate, width, hidden, false);
            self.linear(Part::SharedUp, width, hidden, false);
            self.linear(Part::SharedDown, hidden, width, false);
        }
    }

    /// GGUF has it as a vector, Hugging Face as a matrix of one row.
    fn shared_router(&mut self) {
        let name = self.name(Part::SharedRouter);
        let hidden = self.hidden;
        match self.list.naming {
            TensorNaming::Gguf => self.list.weight(&name, vec![hidden]),
            _ => self.list.weight(&name, vec![1, hidden]),
        }
    }

    fn name(&self, part: Part) -> String {
        self.list.naming.part(self.index, part, self.block)
    }

    fn linear(&mut self, part: Part, out: u64, input: u64, bias: bool) {
        let name = self.name(part);
        self.list.weight(&name, vec![out, input]);
        if bias {
            self.list.bias(&name, out);
        }
    }

    fn norm(&mut self, part: Part, spec: &NormSpec, width: u64) {
        let name = self.name(part);
        self.list.norm(&name, spec, width);
    }
}
