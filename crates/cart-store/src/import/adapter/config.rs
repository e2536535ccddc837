//! What an adapter's configuration says.

use std::path::Path;

use cart_format::json;
use serde_json::{Map, Value};

use super::error::AdapterError;
use crate::import::model_file::OpenFile;
use crate::import::python_json;

/// What decides about the numbers.
#[derive(Debug)]
pub(super) struct AdapterConfig {
    alpha: f64,
    by_root: bool,
    pub(super) fan_in_fan_out: bool,
    alphas: Vec<(String, f64)>,
    ranks: Vec<(String, f64)>,
    rank: f64,
}

/// Features that make an adapter something else than a sum of products, with what is allowed.
const OTHERWISE: &[(&str, &str)] = &[
    ("use_dora", "false: DoRA rescales the base's rows, which is no low-rank change"),
    ("lora_bias", "false"),
    ("use_qalora", "false"),
    ("use_bdlora", "false"),
    ("layer_replication", "null: no layers that are there twice"),
    ("alora_invocation_tokens", "null: no adapter that begins in the middle of a text"),
    ("trainable_token_indices", "null: no single rows of an embedding"),
    ("target_parameters", "null: modules, no parameters of their own"),
    ("arrow_config", "null: no routing among adapters"),
    ("velora_config", "null"),
    ("kasa_config", "null"),
    ("monteclora_config", "null"),
];

/// Ways to begin that leave the base's weights as they are. Others (PiSSA, CorDA, OLoRA, LoftQ, LoRA-GA)
/// take from the base what they put into the factors.
const KEEPING: &[&str] = &["gaussian", "eva", "orthogonal"];

impl AdapterConfig {
    pub(super) fn read(path: &Path, allowed: u64) -> Result<Self, AdapterError> {
        let bytes = OpenFile::open(path)?.read(allowed)?;
        let parsed = json::from_strict(&python_json::to_json(&bytes), allowed);
        let value =
            parsed.map_err(|source| AdapterError::Json { path: path.to_path_buf(), source })?;
        let fields = value.as_object().cloned().unwrap_or_default();
        Self::of(&fields)
    }

    fn of(fields: &Map<String, Value>) -> Result<Self, AdapterError> {
        let get = |field: &str| fields.get(field).unwrap_or(&Value::Null);
        let error = |field: &str, allowed| {
            let (field, found) = (field.to_owned(), get(field).to_string());
            AdapterError::Field { field, found, allowed }
        };
        let refuse = |field: &str, allowed| Err(error(field, allowed));
        if get("peft_type") != "LORA" {
            return refuse("peft_type", "LORA");
        }
        for &(field, allowed) in OTHERWISE {
            if !is_unset(get(field)) {
                return refuse(field, allowed);
            }
        }
        match get("init_lora_weights") {
            Value::Null | Value::Bool(_) => {}
            Value::String(way) if KEEPING.contains(&way.as_str()) => {}
            _ => {
                let allowed = "one that leaves the base as it is: true, false, gaussian, eva, orthogonal; peft converts others with save_pretrained(path_initial_model_for_weight_conversion=…)";
                return refuse("init_lora_weights", allowed);
            }
        }
        let positive = |field: &'static str| match get(field).as_f64() {
            Some(number) if number > 0.0 && number.is_finite() => Ok(number),
            _ => Err(error(field, "a number over 0")),
        };
        Ok(Self {
            alpha: positive("lora_alpha")?,
            rank: positive("r")?,
            by_root: flag(fields, "use_rslora")?,
            fan_in_fan_out: flag(fields, "fan_in_fan_out")?,
            alphas: patterns(fields, "alpha_pattern")?,
            ranks: patterns(fields, "rank_pattern")?,
        })
    }

    /// The factor on a module's product.
    ///
    /// * `rank`: of its factors
    pub(super) fn scale(&self, module: &str, rank: u64) -> Result<f64, AdapterError> {
        let alpha = fitting(&self.alphas, "alpha_pattern", module)?.unwrap_or(self.alpha);
        let said = fitting(&self.ranks, "rank_pattern", module)?.unwrap_or(self.rank);
        if said != rank as f64 {
            return Err(AdapterError::Field {
                field: format!("r, of module {module}"),
                found: said.to_string(),
                allowed: "the rank that its factors have",
            });
        }
        let divisor = if self.by_root { said.sqrt() } else { said };
        Ok(alpha / divisor)
    }
}

fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn flag(fields: &Map<String, Value>, field: &str) -> Result<bool, AdapterError> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => Err(AdapterError::Field {
            field: field.to_owned(),
            found: other.to_string(),
            allowed: "true or false",
        }),
    }
}

/// Numbers for some modules. peft takes the names as regular expressions; here they are ends of a module's
/// path, which is what they nearly always are, and anything else is refused.
fn patterns(
    fields: &Map<String, Value>,
    field: &'static str,
) -> Result<Vec<(String, f64)>, AdapterError> {
    let empty = Map::new();
    let listed = match fields.get(field) {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(listed)) => listed,
        Some(other) => {
            let (field, found) = (field.to_owned(), other.to_string());
            return Err(AdapterError::Field { field, found, allowed: "an object" });
        }
    };
    let mut patterns = Vec::new();
    for (pattern, number) in listed {
        let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-');
        let number = number.as_f64().filter(|number| *number > 0.0);
        match number.filter(|_| !pattern.is_empty() && pattern.chars().all(is_plain)) {
            Some(number) => patterns.push((pattern.clone(), number)),
            None => {
                return Err(AdapterError::Field {
                    field: format!("{field}.{pattern}"),
                    found: listed[pattern].to_string(),
                    allowed: "the end of a module's path with a number over 0; no regular expression",
                });
            }
        }
    }
    Ok(patterns)
}

fn fitting(
    patterns: &[(String, f64)],
    field: &'static str,
    module: &str,
) -> Result<Option<f64>, AdapterError> {
    let fits = |pattern: &str| {
        module.strip_suffix(pattern).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let mut found = patterns.iter().filter(|(pattern, _)| fits(pattern)).map(|(_, value)| *value);
    let first = found.next();
    if found.any(|other| Some(other) != first) {
        return Err(AdapterError::Ambiguous { field, module: module.to_owned() });
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(change: Value) -> Result<AdapterConfig, AdapterError> {
        let mut config = json!({
            "peft_type": "LORA", "r": 4, "lora_alpha": 6, "use_dora": false, "loftq_config": {},
            "alpha_pattern": { "q_proj": 12, "layers.0.mlp.up_proj": 1 }, "rank_pattern": { "down_proj": 9 },
        });
        let fields = config.as_object_mut().unwrap();
        fields.extend(change.as_object().unwrap().clone());
        AdapterConfig::of(fields)
    }

    #[test]
    fn factors_are_those_of_the_module() {
        let plain = of(json!({})).unwrap();
        assert_eq!(plain.scale("model.layers.0.self_attn.k_proj", 4).unwrap(), 1.5);
        assert_eq!(plain.scale("model.layers.0.self_attn.q_proj", 4).unwrap(), 3.0);
        assert_eq!(plain.scale("model.layers.0.mlp.up_proj", 4).unwrap(), 0.25);
        assert_eq!(plain.scale("model.layers.10.mlp.up_proj", 4).unwrap(), 1.5);
        let rooted = of(json!({ "use_rslora": true })).unwrap();
        assert_eq!(rooted.scale("model.layers.0.mlp.down_proj", 9).unwrap(), 2.0);
        assert!(rooted.scale("model.layers.0.mlp.down_proj", 4).is_err(), "another rank");
        let both = of(json!({ "alpha_pattern": { "q_proj": 1, "self_attn.q_proj": 2 } })).unwrap();
        let said = both.scale("model.layers.0.self_attn.q_proj", 4).unwrap_err();
        assert!(matches!(said, AdapterError::Ambiguous { .. }));
    }

    #[test]
    fn what_is_no_sum_of_products_is_refused_by_name() {
        for (field, value) in [
            ("use_dora", json!(true)),
            ("peft_type", json!("IA3")),
            ("lora_bias", json!(true)),
            ("init_lora_weights", json!("pissa_niter_4")),
            ("init_lora_weights", json!("olora")),
            ("trainable_token_indices", json!([1])),
            ("layer_replication", json!([[0, 2], [1, 2]])),
            ("r", json!(0)),
            ("lora_alpha", json!("x")),
            ("alpha_pattern", json!({ "layers\\.[01].*": 3 })),
            ("rank_pattern", json!([1])),
            ("use_rslora", json!(1)),
        ] {
            let said = of(json!({ field: value })).unwrap_err().to_string();
            assert!(said.contains(field), "{said}");
        }
    }
}
