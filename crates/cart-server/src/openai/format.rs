//! `response_format`: what an answer has to be.

use cart_engine::Grammar;
use serde::Deserialize;
use serde_json::Value;

use crate::error::ApiError;

/// The parameter `response_format`.
#[derive(Debug, Deserialize)]
pub(crate) struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
    json_schema: Option<NamedSchema>,
}

/// A JSON Schema and what a client calls it.
#[derive(Debug, Deserialize)]
struct NamedSchema {
    #[expect(dead_code, reason = "clients send it, and it decides nothing")]
    name: Option<String>,
    #[expect(dead_code, reason = "clients send it, and it decides nothing")]
    description: Option<String>,
    schema: Option<Value>,
    /// Answers fit the schema whether or not this is set.
    #[expect(dead_code, reason = "clients send it, and it decides nothing")]
    strict: Option<bool>,
}

impl ResponseFormat {
    /// What the answer is held to; none for a text.
    ///
    /// # Errors
    /// There is no such format, or no schema.
    pub(crate) fn grammar(&self) -> Result<Option<Grammar>, ApiError> {
        match (self.kind.as_str(), &self.json_schema) {
            ("text", _) => Ok(None),
            ("json_object", _) => Ok(Some(Grammar::JsonObject)),
            ("json_schema", Some(NamedSchema { schema: Some(schema), .. })) => {
                Ok(Some(Grammar::JsonSchema(schema.clone())))
            }
            ("json_schema", _) => Err(ApiError::Missing {
                param: "response_format.json_schema.schema",
                hint: "a JSON Schema that the answer has to fit",
            }),
            (kind, _) => Err(ApiError::Invalid {
                param: "response_format",
                found: format!("of type `{}`", kind.chars().take(40).collect::<String>()),
                allowed: "of type `text`, `json_object` or `json_schema`",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn formats_become_grammars_and_others_are_refused() {
        let grammar = |format: Value| {
            let format: ResponseFormat = serde_json::from_value(format).unwrap();
            format.grammar().map_err(|error| error.body()["error"]["param"].clone())
        };
        let schema = json!({ "type": "integer" });
        let named = json!({ "type": "json_schema", "json_schema":
            { "name": "n", "strict": true, "schema": schema } });
        assert_eq!(grammar(json!({ "type": "text" })), Ok(None));
        assert_eq!(grammar(json!({ "type": "json_object" })), Ok(Some(Grammar::JsonObject)));
        assert_eq!(grammar(named), Ok(Some(Grammar::JsonSchema(schema))));
        let unnamed = json!({ "type": "json_schema", "json_schema": { "name": "n" } });
        assert_eq!(grammar(unnamed), Err(json!("response_format.json_schema.schema")));
        assert_eq!(grammar(json!({ "type": "grammar" })), Err(json!("response_format")));
    }
}
