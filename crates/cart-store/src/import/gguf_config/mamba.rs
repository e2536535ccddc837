//! Mamba, Mamba-2 and Nemotron-H as the metadata of a GGUF file have them.

use cart_format::ArchSpec;
use cart_format::arch::{
    Activation, AttentionSpec, BlockSpec, DecayForm, DenseSpec, Mamba2Spec, MambaSpec, MixerSpec,
    MlpSpec, NormKind, NormPlacement, NormSpec, QkvLayout, TensorNaming,
};

use crate::import::config::mamba::UNBOUNDED;
use crate::import::config::{MAX_LAYERS, distinct};
use crate::import::error::ImportError;
use crate::import::gguf_config::keys::Keys;

/// Architectures that [`map`] reads.
pub(crate) const FAMILIES: [&str; 3] = ["mamba", "mamba2", "nemotron_h"];

/// What the metadata of one of [`FAMILIES`] compute, or what of them can't be said.
pub(crate) fn map(keys: Keys<'_>) -> Result<Result<ArchSpec, String>, ImportError> {
    let key = "attention.layer_norm_rms_epsilon";
    let eps = keys.float(key)?.ok_or_else(|| keys.refuse(key, "a number"))?;
    let norm = NormSpec { kind: NormKind::Rms, eps, unit_offset: false };
    let reader = Reader { keys, norm };
    if reader.keys.flag("ssm.dt_b_c_rms")?.unwrap_or(false) {
        return Ok(Err("norms on time step, B and C (ssm.dt_b_c_rms) are not known".to_owned()));
    }
    let layers = reader.keys.need("block_count")?;
    if layers > MAX_LAYERS {
        return Err(reader.keys.refuse("block_count", "1 to 10000"));
    }
    let blocks: Result<Vec<_>, _> = match reader.keys.family {
        "mamba" => (0..layers).map(|layer| reader.mamba(layer)).collect(),
        "mamba2" => (0..layers).map(|layer| reader.mamba2(layer)).collect(),
        _ => reader.hybrid(layers),
    };
    reader.spec(blocks?).map(Ok)
}

struct Reader<'a> {
    keys: Keys<'a>,
    norm: NormSpec,
}

impl Reader<'_> {
    fn spec(&self, layers: Vec<BlockSpec>) -> Result<ArchSpec, ImportError> {
        let keys = &self.keys;
        let (blocks, layers) = distinct(layers.into_iter());
        Ok(ArchSpec {
            family: keys.family.to_owned(),
            naming: TensorNaming::Gguf,
            vocab_size: keys.vocab_size()?,
            hidden_size: keys.need("embedding_length")?,
            context_length: keys.number("context_length")?.unwrap_or(UNBOUNDED),
            embedding_scale: None,
            tied_head: !keys.has_tensor("output.weight"),
            final_norm: self.norm.clone(),
            logit_softcap: None,
            blocks,
            layers,
        })
    }

    fn block(&self, mixer: Option<MixerSpec>, mlp: Option<MlpSpec>) -> BlockSpec {
        BlockSpec { norm: self.norm.clone(), placement: NormPlacement::Pre, mixer, mlp }
    }

    fn has(&self, layer: u64, name: &str) -> bool {
        self.keys.has_tensor(&format!("blk.{layer}.{name}"))
    }

    fn mamba(&self, layer: u64) -> Result<BlockSpec, ImportError> {
        let keys = &self.keys;
        let spec = MambaSpec {
            inner_size: keys.need("ssm.inner_size")?,
            state_size: keys.need("ssm.state_size")?,
            conv_kernel: keys.need("ssm.conv_kernel")?,
            time_step_rank: keys.need("ssm.time_step_rank")?,
            decay: DecayForm::Plain,
            conv_bias: self.has(layer, "ssm_conv1d.bias"),
            proj_bias: self.has(layer, "ssm_in.bias"),
        };
        Ok(self.block(Some(MixerSpec::Mamba(spec)), None))
    }

    fn mamba2(&self, layer: u64) -> Result<BlockSpec, ImportError> {
        let keys = &self.keys;
        let (inner, heads) = (keys.need("ssm.inner_size")?, keys.need("ssm.time_step_rank")?);
        if heads == 0 || !inner.is_multiple_of(heads) {
            return Err(keys.refuse("ssm.time_step_rank", "a divisor of ssm.inner_size"));
        }
        let spec = Mamba2Spec {
            heads,
            head_dim: inner / heads,
            groups: keys.need("ssm.group_count")?,
            state_size: keys.need("ssm.state_size")?,
            conv_kernel: keys.need("ssm.conv_kernel")?,
            decay: DecayForm::Plain,
            time_step_min: None,
            time_step_max: None,
            norm_eps: self.norm.eps,
            conv_bias: self.has(layer, "ssm_conv1d.bias"),
            proj_bias: self.has(layer, "ssm_in.bias"),
        };
        Ok(self.block(Some(MixerSpec::Mamba2(spec)), None))
    }

    /// A layer with an MLP says its width, one with attention its key heads; the others are
    /// Mamba-2.
    fn hybrid(&self, layers: u64) -> Result<Vec<BlockSpec>, ImportError> {
        let widths = self.keys.per_layer("feed_forward_length", layers)?;
        let kv_heads = self.keys.per_layer("attention.head_count_kv", layers)?;
        let block = |(layer, (width, kv_heads))| match (width, kv_heads) {
            (0, 0) => self.mamba2(layer),
            (0, kv_heads) => self.attention(layer, kv_heads),
            (width, _) => Ok(self.mlp(layer, width)),
        };
        (0..layers).zip(widths.into_iter().zip(kv_heads)).map(block).collect()
    }

    fn attention(&self, layer: u64, kv_heads: u64) -> Result<BlockSpec, ImportError> {
        let keys = &self.keys;
        let heads = keys.need("attention.head_count")?;
        let default = keys.need("embedding_length")? / heads.max(1);
        let spec = AttentionSpec {
            heads,
            kv_heads,
            head_dim: keys.number("attention.key_length")?.unwrap_or(default),
            scale: keys.float("attention.scale")?,
            rope: None,
            window: None,
            score_softcap: None,
            qkv_bias: self.has(layer, "attn_q.bias"),
            out_bias: self.has(layer, "attn_output.bias"),
            qk_norm: None,
            qkv: QkvLayout::Separate,
        };
        Ok(self.block(Some(MixerSpec::Attention(spec)), None))
    }

    fn mlp(&self, layer: u64, intermediate_size: u64) -> BlockSpec {
        let spec = DenseSpec {
            intermediate_size,
            activation: Activation::ReluSquared,
            bias: self.has(layer, "ffn_up.bias"),
            fused: false,
        };
        self.block(None, Some(MlpSpec::Plain(spec)))
    }
}
