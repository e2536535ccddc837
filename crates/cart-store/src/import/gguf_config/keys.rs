//! Typed reading of GGUF metadata, with errors that name the key.

use cart_format::gguf::{Array, Head, Value};

use crate::import::error::ImportError;

/// Metadata under the prefix of an architecture.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a> {
    pub(crate) head: &'a Head,
    pub(crate) family: &'a str,
}

impl Keys<'_> {
    /// Rows of the embedding. (The key `vocab_size` is often absent.)
    pub(crate) fn vocab_size(&self) -> Result<u64, ImportError> {
        let embedding = self.head.tensors.iter().find(|tensor| tensor.name.as_str() == EMBEDDING);
        let expected = || -> Result<Vec<u64>, ImportError> {
            Ok(vec![self.number("vocab_size")?.unwrap_or(0), self.need("embedding_length")?])
        };
        let tensor = EMBEDDING.to_owned();
        match embedding.map(|tensor| tensor.shape.as_slice()) {
            Some(&[rows, _]) => Ok(rows),
            Some(shape) => {
                let (found, expected) = (shape.to_vec(), expected()?);
                Err(ImportError::TensorShape { tensor, found, expected })
            }
            None => Err(ImportError::MissingTensor { tensor, expected: expected()? }),
        }
    }

    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        self.head.tensors.iter().any(|tensor| tensor.name.as_str() == name)
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>, ImportError> {
        let read = |value: &Value| value.as_u64();
        self.read(key, "a whole number, 0 or more, the same for all layers", read)
    }

    pub(crate) fn need(&self, key: &str) -> Result<u64, ImportError> {
        self.number(key)?.ok_or_else(|| self.refuse(key, "a whole number, 0 or more"))
    }

    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>, ImportError> {
        self.read(key, "a floating-point number", Value::as_f64)
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, ImportError> {
        self.read(key, "true or false", Value::as_bool)
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<String>, ImportError> {
        self.read(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// Truth values for all layers, or a number.
    pub(crate) fn flags_or_number(&self, key: &str) -> Result<Option<Pattern>, ImportError> {
        self.read(key, "a whole number, or true or false for each layer", |value| match value {
            Value::Array(Array::Bool(flags)) => Some(Pattern::Flags(flags.clone())),
            other => other.as_u64().map(Pattern::Number),
        })
    }

    /// A number for each layer; one number is for all.
    pub(crate) fn per_layer(&self, key: &str, layers: u64) -> Result<Vec<u64>, ImportError> {
        let allowed = "a whole number, 0 or more, or one for each layer";
        let numbers = self.read(key, allowed, |value| match value {
            Value::Array(array) => array.to_u64s().filter(|all| all.len() as u64 == layers),
            one => one.as_u64().map(|one| vec![one; layers as usize]),
        })?;
        numbers.ok_or_else(|| self.refuse(key, allowed))
    }

    pub(crate) fn refuse(&self, key: &str, allowed: &'static str) -> ImportError {
        let found = self.value(key).map_or_else(|| "absent".to_owned(), Value::describe);
        ImportError::GgufField { key: format!("{}.{key}", self.family), found, allowed }
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.head.value(&format!("{}.{key}", self.family))
    }

    fn read<T>(
        &self,
        key: &str,
        allowed: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ImportError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.refuse(key, allowed)),
        }
    }
}

/// Which layers are meant.
pub(crate) enum Pattern {
    /// Each by itself.
    Flags(Vec<bool>),
    /// By a number.
    Number(u64),
}

/// GGUF's name of the embedding.
const EMBEDDING: &str = "token_embd.weight";
