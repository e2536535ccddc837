//! What an answer may be: JSON, JSON of a schema, the call of a tool. Tokens that would leave it are
//! not drawn.

mod guide;
mod vocabulary;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::Matcher;
use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};
use thiserror::Error;

use crate::agent::Agent;
use crate::tokenizer::TokenizerError;
pub(crate) use guide::Guide;
pub(crate) use vocabulary::Vocabulary;

/// Longest schema, in bytes of JSON.
pub const MAX_SCHEMA_BYTES: usize = 256 << 10;
/// Deepest nesting of a schema.
pub const MAX_SCHEMA_DEPTH: usize = 64;
/// Longest text before or after a schema's JSON, in bytes.
const MAX_FRAME_BYTES: usize = 4096;

/// What an answer has to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// Any JSON object.
    JsonObject,
    /// JSON that fits a JSON Schema.
    JsonSchema(Value),
    /// JSON that fits a JSON Schema, with texts before and after it.
    Framed {
        /// What the answer begins with.
        before: String,
        /// What the JSON between fits.
        schema: Value,
        /// What the answer ends with.
        after: String,
    },
}

/// A grammar, with the automaton that was made of it for one vocabulary. Cheap to clone. Two are equal if
/// their grammars are.
#[derive(Clone)]
pub struct Constraint {
    grammar: Arc<Grammar>,
    compiled: Option<Compiled>,
}

#[derive(Clone)]
struct Compiled {
    vocabulary: Arc<Vocabulary>,
    /// At the beginning of a text.
    matcher: Arc<Mutex<Matcher>>,
}

/// Why an answer can't be held to a grammar.
#[derive(Debug, Error)]
pub enum ConstraintError {
    /// The schema is no schema.
    #[error("the schema is {found}; allowed: an object, or true")]
    NoSchema {
        /// What it is.
        found: &'static str,
    },
    /// The schema is too long.
    #[error("the schema has {found} bytes; allowed: up to {MAX_SCHEMA_BYTES}")]
    TooLong {
        /// Bytes of its JSON.
        found: usize,
    },
    /// The schema is too deep.
    #[error("the schema is nested over {MAX_SCHEMA_DEPTH} deep; put the inner parts into `$defs`")]
    TooDeep,
    /// What stands around the JSON is too long.
    #[error(
        "the text around the schema's JSON has {found} bytes; allowed: up to {MAX_FRAME_BYTES}"
    )]
    FrameTooLong {
        /// Its bytes.
        found: usize,
    },
    /// No text fits the schema, or it asks for something that can't be held to.
    #[error("the schema can't be compiled: {reason}")]
    Schema {
        /// What the compiler said.
        reason: String,
    },
    /// There is no tokenizer.
    #[error("the cartridge has no tokenizer, so no answer can be held to a schema")]
    NoTokenizer,
    /// Tokens of the cartridge have no bytes of their own.
    #[error(
        "the tokens of this cartridge's tokenizer have no bytes of their own, so no answer can be held to a schema"
    )]
    NoBytes,
    /// What was said before a swap is not of the grammar in the new tokens.
    #[error("what was said so far does not fit the schema in the new cartridge's tokens")]
    SaidSoFar,
    /// The tokenizer fails on what was said before a swap.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// No token goes on with the text.
    #[error("no token of the cartridge goes on with what was said and fits the schema: {reason}")]
    DeadEnd {
        /// What the automaton said.
        reason: String,
    },
}

impl Grammar {
    /// Checks the sizes. The rest is checked when it is compiled.
    ///
    /// # Errors
    /// A schema is none, too long or too deep.
    pub fn check(&self) -> Result<(), ConstraintError> {
        let (schema, around) = match self {
            Self::JsonObject => return Ok(()),
            Self::JsonSchema(schema) => (schema, 0),
            Self::Framed { before, schema, after } => (schema, before.len() + after.len()),
        };
        let found = match schema {
            Value::Object(_) | Value::Bool(true) => None,
            Value::Null => Some("null"),
            Value::Bool(false) => Some("false, which nothing fits"),
            Value::Number(_) => Some("a number"),
            Value::String(_) => Some("a text"),
            Value::Array(_) => Some("an array"),
        };
        if let Some(found) = found {
            return Err(ConstraintError::NoSchema { found });
        }
        if around > MAX_FRAME_BYTES {
            return Err(ConstraintError::FrameTooLong { found: around });
        }
        if deeper_than(schema, MAX_SCHEMA_DEPTH) {
            return Err(ConstraintError::TooDeep);
        }
        let found = schema.to_string().len();
        if found > MAX_SCHEMA_BYTES {
            return Err(ConstraintError::TooLong { found });
        }
        Ok(())
    }

    /// In the compiler's terms.
    fn top_level(&self) -> TopLevelGrammar {
        match self {
            Self::JsonObject => TopLevelGrammar::from_json_schema(laid_out(&json!({
                "type": "object"
            }))),
            Self::JsonSchema(schema) => TopLevelGrammar::from_json_schema(laid_out(schema)),
            Self::Framed { before, schema, after } => {
                let quoted = |text: &str| match text {
                    "" => String::new(),
                    text => format!("{} ", Value::from(text)),
                };
                TopLevelGrammar::from_lark(format!(
                    "start: {}json {}\njson: %json {}\n",
                    quoted(before),
                    quoted(after),
                    laid_out(schema)
                ))
            }
        }
    }
}

/// A schema with how its JSON is laid out, whatever it says of that itself: in one line, as Python's `json.dumps`
/// writes it and most models have read it. Where white space is free, small models go on with it for ever.
fn laid_out(schema: &Value) -> Value {
    let mut schema = match schema {
        Value::Object(fields) => fields.clone(),
        _ => serde_json::Map::new(),
    };
    let layout = json!({
        "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "
    });
    schema.insert("x-guidance".to_owned(), layout);
    Value::Object(schema)
}

/// Whether something in a value is nested deeper.
fn deeper_than(value: &Value, most: usize) -> bool {
    let mut parts: Box<dyn Iterator<Item = &Value>> = match value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(fields) => Box::new(fields.values()),
        _ => return false,
    };
    most == 0 || parts.any(|part| deeper_than(part, most - 1))
}

impl Constraint {
    /// A grammar, which is compiled when the generation begins.
    pub fn new(grammar: Grammar) -> Self {
        Self { grammar: Arc::new(grammar), compiled: None }
    }

    /// What an answer has to be.
    pub fn grammar(&self) -> &Grammar {
        &self.grammar
    }

    /// The automaton at the beginning of a text, for this vocabulary.
    fn begin(&self, vocabulary: &Arc<Vocabulary>) -> Result<Matcher, ConstraintError> {
        match &self.compiled {
            Some(compiled) if Arc::ptr_eq(&compiled.vocabulary, vocabulary) => {
                let matcher = compiled.matcher.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(matcher.deep_clone())
            }
            _ => vocabulary.compile(self.grammar.top_level()),
        }
    }
}

impl PartialEq for Constraint {
    fn eq(&self, other: &Self) -> bool {
        self.grammar == other.grammar
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint")
            .field("grammar", &self.grammar)
            .field("compiled", &self.compiled.is_some())
            .finish()
    }
}

impl Agent {
    /// Makes the automaton that holds this agent's answers to a grammar. It takes a while (milliseconds; the
    /// first time a tenth of a second or more for the vocabulary), so it is done where that holds up nobody.
    ///
    /// # Errors
    /// The schema is too long, too deep, can't be compiled or fits nothing, or the cartridge's tokens have no
    /// bytes.
    pub fn compile(&self, grammar: Grammar) -> Result<Constraint, ConstraintError> {
        grammar.check()?;
        let vocabulary = self.vocabulary()?;
        let matcher = Arc::new(Mutex::new(vocabulary.compile(grammar.top_level())?));
        let compiled = Compiled { vocabulary: Arc::clone(vocabulary), matcher };
        Ok(Constraint { grammar: Arc::new(grammar), compiled: Some(compiled) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_that_are_none_too_deep_or_too_long_are_refused_by_what_they_are() {
        let check = |schema: Value| Grammar::JsonSchema(schema).check();
        assert!(check(json!({ "type": "object" })).is_ok() && check(json!(true)).is_ok());
        for (schema, says) in [
            (json!("object"), "a text"),
            (json!([1]), "an array"),
            (json!(false), "nothing fits"),
            (json!({ "description": "x".repeat(MAX_SCHEMA_BYTES) }), "bytes"),
        ] {
            assert!(check(schema).unwrap_err().to_string().contains(says), "{says}");
        }
        let nested = |depth: usize| (1..depth).fold(json!({}), |inner, _| json!({ "not": inner }));
        assert!(check(nested(MAX_SCHEMA_DEPTH)).is_ok());
        assert!(matches!(check(nested(MAX_SCHEMA_DEPTH + 1)), Err(ConstraintError::TooDeep)));
    }

    #[test]
    fn what_a_schema_says_of_layout_does_not_count() {
        let said = json!({ "x-guidance": { "lenient": true }, "type": "null" });
        let used = laid_out(&said);
        assert!(used["x-guidance"].get("lenient").is_none() && used["type"] == "null");
    }
}
