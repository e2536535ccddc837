//! Documents as Python writes them: JSON, but for numbers that are not finite.

use std::borrow::Cow;

/// The document with `Infinity`, `-Infinity` and `NaN` in the form that transformers 5 writes,
/// `{"__float__": "Infinity"}`. (Python's `json` writes them bare, and published models have them.)
pub(crate) fn to_json(document: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Vec::new();
    let mut kept = 0;
    let mut at = 0;
    while at < document.len() {
        let rest = &document[at..];
        let word = [&b"-Infinity"[..], b"Infinity", b"NaN"];
        match word.into_iter().find(|word| rest.starts_with(word)) {
            Some(word) => {
                out.extend_from_slice(&document[kept..at]);
                out.extend_from_slice(b"{\"__float__\":\"");
                out.extend_from_slice(word);
                out.extend_from_slice(b"\"}");
                at += word.len();
                kept = at;
            }
            None if rest[0] == b'"' => at += text(rest),
            None => at += 1,
        }
    }
    if kept == 0 {
        return Cow::Borrowed(document);
    }
    out.extend_from_slice(&document[kept..]);
    Cow::Owned(out)
}

/// Bytes of the string that stands at the start, its quotes included.
fn text(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_words_are_wrapped_and_texts_are_not() {
        let given = br#"{"a": [0.0, Infinity, -Infinity], "Infinity\\\"NaN": "NaN", "b": NaN}"#;
        let value: serde_json::Value = serde_json::from_slice(&to_json(given)).unwrap();
        let float = |name: &str| serde_json::json!({ "__float__": name });
        assert_eq!(value["a"], serde_json::json!([0.0, float("Infinity"), float("-Infinity")]));
        assert_eq!(value["Infinity\\\"NaN"], "NaN");
        assert_eq!(value["b"], float("NaN"));
        for plain in [&b"{\"a\": 1}"[..], b"\"open", b"\"open\\", b""] {
            assert!(matches!(to_json(plain), Cow::Borrowed(same) if same == plain));
        }
    }
}
