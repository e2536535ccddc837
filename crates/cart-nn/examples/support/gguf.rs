//! Just enough of GGUF to run a Llama from it: for measuring, not for reading files of others.

use std::collections::BTreeMap;

use cart_format::arch::{
    Activation, AttentionSpec, BlockSpec, DenseSpec, MixerSpec, MlpSpec, NormKind, NormPlacement,
    NormSpec, QkvLayout, RopePairing, RopeSpec, TensorNaming,
};
use cart_format::{ArchSpec, DType};
use cart_nn::{SharedBytes, WeightTensor};

/// Numbers of the metadata by key, and the tensors.
pub(crate) struct Gguf {
    pub(crate) numbers: BTreeMap<String, f64>,
    pub(crate) tensors: BTreeMap<String, WeightTensor>,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.bytes[self.at..self.at + N].try_into().expect("N bytes");
        self.at += N;
        taken
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn text(&mut self) -> String {
        let len = self.u64() as usize;
        let text = String::from_utf8_lossy(&self.bytes[self.at..self.at + len]).into_owned();
        self.at += len;
        text
    }

    /// A metadata value: the number, if it is one.
    fn value(&mut self, kind: u32) -> Option<f64> {
        match kind {
            0 | 7 => Some(f64::from(self.take::<1>()[0])),
            4 => Some(f64::from(self.u32())),
            5 => Some(f64::from(i32::from_le_bytes(self.take()))),
            6 => Some(f64::from(f32::from_le_bytes(self.take()))),
            8 => {
                self.text();
                None
            }
            9 => {
                let (kind, count) = (self.u32(), self.u64());
                for _ in 0..count {
                    self.value(kind);
                }
                None
            }
            10 => Some(self.u64() as f64),
            12 => Some(f64::from_le_bytes(self.take())),
            other => panic!("metadata of type {other}"),
        }
    }
}

impl Gguf {
    pub(crate) fn parse(file: Vec<u8>) -> Self {
        let all = SharedBytes::new(file);
        let mut reader = Reader { bytes: &all, at: 8 };
        let (tensor_count, value_count) = (reader.u64(), reader.u64());
        let mut numbers = BTreeMap::new();
        for _ in 0..value_count {
            let (key, kind) = (reader.text(), reader.u32());
            if let Some(number) = reader.value(kind) {
                numbers.insert(key, number);
            }
        }
        let mut infos = Vec::new();
        for _ in 0..tensor_count {
            let (name, dims) = (reader.text(), reader.u32());
            let mut shape: Vec<usize> = (0..dims).map(|_| reader.u64() as usize).collect();
            shape.reverse();
            let dtype = DType::from_ggml(reader.u32()).expect("a known type");
            infos.push((name, shape, dtype, reader.u64() as usize));
        }
        let data = reader.at.next_multiple_of(32);
        let mut tensors = BTreeMap::new();
        for (name, shape, dtype, offset) in infos {
            let dims: Vec<u64> = shape.iter().map(|&dim| dim as u64).collect();
            let size = dtype.size_of(&dims).expect("a size") as usize;
            let start = data + offset;
            let bytes = all.slice(start..start + size).expect("inside the file");
            tensors.insert(name, WeightTensor { dtype, shape, bytes });
        }
        Self { numbers, tensors }
    }

    /// The architecture of a Llama.
    pub(crate) fn llama(&self) -> ArchSpec {
        let number = |key: &str| self.numbers[&format!("llama.{key}")];
        let (hidden, heads) =
            (number("embedding_length") as u64, number("attention.head_count") as u64);
        let eps = number("attention.layer_norm_rms_epsilon");
        let norm = NormSpec { kind: NormKind::Rms, eps, unit_offset: false };
        let attention = AttentionSpec {
            heads,
            kv_heads: number("attention.head_count_kv") as u64,
            head_dim: hidden / heads,
            scale: None,
            rope: Some(RopeSpec {
                theta: number("rope.freq_base"),
                dims: number("rope.dimension_count") as u64,
                pairing: RopePairing::Interleaved,
                scaling: None,
            }),
            window: None,
            score_softcap: None,
            qkv: QkvLayout::Separate,
            qkv_bias: false,
            out_bias: false,
            qk_norm: None,
        };
        let mlp = MlpSpec::Gated(DenseSpec {
            intermediate_size: number("feed_forward_length") as u64,
            activation: Activation::Silu,
            bias: false,
            fused: false,
        });
        ArchSpec {
            family: "llama".to_owned(),
            naming: TensorNaming::Gguf,
            vocab_size: self.tensors["token_embd.weight"].shape[0] as u64,
            hidden_size: hidden,
            context_length: number("context_length") as u64,
            embedding_scale: None,
            tied_head: !self.tensors.contains_key("output.weight"),
            final_norm: norm.clone(),
            logit_softcap: None,
            blocks: vec![BlockSpec {
                norm,
                placement: NormPlacement::Pre,
                mixer: Some(MixerSpec::Attention(attention)),
                mlp: Some(mlp),
            }],
            layers: vec![0; number("block_count") as usize],
        }
    }
}
