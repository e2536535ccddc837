//! The long lists of a `tokenizer.json`, read where they stand: a general reader of JSON takes several
//! times as long for half a million texts and numbers.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memmem;

use super::pieces::{MAX_ID, Pieces};

/// A document, and those of its lists that were read. Whatever does not look as expected is left to
/// who reads the rest, and so is saying what is wrong with it.
pub(super) struct Lists<'a> {
    /// The document, in which the lists are empty.
    pub(super) rest: Cow<'a, [u8]>,
    pub(super) ranks: Option<Vec<i32>>,
    pub(super) vocab: Option<Pieces>,
}

impl<'a> Lists<'a> {
    pub(super) fn of(document: &'a [u8]) -> Self {
        let mut cuts = Vec::new();
        let mut ranks = None;
        if let Some(start) = only(document, b"\"cart_ranks\":[")
            && let Some((read, end)) = numbers(document, start)
        {
            ranks = Some(read);
            cuts.push(start..end);
            // Merges are of no use beside ranks.
            cuts.extend(only(document, b"\"merges\":[").and_then(|start| list(document, start)));
        }
        let vocab = only(document, b"\"vocab\":{").and_then(|start| {
            let (pieces, end) = pieces(document, start)?;
            cuts.push(start..end);
            Some(pieces)
        });
        Self { rest: without(document, cuts), ranks, vocab }
    }
}

/// Where the value begins of a field that the document has once. No text can contain a field: a
/// quotation mark inside one has a backslash before it.
fn only(document: &[u8], field: &[u8]) -> Option<usize> {
    let start = memmem::find(document, field)? + field.len();
    memmem::find(&document[start..], field).is_none().then_some(start)
}

/// A document without some ranges.
fn without(document: &[u8], mut cuts: Vec<Range<usize>>) -> Cow<'_, [u8]> {
    if cuts.is_empty() {
        return Cow::Borrowed(document);
    }
    cuts.sort_by_key(|cut| cut.start);
    let mut rest = Vec::new();
    let mut at = 0;
    for cut in cuts {
        rest.extend_from_slice(&document[at..cut.start]);
        at = cut.end;
    }
    rest.extend_from_slice(&document[at..]);
    Cow::Owned(rest)
}

/// The numbers up to the end of an array, and where its bracket is.
fn numbers(document: &[u8], mut at: usize) -> Option<(Vec<i32>, usize)> {
    let mut numbers = Vec::new();
    loop {
        let negative = *document.get(at)? == b'-';
        let (size, end) = number(document, at + usize::from(negative))?;
        let size = i32::try_from(size).ok()?;
        numbers.push(if negative { -size } else { size });
        at = end + 1;
        match document.get(end)? {
            b',' => {}
            b']' => return Some((numbers, end)),
            _ => return None,
        }
    }
}

/// A whole number of up to nine digits, and where it ends.
fn number(document: &[u8], start: usize) -> Option<(u32, usize)> {
    let mut at = start;
    let mut value = 0;
    while let Some(digit) = document.get(at).filter(|byte| byte.is_ascii_digit()) {
        if at - start == 9 {
            return None;
        }
        value = value * 10 + u32::from(digit - b'0');
        at += 1;
    }
    let canonical = at - start == 1 || at > start && document[start] != b'0';
    canonical.then_some((value, at))
}

/// The tokens up to the end of an object of ids, and where its brace is.
fn pieces(document: &[u8], mut at: usize) -> Option<(Pieces, usize)> {
    let mut pieces = Pieces::default();
    loop {
        if *document.get(at)? != b'"' {
            return None;
        }
        let (text, end) = text(document, at + 1)?;
        if *document.get(end + 1)? != b':' {
            return None;
        }
        let (id, end) = number(document, end + 2)?;
        if id > MAX_ID {
            return None;
        }
        pieces.push(&text, id);
        at = end + 1;
        match document.get(end)? {
            b',' => {}
            b'}' => return Some((pieces, end)),
            _ => return None,
        }
    }
}

/// A text that begins after a quotation mark, and where the mark is that ends it.
fn text(document: &[u8], start: usize) -> Option<(Cow<'_, str>, usize)> {
    let mut at = start;
    loop {
        match *document.get(at)? {
            b'"' => return Some((Cow::Borrowed(str::from_utf8(&document[start..at]).ok()?), at)),
            b'\\' => break,
            0..0x20 => return None,
            _ => at += 1,
        }
    }
    let end = text_end(document, at)?;
    let text: String = serde_json::from_slice(&document[start - 1..=end]).ok()?;
    Some((Cow::Owned(text), end))
}

/// What an array of texts and of arrays of texts contains.
fn list(document: &[u8], start: usize) -> Option<Range<usize>> {
    let mut at = start;
    let mut depth = 1;
    while depth > 0 {
        match document.get(at)? {
            b'[' => depth += 1,
            b']' => depth -= 1,
            b'"' => at = text_end(document, at + 1)?,
            _ => {}
        }
        at += 1;
    }
    Some(start..at - 1)
}

/// Where the quotation mark is that ends a text.
fn text_end(document: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        at += memchr::memchr2(b'"', b'\\', document.get(at..)?)?;
        if document[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_left_out() {
        let document = br#"{"model":{"cart_ranks":[1,-1,0],"merges":["a ]\"]",["b","\\"]],"vocab":{"]":0,"a\u00e9\"":12}}}"#;
        let lists = Lists::of(document);
        let rest = br#"{"model":{"cart_ranks":[],"merges":[],"vocab":{}}}"#;
        assert_eq!(lists.rest.as_ref(), rest);
        assert_eq!(lists.ranks, Some(vec![1, -1, 0]));
        let mut vocab = lists.vocab.unwrap();
        vocab.index();
        assert_eq!((vocab.id("]"), vocab.id("aé\""), vocab.end()), (Some(0), Some(12), 13));
    }

    #[test]
    fn merges_stay_where_no_ranks_stand_for_them() {
        let lists = Lists::of(br#"{"model":{"merges":["a b"],"vocab":{"\"cart_ranks\":[":0}}}"#);
        assert_eq!(lists.rest.as_ref(), br#"{"model":{"merges":["a b"],"vocab":{}}}"#);
        assert_eq!(lists.ranks, None);
    }

    #[test]
    fn what_is_not_as_expected_is_left_as_it_is() {
        for document in [
            &br#"{"vocab":{"a":0},"model":{"vocab":{"a":1}}}"#[..],
            br#"{"model":{"vocab":{"a":1 }}}"#,
            br#"{"model":{"vocab":{"a":1.5}}}"#,
            br#"{"model":{"vocab":{"a":01}}}"#,
            br#"{"model":{"vocab":{"a":-1}}}"#,
            br#"{"model":{"vocab":{"a":99999999}}}"#,
            br#"{"model":{"vocab":{"a":9999999999}}}"#,
            br#"{"model":{"vocab":{"a\x":1}}}"#,
            br#"{"model":{"vocab":{"a":1,}}}"#,
            br#"{"model":{"vocab":{"a"#,
            br#"{"model":{"vocab":{"a":1"#,
            br#"{"model":{"vocab":{}}}"#,
            br#"{"model":{"cart_ranks":[1,],"merges":["a b"]}}"#,
            br#"{"model":{"cart_ranks":[1,"#,
            br#"{"model":{"cart_ranks":[],"merges":["a b"]}}"#,
            b"{\"model\":{\"vocab\":{\"a\nb\":1}}}",
            b"{\"model\":{\"vocab\":{\"a\xff\":1}}}",
        ] {
            let lists = Lists::of(document);
            assert_eq!(lists.rest.as_ref(), document);
            assert!(lists.vocab.is_none() && lists.ranks.is_none());
        }
    }
}
