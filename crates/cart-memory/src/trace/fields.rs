//! The fields of a line, taken one by one; what is left over is refused by name.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::{Problem, TraceProblem, slot_ref};
use crate::observation::MAX_TICK;
use crate::slot::SlotRef;
use crate::{MemoryConfig, fuse};

/// The fields that were not taken yet.
pub(super) struct Fields {
    left: Map<String, Value>,
}

/// A field that is needed.
pub(super) fn missing(name: &str) -> Problem {
    (Some(name.to_owned()), TraceProblem::Missing)
}

fn wrong(name: &str, value: &Value, expected: &'static str) -> Problem {
    let found = match value {
        Value::Number(number) => number.to_string(),
        other => kind(other).to_owned(),
    };
    (Some(name.to_owned()), TraceProblem::Kind { found, expected })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl Fields {
    pub(super) fn new(line: Value) -> Result<Self, Problem> {
        match line {
            Value::Object(left) => Ok(Self { left }),
            other => Err((None, TraceProblem::NotAnObject { found: kind(&other) })),
        }
    }

    /// A field's value; null is as if it were not there.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, &other, "a text")),
        }
    }

    pub(super) fn float(&mut self, name: &str) -> Result<Option<f32>, Problem> {
        self.take(name).map(|value| float(name, 0, &value)).transpose()
    }

    pub(super) fn need_float(&mut self, name: &str) -> Result<f32, Problem> {
        self.float(name)?.ok_or_else(|| missing(name))
    }

    pub(super) fn vector(&mut self, name: &str) -> Result<Option<Vec<f32>>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(values)) => {
                let values = values.iter().enumerate();
                values
                    .map(|(index, value)| float(name, index, value))
                    .collect::<Result<_, _>>()
                    .map(Some)
            }
            Some(other) => Err(wrong(name, &other, "a list of numbers")),
        }
    }

    pub(super) fn need_vector(&mut self, name: &str) -> Result<Vec<f32>, Problem> {
        self.vector(name)?.ok_or_else(|| missing(name))
    }

    /// A vector, or an object of the parts that it is put together from.
    pub(super) fn key(&mut self, name: &str, config: &MemoryConfig) -> Result<Vec<f32>, Problem> {
        if !matches!(self.left.get(name), Some(Value::Object(_))) || config.parts.is_empty() {
            return self.need_vector(name);
        }
        let given = self.take(name).expect("the field was looked at");
        let mut given = Self::new(given)?;
        let names: Vec<String> = given.left.keys().cloned().collect();
        let mut parts = Vec::new();
        for part in &names {
            parts.extend(given.vector(part)?.map(|values| (part.as_str(), values)));
        }
        let parts: Vec<(&str, &[f32])> = parts.iter().map(|(n, v)| (*n, v.as_slice())).collect();
        fuse(&config.parts, &parts)
            .map_err(|source| (Some(name.to_owned()), TraceProblem::Parts(source)))
    }

    /// A list of numbers, or one number as a list of one.
    pub(super) fn floats_or_one(&mut self, name: &str) -> Result<Option<Vec<f32>>, Problem> {
        match self.left.get(name) {
            Some(Value::Number(_)) => Ok(self.float(name)?.map(|one| vec![one])),
            _ => self.vector(name),
        }
    }

    pub(super) fn tokens(&mut self, name: &str) -> Result<Option<Vec<u32>>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(values)) => values
                .iter()
                .map(|value| whole(name, value, 0..=u64::from(u32::MAX)).map(|id| id as u32))
                .collect::<Result<_, _>>()
                .map(Some),
            Some(other) => Err(wrong(name, &other, "a list of token ids")),
        }
    }

    pub(super) fn whole(
        &mut self,
        name: &str,
        allowed: RangeInclusive<u64>,
    ) -> Result<Option<u64>, Problem> {
        self.take(name).map(|value| whole(name, &value, allowed)).transpose()
    }

    pub(super) fn whole_needed(&mut self, name: &str) -> Result<u64, Problem> {
        self.whole(name, 0..=MAX_TICK)?.ok_or_else(|| missing(name))
    }

    /// `k`, 5 where it is not given.
    pub(super) fn count_k(&mut self) -> Result<u32, Problem> {
        Ok(self.whole("k", 1..=u64::from(crate::config::MAX_SLOTS))?.unwrap_or(5) as u32)
    }

    /// `seed`, 0 where it is not given.
    pub(super) fn seed(&mut self) -> Result<u64, Problem> {
        Ok(self.whole("seed", 0..=MAX_TICK)?.unwrap_or(0))
    }

    pub(super) fn slot(&mut self, name: &str) -> Result<SlotRef, Problem> {
        let expected = "a slot such as `stm:3` or `ltm:17`";
        let text = self.take(name).ok_or_else(|| missing(name))?;
        let found = text.as_str().and_then(slot_ref);
        found.ok_or_else(|| match &text {
            Value::String(text) => {
                let found = format!("`{text}`");
                (Some(name.to_owned()), TraceProblem::Kind { found, expected })
            }
            other => wrong(name, other, expected),
        })
    }

    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.left.into_iter().next() {
            Some((name, _)) => Err((Some(name), TraceProblem::UnknownField)),
            None => Ok(()),
        }
    }
}

fn float(name: &str, index: usize, value: &Value) -> Result<f32, Problem> {
    let Some(number) = value.as_f64() else { return Err(wrong(name, value, "a number")) };
    let narrow = number as f32;
    if narrow.is_finite() {
        return Ok(narrow);
    }
    Err((Some(name.to_owned()), TraceProblem::TooLarge { found: number, index }))
}

fn whole(name: &str, value: &Value, allowed: RangeInclusive<u64>) -> Result<u64, Problem> {
    let Value::Number(number) = value else { return Err(wrong(name, value, "a whole number")) };
    // `3.0` is how some writers put 3.
    let as_float = number.as_f64().filter(|n| n.fract() == 0.0 && (0.0..9e15).contains(n));
    match number.as_u64().or(as_float.map(|n| n as u64)).filter(|found| allowed.contains(found)) {
        Some(found) => Ok(found),
        None => Err((
            Some(name.to_owned()),
            TraceProblem::Whole {
                found: number.to_string(),
                least: *allowed.start(),
                most: *allowed.end(),
            },
        )),
    }
}
