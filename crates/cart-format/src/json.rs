//! The one way in which documents are written: canonical JSON (RFC 8785), and a reader that refuses
//! everything else.

mod canonical;

use std::fmt;

use serde::Serialize;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Number, Value};
use thiserror::Error;

use crate::limits::JSON_DEPTH;

/// Why bytes are not a canonical document, or a value can't become one.
#[derive(Debug, Error)]
pub enum JsonError {
    /// Over the limit of this kind of document.
    #[error("the document has {found} bytes; allowed: {allowed}")]
    TooLarge {
        /// Its length.
        found: u64,
        /// The limit.
        allowed: u64,
    },
    /// Not JSON, a key twice, or nested too deeply.
    #[error("the document is not acceptable JSON: {0}")]
    Syntax(#[source] serde_json::Error),
    /// The same value, written another way.
    #[error(
        "the document is not in canonical form (RFC 8785): byte {at} differs; allowed: sorted keys, no white space, shortest numbers"
    )]
    NotCanonical {
        /// The first byte that differs.
        at: usize,
    },
    /// A number that doubles can't hold.
    #[error(
        "the number {found} has no canonical form; allowed: finite, and integers that a double holds with the same digits"
    )]
    Number {
        /// The number.
        found: String,
    },
    /// A value that has no JSON form.
    #[error("the value has no JSON form: {0}")]
    Unrepresentable(#[source] serde_json::Error),
}

/// The canonical bytes of a value.
///
/// # Errors
/// A number is not finite, or an integer that a double does not hold.
pub fn to_canonical<T: Serialize>(value: &T) -> Result<Vec<u8>, JsonError> {
    let value = serde_json::to_value(value).map_err(JsonError::Unrepresentable)?;
    let mut out = Vec::new();
    write_value(&value, &mut out)?;
    Ok(out)
}

/// Reads a document whose bytes must be canonical.
///
/// # Errors
/// Over `limit` bytes, not JSON, a key twice, nested over 64 deep, or not canonical.
pub fn from_canonical(bytes: &[u8], limit: u64) -> Result<Value, JsonError> {
    let value = from_strict(bytes, limit)?;
    if canonical::is(bytes) {
        return Ok(value);
    }
    let mut again = Vec::with_capacity(bytes.len());
    write_value(&value, &mut again)?;
    if again != bytes {
        let at = again.iter().zip(bytes).take_while(|(ours, theirs)| ours == theirs).count();
        return Err(JsonError::NotCanonical { at });
    }
    Ok(value)
}

/// A document of a known kind, without the tree of values between; none where anything is wrong with it, which
/// [`from_canonical`] then says.
///
/// * `limit`: most bytes
pub(crate) fn read_canonical<T: DeserializeOwned>(bytes: &[u8], limit: u64) -> Option<T> {
    let is_canonical = bytes.len() as u64 <= limit && canonical::is(bytes);
    is_canonical.then(|| serde_json::from_slice(bytes).ok()).flatten()
}

/// Reads a document of any spelling, refusing duplicate keys and deep nesting.
///
/// # Errors
/// Over `limit` bytes, not JSON, a key twice, or nested over 64 deep.
pub fn from_strict(bytes: &[u8], limit: u64) -> Result<Value, JsonError> {
    if bytes.len() as u64 > limit {
        return Err(JsonError::TooLarge { found: bytes.len() as u64, allowed: limit });
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = StrictValue { depth: 0 }.deserialize(&mut reader).map_err(JsonError::Syntax)?;
    reader.end().map_err(JsonError::Syntax)?;
    Ok(value)
}

fn write_value(value: &Value, out: &mut Vec<u8>) -> Result<(), JsonError> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => write_number(number, out)?,
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(fields) => {
            out.push(b'{');
            for (index, (key, field)) in in_key_order(fields).into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_string(key, out);
                out.push(b':');
                write_value(field, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

/// RFC 8785 §3.2.3 sorts by UTF-16 code units; that is byte order unless a key has characters
/// beyond the basic plane.
fn in_key_order(fields: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut sorted: Vec<_> = fields.iter().collect();
    if sorted.iter().all(|(key, _)| key.is_ascii()) {
        sorted.sort_unstable_by_key(|(key, _)| *key);
    } else {
        sorted.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    }
    sorted
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("writing text to a vector does not fail");
}

/// Numbers are doubles (RFC 8785 §3.2.2.3). An integer that a double would show with other digits
/// is refused, not rounded.
fn write_number(number: &Number, out: &mut Vec<u8>) -> Result<(), JsonError> {
    let refuse = || JsonError::Number { found: number.to_string() };
    let float = number.as_f64().filter(|float| float.is_finite()).ok_or_else(refuse)?;
    let mut buffer = ryu_js::Buffer::new();
    let text = buffer.format_finite(float);
    if !number.is_f64() && text != number.to_string() {
        return Err(refuse());
    }
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Builds a [`Value`], refusing a key that comes twice and nesting over the limit.
struct StrictValue {
    depth: usize,
}

impl StrictValue {
    fn deeper<E: serde::de::Error>(&self) -> Result<usize, E> {
        if self.depth >= JSON_DEPTH {
            return Err(E::custom(format!("nested deeper than {JSON_DEPTH}")));
        }
        Ok(self.depth + 1)
    }
}

impl<'de> DeserializeSeed<'de> for StrictValue {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StrictValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let depth = self.deeper()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(Self { depth })? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let depth = self.deeper()?;
        let mut object = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} comes twice")));
            }
            let value = fields.next_value_seed(Self { depth })?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn canonical(value: &Value) -> String {
        String::from_utf8(to_canonical(value).unwrap()).unwrap()
    }

    #[test]
    fn the_example_of_rfc_8785_is_reproduced() {
        let input = br#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
        let value = from_strict(input, 1000).unwrap();
        assert_eq!(
            canonical(&value),
            r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#
        );
    }

    #[test]
    fn keys_are_sorted_by_utf16_code_units() {
        let value = json!({"\u{20ac}": 1, "\r": 2, "\u{fb33}": 3, "1": 4, "\u{1f600}": 5, "\u{80}": 6, "ö": 7});
        assert_eq!(
            canonical(&value),
            "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"ö\":7,\"€\":1,\"😀\":5,\"\u{fb33}\":3}"
        );
    }

    #[test]
    fn other_spellings_duplicates_and_depth_are_refused() {
        for bad in [r#"{"b":1,"a":2}"#, r#"{"a": 1}"#, "1.0", "[1e2]", "\"\\u0041\""] {
            assert!(
                matches!(from_canonical(bad.as_bytes(), 100), Err(JsonError::NotCanonical { .. })),
                "{bad}"
            );
        }
        assert!(matches!(from_strict(br#"{"a":1,"a":1}"#, 100), Err(JsonError::Syntax(_))));
        assert!(matches!(from_strict(b"[1] x", 100), Err(JsonError::Syntax(_))));
        assert!(matches!(
            from_strict(b"[1]", 2),
            Err(JsonError::TooLarge { found: 3, allowed: 2 })
        ));
        let deep = "[".repeat(JSON_DEPTH + 1) + &"]".repeat(JSON_DEPTH + 1);
        assert!(matches!(from_strict(deep.as_bytes(), 1000), Err(JsonError::Syntax(_))));
        let fits = "[".repeat(JSON_DEPTH) + &"]".repeat(JSON_DEPTH);
        assert!(from_canonical(fits.as_bytes(), 1000).is_ok());
    }

    #[test]
    fn numbers_that_doubles_lose_are_refused() {
        assert!(matches!(to_canonical(&((1_u64 << 53) + 1)), Err(JsonError::Number { .. })));
        assert!(matches!(to_canonical(&i64::MIN), Err(JsonError::Number { .. })));
        assert_eq!(to_canonical(&((1_u64 << 53) - 1)).unwrap(), b"9007199254740991");
    }

    proptest! {
        #[test]
        fn floats_survive(float in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL) {
            let bytes = to_canonical(&float).unwrap();
            let back = from_canonical(&bytes, 100).unwrap();
            prop_assert_eq!(back.as_f64(), Some(float));
        }

        #[test]
        fn text_survives(text: String) {
            let bytes = to_canonical(&text).unwrap();
            prop_assert_eq!(from_canonical(&bytes, 1 << 20).unwrap(), Value::from(text));
        }
    }
}
