//! Tags of a slot: words with `#` before them at the end of its source (spec 30 §4).

/// Most characters of a tag.
pub(super) const MOST: usize = 64;

/// Whether a word can be a tag.
pub(super) fn is_tag(word: &str) -> bool {
    let allowed = |char: char| !char.is_whitespace() && !char.is_control() && char != '#';
    !word.is_empty() && word.chars().count() <= MOST && word.chars().all(allowed)
}

/// A source with tags, each once.
pub(super) fn join(source: &str, tags: &[String]) -> String {
    let mut text = source.to_owned();
    for (index, tag) in tags.iter().enumerate() {
        if !tags[..index].contains(tag) {
            text.push_str(if text.is_empty() { "#" } else { " #" });
            text.push_str(tag);
        }
    }
    text
}

/// A source's words, and the tags at its end.
pub(super) fn split(source: &str) -> (&str, Vec<&str>) {
    let (mut rest, mut tags) = (source, Vec::new());
    while let Some(at) = rest.rfind('#') {
        let (before, tag) = (&rest[..at], &rest[at + 1..]);
        if !is_tag(tag) || !(before.is_empty() || before.ends_with(' ')) {
            break;
        }
        tags.push(tag);
        rest = before.strip_suffix(' ').unwrap_or(before);
    }
    tags.reverse();
    (rest, tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_go_into_a_source_and_come_out_again() {
        for (source, tags, whole) in [
            ("notes.txt", vec!["boat", "code"], "notes.txt #boat #code"),
            ("", vec!["boat"], "#boat"),
            ("prompt", vec![], "prompt"),
            ("page 3", vec!["ä-1"], "page 3 #ä-1"),
        ] {
            let owned: Vec<String> = tags.iter().map(ToString::to_string).collect();
            assert_eq!(join(source, &owned), whole);
            assert_eq!(split(whole), (source, tags));
        }
        assert_eq!(join("x", &["a".to_owned(), "a".to_owned()]), "x #a");
        // What only looks like a tag stays where it is.
        for source in ["issue#4", "C# by hand", "a #", "#a b"] {
            assert_eq!(split(source), (source, Vec::new()));
        }
        assert!(!is_tag("") && !is_tag("a b") && !is_tag("a#b") && !is_tag(&"x".repeat(65)));
    }
}
