//! Where a remembered span begins and ends.

/// Words before a full stop that does not end a sentence.
const ABBREVIATIONS: [&str; 8] = ["Mr", "Mrs", "Ms", "Dr", "St", "Prof", "vs", "No"];

/// Whether a sentence or a line ends between two texts that follow each other.
///
/// A line ends after its line feed. A sentence ends after `.`, `!` or `?`, closing quotes and
/// brackets included, if white space follows; not after an abbreviation or an initial.
pub(super) fn ends_between(before: &str, after: &str) -> bool {
    if before.ends_with('\n') {
        return true;
    }
    if !after.starts_with(char::is_whitespace) {
        return false;
    }
    let closed = before.trim_end_matches(['"', '\'', ')', ']', '”', '’', '»']);
    if closed.ends_with(['!', '?']) {
        return true;
    }
    let Some(sentence) = closed.strip_suffix('.') else { return false };
    let word = sentence.rsplit(|char: char| !char.is_alphanumeric()).next().unwrap_or_default();
    let initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase);
    !initial && !ABBREVIATIONS.contains(&word)
}

/// Whether a span is worth an observation: it has two tokens and, where there is a text, a letter or
/// a digit.
pub(super) fn says_something(tokens: &[u32], text: Option<&str>) -> bool {
    tokens.len() >= 2 && text.is_none_or(|text| text.contains(char::is_alphanumeric))
}

#[cfg(test)]
mod tests {
    use super::ends_between;

    #[test]
    fn sentences_and_lines_end_where_people_see_it() {
        for (before, after) in [
            ("The end.", " And"),
            ("Why?", "\nBecause"),
            ("He said \"no.\"", " Then"),
            ("a line\n", "next"),
            ("in 2019.", " The"),
        ] {
            assert!(ends_between(before, after), "{before:?} {after:?}");
        }
        for (before, after) in [
            ("It costs 3.", "5 euros"),
            ("Dr.", " Blake"),
            ("J.", " Smith"),
            ("The", " end"),
            ("", " x"),
            ("www.", "org"),
        ] {
            assert!(!ends_between(before, after), "{before:?} {after:?}");
        }
    }
}
