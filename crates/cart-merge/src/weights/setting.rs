//! Values of parameters: one for all tensors, along the layers, or by the tensor's name.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// A single value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Scalar {
    /// `true` or `false`.
    Flag(bool),
    /// A number.
    Number(f64),
}

/// A value of a parameter. In YAML and JSON a number or a flag, a list of numbers, or a list of
/// `{filter, value}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Setting {
    /// The same for all tensors.
    Value(Scalar),
    /// Interpolated along the layers of a slice.
    Gradient(Vec<f64>),
    /// The first whose filter fits.
    Cases(Vec<Case>),
}

/// A value for tensors of some names.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Case {
    /// A part of the tensor's name; with `*` or `?` a pattern of the whole name. Absent: any name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// The value.
    pub value: Setting,
}

impl Setting {
    /// A number for all tensors.
    pub const fn number(number: f64) -> Self {
        Self::Value(Scalar::Number(number))
    }

    /// The value for a tensor; none where no filter fits.
    ///
    /// * `t`: how far along the layers of its slice the tensor is, 0 to 1
    pub fn at(&self, tensor: &str, t: f64) -> Option<Scalar> {
        match self {
            Self::Value(value) => Some(*value),
            Self::Gradient(values) => interpolate(values, t).map(Scalar::Number),
            Self::Cases(cases) => {
                let case = cases.iter().find(|case| case.fits(tensor))?;
                case.value.at(tensor, t)
            }
        }
    }

    fn from_value(value: &Value) -> Result<Self, String> {
        if let Some(scalar) = scalar(value) {
            return Ok(Self::Value(scalar));
        }
        match value {
            Value::Array(items) if !items.is_empty() => {
                let numbers: Option<Vec<f64>> = items.iter().map(as_number).collect();
                if let Some(numbers) = numbers {
                    return Ok(Self::Gradient(numbers));
                }
                items.iter().map(Case::from_value).collect::<Result<_, _>>().map(Self::Cases)
            }
            Value::Object(_) => Ok(Self::Cases(vec![Case::from_value(value)?])),
            other => Err(format!(
                "a parameter is {other}; allowed: a number, true or false, a list of numbers, or a list of {{filter, value}}"
            )),
        }
    }
}

impl Case {
    fn fits(&self, tensor: &str) -> bool {
        self.filter.as_deref().is_none_or(|filter| filter_fits(filter, tensor))
    }

    fn from_value(value: &Value) -> Result<Self, String> {
        let Value::Object(fields) = value else {
            return Err(format!(
                "an entry of a parameter is {value}; allowed: {{filter, value}}, or numbers only"
            ));
        };
        if let Some(unknown) =
            fields.keys().find(|key| !["filter", "value"].contains(&key.as_str()))
        {
            return Err(format!(
                "an entry of a parameter has the unknown key `{unknown}`; allowed: filter, value"
            ));
        }
        let filter = match fields.get("filter") {
            None | Some(Value::Null) => None,
            Some(Value::String(filter)) => Some(filter.clone()),
            Some(other) => return Err(format!("a filter is {other}; allowed: a text")),
        };
        let value = fields.get("value").ok_or("an entry of a parameter has no value")?;
        let value = Setting::from_value(value)?;
        if matches!(value, Setting::Cases(_)) {
            return Err("the value of a filter is again a list of filters".to_owned());
        }
        Ok(Self { filter, value })
    }
}

fn scalar(value: &Value) -> Option<Scalar> {
    match value {
        Value::Bool(flag) => Some(Scalar::Flag(*flag)),
        other => as_number(other).map(Scalar::Number),
    }
}

/// A number; also one that YAML 1.1 takes for a text, as `1e-5`.
fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
    .filter(|number: &f64| number.is_finite())
}

/// The value of a polyline of equal steps at `t`.
fn interpolate(values: &[f64], t: f64) -> Option<f64> {
    let last = values.len().checked_sub(1)?;
    let scaled = t * last as f64;
    let from = (scaled as usize).min(last);
    let part = scaled - from as f64;
    Some((1.0 - part) * values[from] + part * values[(from + 1).min(last)])
}

/// Whether a name is what a filter means: a pattern where it has `*` or `?`, else a part of the
/// name. `*` alone is any name.
pub(crate) fn filter_fits(filter: &str, name: &str) -> bool {
    if filter.contains(['*', '?']) {
        glob(filter.as_bytes(), name.as_bytes())
    } else {
        name.contains(filter)
    }
}

/// Whether a pattern of `*` (any text) and `?` (any byte) is the whole of a name.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                (p, n) = (at + 1, from + 1);
            }
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(&Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn setting(value: Value) -> Setting {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn gradients_are_lines_between_their_values() {
        let gradient = setting(json!([0, 0.5, 0.3, 1]));
        for (t, expected) in [(0.0, 0.0), (1.0 / 6.0, 0.25), (2.0 / 3.0, 0.3), (1.0, 1.0)] {
            let Some(Scalar::Number(found)) = gradient.at("x", t) else { panic!() };
            assert!((found - expected).abs() < 1e-12, "{t}: {found}");
        }
    }

    #[test]
    fn the_first_filter_that_fits_counts() {
        let cases = setting(json!([
            {"filter": "self_attn", "value": [0, 1]},
            {"filter": "model.layers.?.mlp.*", "value": 0.25},
            {"value": true},
        ]));
        assert_eq!(cases.at("model.layers.1.self_attn.q", 1.0), Some(Scalar::Number(1.0)));
        assert_eq!(cases.at("model.layers.1.mlp.up", 0.0), Some(Scalar::Number(0.25)));
        assert_eq!(cases.at("model.layers.12.mlp.up", 0.0), Some(Scalar::Flag(true)));
        let none = setting(json!({"filter": "mlp", "value": 1}));
        assert_eq!(none.at("lm_head", 0.0), None);
    }

    #[test]
    fn texts_of_numbers_are_numbers_and_others_are_refused() {
        assert_eq!(setting(json!("1e-5")), Setting::number(1e-5));
        for wrong in [
            json!("much"),
            json!([]),
            json!([1, "x"]),
            json!([{"filters": "a", "value": 1}]),
            json!(null),
        ] {
            assert!(serde_json::from_value::<Setting>(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn patterns_are_of_whole_names() {
        assert!(filter_fits("*", "anything"));
        assert!(filter_fits("*.mlp.*.weight", "a.mlp.up.weight"));
        assert!(!filter_fits("mlp*", "a.mlp"));
        assert!(filter_fits("mlp", "a.mlp"));
    }
}
