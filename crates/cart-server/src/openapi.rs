//! What the server says about itself: its OpenAPI document.

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

/// Written by hand; the tests below and a journey hold it to the code.
const DOCUMENT: &str = include_str!("openapi.json");

pub(crate) async fn document() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt;

    use serde::de::value::Error;
    use serde::de::{Deserializer, Error as _, Visitor};
    use serde::{Deserialize, forward_to_deserialize_any};
    use serde_json::Value;

    use super::*;
    use crate::app::ROUTES;
    use crate::live::{RollbackBody, SwapBody};
    use crate::openai::read::{
        CallParameter, ChatMessage, ChatParameters, CompletionParameters, EmbeddingRequest,
        MemoryParameter, Parameters, ResponseFormat, ResponseRequest,
    };

    /// Takes down the names of the fields that a struct asks for.
    struct Fields<'f>(&'f mut BTreeSet<String>);

    impl<'de> Deserializer<'de> for Fields<'_> {
        type Error = Error;

        fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            struct Expected<'v, V>(&'v V);
            impl<'de, V: Visitor<'de>> fmt::Display for Expected<'_, V> {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    self.0.expecting(f)
                }
            }
            panic!("{} is no struct with fields of its own", Expected(&visitor));
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            _visitor: V,
        ) -> Result<V::Value, Error> {
            self.0.extend(fields.iter().map(|&field| field.to_owned()));
            Err(Error::custom("only its fields were asked for"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    fn of<T: for<'de> Deserialize<'de>>() -> BTreeSet<String> {
        let mut fields = BTreeSet::new();
        assert!(T::deserialize(Fields(&mut fields)).is_err());
        fields
    }

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    fn keys(value: &Value) -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn it_lists_every_path_and_no_other() {
        let paths = ROUTES.iter().map(|route| route.path.replace("{*", "{"));
        assert_eq!(keys(&document()["paths"]), paths.collect());
    }

    #[test]
    fn it_lists_every_field_that_a_body_is_read_for_and_no_other() {
        let read = [
            ("ChatRequest", &of::<ChatParameters>() | &of::<Parameters>()),
            ("CompletionRequest", &of::<CompletionParameters>() | &of::<Parameters>()),
            ("ChatMessage", of::<ChatMessage>()),
            // Clients send the type, which can be one only.
            ("ToolCall", &of::<CallParameter>() | &BTreeSet::from(["type".to_owned()])),
            ("MemoryParameter", of::<MemoryParameter>()),
            ("ResponseFormat", of::<ResponseFormat>()),
            ("EmbeddingRequest", of::<EmbeddingRequest>()),
            ("ResponseRequest", of::<ResponseRequest>()),
            ("SwapRequest", of::<SwapBody>()),
            ("RollbackRequest", of::<RollbackBody>()),
        ];
        let document = document();
        let mut bodies = BTreeSet::new();
        for (name, fields) in read {
            let schema = &document["components"]["schemas"][name];
            assert_eq!(keys(&schema["properties"]), fields, "{name}");
            // Of OpenAI's there are more than this server reads, and it passes over them.
            let own = ["MemoryParameter", "SwapRequest", "RollbackRequest"].contains(&name);
            assert_eq!(schema["additionalProperties"], !own, "{name}");
            bodies.insert(format!("#/components/schemas/{name}"));
        }
        for (path, operations) in document["paths"].as_object().unwrap() {
            let body = &operations["post"]["requestBody"]["content"]["application/json"]["schema"];
            assert!(
                operations["post"].is_null() || bodies.contains(body["$ref"].as_str().unwrap()),
                "{path}"
            );
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_used() {
        fn references(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    fields.values().for_each(|field| references(field, found));
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        let schemas = keys(&document["components"]["schemas"]);
        let schemas = schemas.iter().map(|name| format!("#/components/schemas/{name}"));
        assert_eq!(found, schemas.collect());
    }
}
