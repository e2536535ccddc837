//! Whether bytes are a canonical document, seen in one pass over them: nothing is built, and nothing is written again.

use std::cmp::Ordering;

use serde_json::Number;

use super::write_number;
use crate::limits::JSON_DEPTH;

/// Digits of an integer that every double holds.
const EXACT_DIGITS: usize = 15;

/// Whether the bytes are what [`super::to_canonical`] writes of the value that they say, with no key twice and not nested too
/// deeply.
pub(super) fn is(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let mut reader = Reader { text, at: 0 };
    reader.value(0).is_some() && reader.at == text.len()
}

/// Reads on from a byte; gives none where what is there is not canonical.
struct Reader<'t> {
    text: &'t str,
    at: usize,
}

/// A string as it is written, without its quotes.
#[derive(Clone, Copy)]
struct Written<'t> {
    text: &'t str,
    /// Whether it has no escapes and no characters beyond ASCII.
    is_plain: bool,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, expected: u8) -> Option<()> {
        (self.peek()? == expected).then(|| self.at += 1)
    }

    fn word(&mut self, word: &str) -> Option<()> {
        self.text.as_bytes()[self.at..].starts_with(word.as_bytes()).then(|| self.at += word.len())
    }

    /// * `depth`: arrays and objects that it is in
    fn value(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().map(|_| ()),
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'n' => self.word("null"),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            _ => self.number(),
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        self.take(b'[').filter(|()| depth < JSON_DEPTH)?;
        if self.take(b']').is_some() {
            return Some(());
        }
        loop {
            self.value(depth + 1)?;
            if self.take(b']').is_some() {
                return Some(());
            }
            self.take(b',')?;
        }
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.take(b'{').filter(|()| depth < JSON_DEPTH)?;
        if self.take(b'}').is_some() {
            return Some(());
        }
        let mut before = None;
        loop {
            let key = self.string()?;
            if before.is_some_and(|before| order(before, key) != Ordering::Less) {
                return None;
            }
            before = Some(key);
            self.take(b':')?;
            self.value(depth + 1)?;
            if self.take(b'}').is_some() {
                return Some(());
            }
            self.take(b',')?;
        }
    }

    fn string(&mut self) -> Option<Written<'t>> {
        self.take(b'"')?;
        let begin = self.at;
        let mut is_plain = true;
        loop {
            self.at += plain(&self.text.as_bytes()[self.at..]);
            match self.peek()? {
                b'"' => break,
                b'\\' => {
                    is_plain = false;
                    self.escape()?;
                }
                0..0x20 => return None,
                _ => {
                    is_plain = false;
                    self.at += 1;
                }
            }
        }
        let text = &self.text[begin..self.at];
        self.at += 1;
        Some(Written { text, is_plain })
    }

    /// What has to be escaped is, by a letter where there is one.
    fn escape(&mut self) -> Option<()> {
        let bytes = &self.text.as_bytes()[self.at..];
        let length = match bytes {
            [b'\\', b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            [b'\\', b'u', b'0', b'0', high @ (b'0' | b'1'), low, ..] => {
                let has_letter = *high == b'0' && matches!(low, b'8' | b'9' | b'a' | b'c' | b'd');
                if has_letter || !matches!(low, b'0'..=b'9' | b'a'..=b'f') {
                    return None;
                }
                6
            }
            _ => return None,
        };
        self.at += length;
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        let rest = &self.text[self.at..];
        let belongs = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let text = &rest[..rest.bytes().take_while(|byte| belongs(byte)).count()];
        if !is_short_integer(text) {
            let number: Number = serde_json::from_str(text).ok()?;
            let mut again = Vec::with_capacity(text.len());
            write_number(&number, &mut again).ok()?;
            if again != text.as_bytes() {
                return None;
            }
        }
        self.at += text.len();
        Some(())
    }
}

/// How many bytes there are before one that ends a string, begins an escape, has to be one, or is not ASCII.
fn plain(bytes: &[u8]) -> usize {
    const EACH: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = EACH * 0x80;
    // The high bit of each byte that is less than another, of bytes below 0x80; it may be set of those behind such a one.
    let below = |word: u64, limit: u64| word.wrapping_sub(EACH * limit) & !word & HIGH;
    let (words, _) = bytes.as_chunks::<8>();
    let is_plain = |word: &&[u8; 8]| {
        let word = u64::from_le_bytes(**word);
        let equal = |byte: u8| below(word ^ (EACH * u64::from(byte)), 1);
        below(word, 0x20) | equal(b'"') | equal(b'\\') | word & HIGH == 0
    };
    let begin = 8 * words.iter().take_while(is_plain).count();
    let ends = |byte: &u8| matches!(byte, 0..0x20 | b'"' | b'\\' | 0x80..);
    begin + bytes[begin..].iter().position(ends).unwrap_or(bytes.len() - begin)
}

/// Whether it is an integer that a double writes with the same digits.
fn is_short_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = match digits.as_bytes() {
        [b'0'] => text == digits,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    is_number && digits.len() <= EXACT_DIGITS
}

/// The order of two keys (RFC 8785 §3.2.3).
fn order(a: Written<'_>, b: Written<'_>) -> Ordering {
    if a.is_plain && b.is_plain {
        return a.text.cmp(b.text);
    }
    let said = |key: Written<'_>| -> String {
        serde_json::from_str(&format!("\"{}\"", key.text))
            .expect("its escapes were seen to be right")
    };
    said(a).encode_utf16().cmp(said(b).encode_utf16())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;
    use crate::json::{from_strict, to_canonical, write_value};

    /// What it is held to: reading the document, and writing it again.
    fn is_by_writing(bytes: &[u8]) -> bool {
        let mut again = Vec::new();
        let value = from_strict(bytes, u64::MAX);
        value.is_ok_and(|value| write_value(&value, &mut again).is_ok() && again == bytes)
    }

    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-c]{0,2}",
            "[\\x00-\\x7f]{0,4}",
            any::<String>(),
            prop::collection::vec(
                prop::sample::select(vec!['\u{fb33}', '\u{1f600}', 'ö', '\u{7f}', '/', '"']),
                0..3,
            )
            .prop_map(String::from_iter),
        ]
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-(1_i64 << 53)..=1 << 53).prop_map(Value::from),
            (-20_i64..20).prop_map(Value::from),
            (prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO)
                .prop_map(Value::from),
            (-1e25..1e25).prop_map(Value::from),
            any_text().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any_text(), inner, 0..6)
                    .prop_map(|fields| Value::from(Map::from_iter(fields))),
            ]
        })
    }

    #[test]
    fn what_is_written_another_way_is_not() {
        for (text, expected) in [
            ("{\"a\":1,\"b\":[true,false,null]}", true),
            ("{\"b\":1,\"a\":2}", false),
            ("{\"a\":1,\"a\":2}", false),
            ("{\"\\n\":1,\"\\r\":2,\" \":3}", true),
            ("{\"\u{1f600}\":1,\"\u{fb33}\":2}", true),
            ("{\"\u{fb33}\":1,\"\u{1f600}\":2}", false),
            ("[1, 2]", false),
            ("[1,]", false),
            ("[1] ", false),
            ("", false),
            ("\"\\u0008\"", false),
            ("\"\\u001f\\b\"", true),
            ("\"\\u001F\"", false),
            ("\"\\u0041\"", false),
            ("\"\\/\"", false),
            ("\"a\nb\"", false),
            ("\"open", false),
            ("0", true),
            ("-0", false),
            ("01", false),
            ("-7", true),
            ("1.0", false),
            ("0.1", true),
            ("1e21", false),
            ("1e+21", true),
            ("9007199254740991", true),
            ("9007199254740993", false),
            ("1e999", false),
            ("-", false),
            ("nul", false),
        ] {
            assert_eq!(
                (is(text.as_bytes()), is_by_writing(text.as_bytes())),
                (expected, expected),
                "{text:?}"
            );
        }
        assert!(!is(b"\"\xff\""));
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(is(nested(JSON_DEPTH).as_bytes()) && !is(nested(JSON_DEPTH + 1).as_bytes()));
        let objects = |depth: usize| "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
        assert!(is(objects(JSON_DEPTH).as_bytes()) && !is(objects(JSON_DEPTH + 1).as_bytes()));
    }

    proptest! {
        #[test]
        fn what_was_written_is(value in any_value()) {
            prop_assert!(is(&to_canonical(&value).unwrap()));
        }

        #[test]
        fn a_change_is_judged_as_writing_again_does(
            value in any_value(),
            at: prop::sample::Index,
            end: prop::sample::Index,
            put in prop::sample::select(b"\"\\{}[]:,0159-+.eEtnu/ a\x01\x7f\xc3".to_vec()),
            how in 0..5,
        ) {
            let mut bytes = to_canonical(&value).unwrap();
            let (at, end) = (at.index(bytes.len()), end.index(bytes.len()));
            match how {
                0 => bytes[at] = put,
                1 => bytes.insert(at, put),
                2 => drop(bytes.remove(at)),
                3 => bytes.swap(at, end),
                _ => bytes.truncate(at),
            }
            prop_assert_eq!(is(&bytes), is_by_writing(&bytes));
        }
    }
}
