//! Mamba, Mamba-2 and Nemotron-H as their `config.json` has them.

use cart_format::ArchSpec;
use cart_format::arch::{
    Activation, AttentionSpec, BlockSpec, DecayForm, DenseSpec, Mamba2Spec, MambaSpec, MixerSpec,
    MlpSpec, NormKind, NormPlacement, NormSpec, QkvLayout, TensorNaming,
};
use serde_json::Value;

use crate::import::config::layers::layer_count;
use crate::import::config::rope::Known;
use crate::import::config::{MAX_LAYERS, activation, distinct};
use crate::import::config_fields::Fields;
use crate::import::error::ImportError;

/// Model types that [`map`] reads.
pub(crate) const TYPES: [&str; 3] = ["mamba", "mamba2", "nemotron_h"];

/// Positions of models that were made for no length; llama.cpp's converter writes the same.
pub(crate) const UNBOUNDED: u64 = 1 << 20;

/// What a configuration of one of [`TYPES`] computes, or what of it can't be said.
pub(crate) fn map(model_type: &str, fields: &Fields<'_>) -> Result<Known<ArchSpec>, ImportError> {
    let reader = Reader {
        model_type,
        fields,
        hidden_size: fields.need("hidden_size")?,
        norm: NormSpec {
            kind: NormKind::Rms,
            eps: fields.float("layer_norm_epsilon")?.unwrap_or(1e-5),
            unit_offset: false,
        },
    };
    // The gate is a SiLU whatever this says, so another activation would be one for half of a
    // mixer.
    let name = if model_type == "nemotron_h" { "mamba_hidden_act" } else { "hidden_act" };
    if let Some(other) = fields.text(name)?.filter(|name| !matches!(*name, "silu" | "swish")) {
        return Ok(Err(format!("{name} `{other}` is not known in a Mamba layer; known: silu")));
    }
    let blocks = match model_type {
        "mamba" => vec![reader.mamba()?; layer_count(fields)? as usize],
        "mamba2" => vec![reader.mamba2()?; layer_count(fields)? as usize],
        _ => match reader.hybrid()? {
            Ok(blocks) => blocks,
            Err(beyond) => return Ok(Err(beyond)),
        },
    };
    reader.spec(blocks).map(Ok)
}

struct Reader<'a> {
    model_type: &'a str,
    fields: &'a Fields<'a>,
    hidden_size: u64,
    norm: NormSpec,
}

impl Reader<'_> {
    fn spec(&self, layers: Vec<BlockSpec>) -> Result<ArchSpec, ImportError> {
        let fields = self.fields;
        let (blocks, layers) = distinct(layers.into_iter());
        let context_length = fields.number("max_position_embeddings")?.unwrap_or(UNBOUNDED);
        Ok(ArchSpec {
            family: self.model_type.to_owned(),
            naming: TensorNaming::HfBackbone,
            vocab_size: fields.need("vocab_size")?,
            hidden_size: self.hidden_size,
            context_length,
            embedding_scale: None,
            tied_head: fields.flag("tie_word_embeddings")?.unwrap_or(self.model_type == "mamba"),
            final_norm: self.norm.clone(),
            logit_softcap: None,
            blocks,
            layers,
        })
    }

    fn block(&self, mixer: Option<MixerSpec>, mlp: Option<MlpSpec>) -> BlockSpec {
        BlockSpec { norm: self.norm.clone(), placement: NormPlacement::Pre, mixer, mlp }
    }

    fn mamba(&self) -> Result<BlockSpec, ImportError> {
        let fields = self.fields;
        let expanded = fields.number("expand")?.unwrap_or(2).saturating_mul(self.hidden_size);
        let rank = match fields.get("time_step_rank") {
            Some(Value::String(auto)) if auto == "auto" => None,
            _ => fields.number("time_step_rank")?,
        };
        let spec = MambaSpec {
            inner_size: fields.number("intermediate_size")?.unwrap_or(expanded),
            state_size: fields.number("state_size")?.unwrap_or(16),
            conv_kernel: fields.number("conv_kernel")?.unwrap_or(4),
            time_step_rank: rank.unwrap_or(self.hidden_size.div_ceil(16)),
            decay: DecayForm::Log,
            conv_bias: fields.flag("use_conv_bias")?.unwrap_or(true),
            proj_bias: fields.flag("use_bias")?.unwrap_or(false),
        };
        Ok(self.block(Some(MixerSpec::Mamba(spec)), None))
    }

    fn mamba2(&self) -> Result<BlockSpec, ImportError> {
        let fields = self.fields;
        let (time_step_min, time_step_max) = self.time_step_limit()?;
        let spec = Mamba2Spec {
            heads: fields.number("num_heads")?.unwrap_or(128),
            head_dim: fields.number("head_dim")?.unwrap_or(64),
            groups: fields.number("n_groups")?.unwrap_or(8),
            state_size: fields.number("state_size")?.unwrap_or(128),
            conv_kernel: fields.number("conv_kernel")?.unwrap_or(4),
            decay: DecayForm::Log,
            time_step_min,
            time_step_max,
            norm_eps: self.norm.eps,
            conv_bias: fields.flag("use_conv_bias")?.unwrap_or(true),
            proj_bias: fields.flag("use_bias")?.unwrap_or(false),
        };
        Ok(self.block(Some(MixerSpec::Mamba2(spec)), None))
    }

    /// Least and largest time step; an end that limits nothing is absent.
    fn time_step_limit(&self) -> Result<(Option<f64>, Option<f64>), ImportError> {
        const FIELD: &str = "time_step_limit";
        let refuse = || self.fields.refuse(FIELD, "two numbers, or a number and infinity");
        let Some(value) = self.fields.get(FIELD) else { return Ok((None, None)) };
        match value.as_array().map(Vec::as_slice) {
            Some([least, most]) => {
                let least = least.as_f64().ok_or_else(refuse)?;
                let most = match most {
                    most if is_infinite(most) => None,
                    most => Some(most.as_f64().ok_or_else(refuse)?),
                };
                Ok((Some(least).filter(|&least| least > 0.0), most))
            }
            _ => Err(refuse()),
        }
    }

    /// One block for each layer of Nemotron-H.
    fn hybrid(&self) -> Result<Known<Vec<BlockSpec>>, ImportError> {
        let kinds = self.kinds()?;
        if kinds.len() as u64 > MAX_LAYERS {
            return Err(self.fields.refuse("layers_block_type", "1 to 10000 layers"));
        }
        let absent = Activation::ReluSquared;
        let activation = match activation(self.fields, &["mlp_hidden_act"], absent)? {
            Ok(activation) => activation,
            Err(beyond) => return Ok(Err(beyond)),
        };
        let (mamba, attention, mlp) =
            (self.hybrid_mamba()?, self.hybrid_attention()?, self.hybrid_mlp(activation)?);
        let block = |kind: &String| match kind.as_str() {
            "linear_attention" | "mamba" | "M" => Ok(mamba.clone()),
            "full_attention" | "attention" | "*" => Ok(attention.clone()),
            "mlp" | "-" => Ok(mlp.clone()),
            other => Err(format!(
                "layers of the kind `{other}` are not known in Nemotron-H; known: Mamba-2, attention, MLP"
            )),
        };
        Ok(kinds.iter().map(block).collect())
    }

    /// The kind of each layer, by its name or, in older files, by its letter.
    fn kinds(&self) -> Result<Vec<String>, ImportError> {
        if let Some(names) = self.fields.texts("layers_block_type")? {
            return Ok(names.into_iter().map(str::to_owned).collect());
        }
        match self.fields.text("hybrid_override_pattern")? {
            Some(pattern) => Ok(pattern.chars().map(String::from).collect()),
            None => Err(self.fields.refuse("layers_block_type", "the kind of each layer")),
        }
    }

    fn hybrid_mamba(&self) -> Result<BlockSpec, ImportError> {
        let fields = self.fields;
        let number = |name, older, default| -> Result<u64, ImportError> {
            Ok(fields.number(name)?.or(fields.number(older)?).unwrap_or(default))
        };
        let conv_bias = fields.flag("use_conv_bias")?.or(fields.flag("mamba_conv_bias")?);
        // As in transformers; its `time_step_limit` is not used.
        let least = fields.float("time_step_min")?.or(fields.float("mamba_dt_min")?);
        let spec = Mamba2Spec {
            heads: fields.number("mamba_num_heads")?.unwrap_or(128),
            head_dim: fields.number("mamba_head_dim")?.unwrap_or(64),
            groups: number("n_groups", "mamba_n_groups", 8)?,
            state_size: fields.number("ssm_state_size")?.unwrap_or(128),
            conv_kernel: number("conv_kernel", "mamba_d_conv", 4)?,
            decay: DecayForm::Log,
            time_step_min: Some(least.unwrap_or(0.001)).filter(|&least| least > 0.0),
            time_step_max: None,
            norm_eps: self.norm.eps,
            conv_bias: conv_bias.unwrap_or(true),
            proj_bias: fields.flag("use_bias")?.unwrap_or(false),
        };
        Ok(self.block(Some(MixerSpec::Mamba2(spec)), None))
    }

    fn hybrid_attention(&self) -> Result<BlockSpec, ImportError> {
        let fields = self.fields;
        let heads = fields.number("num_attention_heads")?.unwrap_or(32);
        let head_dim = fields.number("head_dim")?.or(fields.number("attention_head_dim")?);
        let bias = fields.flag("attention_bias")?.unwrap_or(false);
        let spec = AttentionSpec {
            heads,
            kv_heads: fields.number("num_key_value_heads")?.unwrap_or(heads),
            head_dim: head_dim.unwrap_or(128),
            scale: None,
            rope: None,
            window: None,
            score_softcap: None,
            qkv_bias: bias,
            out_bias: bias,
            qk_norm: None,
            qkv: QkvLayout::Separate,
        };
        Ok(self.block(Some(MixerSpec::Attention(spec)), None))
    }

    fn hybrid_mlp(&self, activation: Activation) -> Result<BlockSpec, ImportError> {
        let spec = DenseSpec {
            intermediate_size: self.fields.number("intermediate_size")?.unwrap_or(21_504),
            activation,
            bias: self.fields.flag("mlp_bias")?.unwrap_or(false),
            fused: false,
        };
        Ok(self.block(None, Some(MlpSpec::Plain(spec))))
    }
}

/// Infinity as transformers 5 writes it.
fn is_infinite(value: &Value) -> bool {
    value.get("__float__").and_then(Value::as_str) == Some("Infinity")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::import::config::{Mapped, map_config};

    fn with(mut config: Value, fields: Value) -> Value {
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        config
    }

    fn mamba2() -> Value {
        json!({
            "model_type": "mamba2", "hidden_size": 32, "vocab_size": 96, "num_hidden_layers": 2,
            "num_heads": 8, "head_dim": 8, "n_groups": 2, "state_size": 12,
        })
    }

    fn nemotron() -> Value {
        json!({
            "model_type": "nemotron_h", "hidden_size": 32, "vocab_size": 96,
            "hybrid_override_pattern": "M-M*",
        })
    }

    fn mixer2(config: &Value) -> Mamba2Spec {
        let Mapped::Spec(spec) = map_config(config).unwrap() else { panic!() };
        match &spec.blocks[0].mixer {
            Some(MixerSpec::Mamba2(spec)) => spec.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn absent_fields_have_the_defaults_of_transformers() {
        let mamba = json!({
            "model_type": "mamba", "hidden_size": 40, "vocab_size": 96, "num_hidden_layers": 2,
            "time_step_rank": "auto",
        });
        let Mapped::Spec(spec) = map_config(&mamba).unwrap() else { panic!() };
        let Some(MixerSpec::Mamba(mamba)) = &spec.blocks[0].mixer else { panic!() };
        assert_eq!((mamba.inner_size, mamba.state_size, mamba.time_step_rank), (80, 16, 3));
        assert_eq!((mamba.conv_bias, mamba.proj_bias, mamba.conv_kernel), (true, false, 4));
        assert_eq!((spec.tied_head, spec.context_length), (true, 1 << 20));
        assert_eq!((spec.blocks.len(), spec.blocks[0].mlp.is_none()), (1, true));
    }

    #[test]
    fn limits_of_the_time_step_are_numbers_or_absent() {
        let limits = |limits: Value| {
            let spec = mixer2(&with(mamba2(), json!({ "time_step_limit": limits })));
            (spec.time_step_min, spec.time_step_max)
        };
        assert_eq!(limits(json!([0.0, {"__float__": "Infinity"}])), (None, None));
        assert_eq!(limits(json!([0.5, 2])), (Some(0.5), Some(2.0)));
        for wrong in [json!([0.5]), json!(7), json!([0.0, "much"])] {
            let config = with(mamba2(), json!({ "time_step_limit": wrong }));
            let error = map_config(&config).unwrap_err();
            let named = matches!(&error, ImportError::ConfigField { field, .. }
                if field == "time_step_limit");
            assert!(named, "{error}");
        }
        let spec = mixer2(&nemotron());
        assert_eq!((spec.time_step_min, spec.time_step_max), (Some(0.001), None));
    }

    #[test]
    fn what_the_spec_cannot_say_is_not_guessed() {
        let cases = [
            (with(mamba2(), json!({"hidden_act": "relu"})), "hidden_act `relu`"),
            (with(nemotron(), json!({"hybrid_override_pattern": "ME"})), "kind `E`"),
            (with(nemotron(), json!({"layers_block_type": ["moe"]})), "kind `moe`"),
            (with(nemotron(), json!({"mlp_hidden_act": "tanh"})), "mlp_hidden_act `tanh`"),
        ];
        for (config, part) in cases {
            let Mapped::Beyond(reason) = map_config(&config).unwrap() else { panic!("{part}") };
            assert!(reason.contains(part), "{reason}");
        }
        let error = map_config(&with(mamba2(), json!({"n_groups": 3}))).unwrap_err();
        assert!(matches!(error, ImportError::Architecture(_)), "{error}");
        let none = with(nemotron(), json!({"hybrid_override_pattern": null}));
        assert!(map_config(&none).unwrap_err().to_string().contains("layers_block_type"));
    }
}
