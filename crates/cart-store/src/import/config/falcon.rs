//! Falcon's `config.json`, whose fields are its own.

use cart_format::ArchSpec;
use cart_format::arch::{
    Activation, AttentionSpec, BlockSpec, DenseSpec, MixerSpec, MlpSpec, NormKind, NormPlacement,
    NormSpec, QkvLayout, TensorNaming,
};

use crate::import::config::activation;
use crate::import::config::layers::layer_count;
use crate::import::config::rope::{Defaults, Known, rotations};
use crate::import::config_fields::Fields;
use crate::import::error::ImportError;

/// Reads the configuration.
pub(crate) fn map(fields: &Fields<'_>) -> Result<Known<ArchSpec>, ImportError> {
    if fields.flag("alibi")?.unwrap_or(false) {
        return Ok(Err("`alibi` is true; only rotary positions are known".to_owned()));
    }
    let activation = match activation(fields, &["activation"], Activation::Gelu)? {
        Ok(activation) => activation,
        Err(beyond) => return Ok(Err(beyond)),
    };
    let hidden_size = fields.need("hidden_size")?;
    let context_length = fields.number("max_position_embeddings")?.unwrap_or(2048);
    let eps = fields.float("layer_norm_epsilon")?.unwrap_or(1e-5);
    let norm = NormSpec { kind: NormKind::Layer, eps, unit_offset: false };
    let bias = fields.flag("bias")?.unwrap_or(false);
    let attention = match attention(fields, hidden_size, context_length, bias)? {
        Ok(attention) => attention,
        Err(beyond) => return Ok(Err(beyond)),
    };
    let intermediate_size = match fields.number("ffn_hidden_size")? {
        Some(size) => size,
        None => hidden_size.saturating_mul(4),
    };
    let block = BlockSpec {
        norm: norm.clone(),
        placement: placement(fields)?,
        mixer: Some(MixerSpec::Attention(attention)),
        mlp: Some(MlpSpec::Plain(DenseSpec { intermediate_size, activation, bias, fused: false })),
    };
    Ok(Ok(ArchSpec {
        family: "falcon".to_owned(),
        naming: TensorNaming::HfFalcon,
        vocab_size: fields.need("vocab_size")?,
        hidden_size,
        context_length,
        embedding_scale: None,
        tied_head: fields.flag("tie_word_embeddings")?.unwrap_or(true),
        final_norm: norm,
        logit_softcap: None,
        blocks: vec![block],
        layers: vec![0; layer_count(fields)? as usize],
    }))
}

fn attention(
    fields: &Fields<'_>,
    hidden_size: u64,
    context_length: u64,
    bias: bool,
) -> Result<Known<AttentionSpec>, ImportError> {
    let heads = fields.need("num_attention_heads")?;
    let head_dim = hidden_size / heads.max(1);
    let new = fields.flag("new_decoder_architecture")?.unwrap_or(false);
    let multi_query = fields.flag("multi_query")?.unwrap_or(true);
    let kv_heads = match (new, multi_query) {
        (false, true) => 1,
        (false, false) => heads,
        (true, _) => fields.number("num_kv_heads")?.unwrap_or(heads),
    };
    let defaults = Defaults { head_dim, theta: 10_000.0, local_theta: None, context_length };
    let rope = match rotations(fields, &defaults)? {
        Ok(rotations) => rotations.global,
        Err(beyond) => return Ok(Err(beyond)),
    };
    Ok(Ok(AttentionSpec {
        heads,
        kv_heads,
        head_dim,
        scale: None,
        rope: Some(rope),
        window: None,
        score_softcap: None,
        qkv: QkvLayout::Grouped,
        qkv_bias: bias,
        out_bias: bias,
        qk_norm: None,
    }))
}

/// Attention and MLP stand side by side unless the file says otherwise; the newer decoder has a
/// norm for each.
fn placement(fields: &Fields<'_>) -> Result<NormPlacement, ImportError> {
    let new = fields.flag("new_decoder_architecture")?.unwrap_or(false);
    let parallel = fields.flag("parallel_attn")?.unwrap_or(true);
    let norms = fields.number("num_ln_in_parallel_attn")?;
    Ok(match (new, parallel, norms) {
        (true, true, None | Some(2)) => NormPlacement::Parallel,
        (true, true, Some(1)) | (false, true, None | Some(1)) => NormPlacement::ParallelShared,
        (false, false, None | Some(1)) => NormPlacement::Pre,
        (true, false, _) => {
            return Err(fields.refuse("parallel_attn", "true with new_decoder_architecture"));
        }
        _ => {
            return Err(fields.refuse(
                "num_ln_in_parallel_attn",
                "1, or 2 with new_decoder_architecture and parallel_attn",
            ));
        }
    })
}
