//! Typed reading of a JSON object, with errors that name the field.

use serde_json::{Map, Value};

use crate::import::error::ImportError;

/// A JSON object of numbers, texts and truth values. A field that is null is absent.
pub(crate) struct Fields<'a> {
    fields: &'a Map<String, Value>,
    /// The object's own name, before those of its fields in messages.
    within: Option<&'static str>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(value: &'a Value) -> Result<Self, ImportError> {
        match value.as_object() {
            Some(fields) => Ok(Self { fields, within: None }),
            None => Err(ImportError::ConfigField {
                field: "the document".to_owned(),
                found: shown(value),
                allowed: "an object",
            }),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// Whether there is no such field, not even null.
    pub(crate) fn lacks(&self, name: &str) -> bool {
        !self.fields.contains_key(name)
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, ImportError> {
        self.read(name, "a whole number, 0 or more", |value| {
            // Some tools write 64.0.
            let whole = |float: f64| {
                (float >= 0.0 && float.fract() == 0.0 && float < 1e15).then_some(float as u64)
            };
            value.as_u64().or_else(|| value.as_f64().and_then(whole))
        })
    }

    pub(crate) fn need(&self, name: &str) -> Result<u64, ImportError> {
        let allowed = "a whole number, 0 or more";
        self.number(name)?.ok_or_else(|| self.refuse(name, allowed))
    }

    pub(crate) fn float(&self, name: &str) -> Result<Option<f64>, ImportError> {
        self.read(name, "a number", Value::as_f64)
    }

    pub(crate) fn need_float(&self, name: &str) -> Result<f64, ImportError> {
        self.float(name)?.ok_or_else(|| self.refuse(name, "a number"))
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, ImportError> {
        self.read(name, "true or false", Value::as_bool)
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>, ImportError> {
        self.read(name, "a text", Value::as_str)
    }

    pub(crate) fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>, ImportError> {
        self.read(name, "an array of texts", |value| {
            value.as_array()?.iter().map(Value::as_str).collect()
        })
    }

    pub(crate) fn numbers(&self, name: &str) -> Result<Option<Vec<u64>>, ImportError> {
        self.read(name, "an array of whole numbers, 0 or more", |value| {
            value.as_array()?.iter().map(Value::as_u64).collect()
        })
    }

    pub(crate) fn need_floats(&self, name: &str) -> Result<Vec<f64>, ImportError> {
        let allowed = "an array of numbers";
        let floats = self
            .read(name, allowed, |value| value.as_array()?.iter().map(Value::as_f64).collect())?;
        floats.ok_or_else(|| self.refuse(name, allowed))
    }

    pub(crate) fn object(&self, name: &'static str) -> Result<Option<Self>, ImportError> {
        let fields = self.read(name, "an object", Value::as_object)?;
        Ok(fields.map(|fields| Self { fields, within: Some(name) }))
    }

    /// The error that says what a field holds and what it may hold.
    pub(crate) fn refuse(&self, name: &str, allowed: &'static str) -> ImportError {
        let field = match self.within {
            Some(within) => format!("{within}.{name}"),
            None => name.to_owned(),
        };
        let found = self.get(name).map_or_else(|| "absent".to_owned(), shown);
        ImportError::ConfigField { field, found, allowed }
    }

    fn read<T>(
        &self,
        name: &str,
        allowed: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ImportError> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.refuse(name, allowed)),
        }
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.len() > 80 { format!("{}…", text.chars().take(80).collect::<String>()) } else { text }
}
