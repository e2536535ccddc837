//! Licence and languages from the front matter of a model card (`README.md`).

use std::collections::BTreeMap;

use serde_json::Value;

/// Reads the few fields that are content and the same in every card. Anything unusual is left out.
pub(crate) fn describe(card: &str) -> BTreeMap<String, Value> {
    let mut facts = BTreeMap::new();
    let Some(matter) = front_matter(card) else { return facts };
    if let Some(license) = scalar(matter, "license") {
        facts.insert("license".to_owned(), Value::from(license));
    }
    let languages = list(matter, "language");
    if !languages.is_empty() {
        facts.insert("languages".to_owned(), Value::from(languages));
    }
    facts
}

fn front_matter(card: &str) -> Option<&str> {
    let matter = card.strip_prefix("---")?.trim_start_matches('\r').strip_prefix('\n')?;
    Some(&matter[..matter.find("\n---")?])
}

fn scalar<'a>(matter: &'a str, key: &str) -> Option<&'a str> {
    let value = matter.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!value.is_empty() && !value.starts_with(['[', '{', '|', '>'])).then_some(value)
}

/// `key: en`, `key: [en, de]`, or lines of `- en`.
fn list(matter: &str, key: &str) -> Vec<String> {
    let mut lines = matter.lines();
    let begin = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let Some(begin) = begin.map(str::trim) else { return Vec::new() };
    let clean = |text: &str| text.trim().trim_matches(['"', '\'']).to_owned();
    if let Some(inline) = begin.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inline.split(',').map(clean).filter(|text| !text.is_empty()).collect();
    }
    if !begin.is_empty() {
        return vec![clean(begin)];
    }
    lines.map_while(|line| line.trim_start().strip_prefix("- ")).map(clean).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn license_and_languages_are_read_in_their_three_forms() {
        let cards = [
            "---\nlicense: apache-2.0\nlanguage:\n- en\n- de\ntags:\n- x\n---\n# Card",
            "---\nlanguage: [en, 'de']\nlicense: \"apache-2.0\"\n---\n",
        ];
        for card in cards {
            let expected = json!({"license": "apache-2.0", "languages": ["en", "de"]});
            assert_eq!(json!(describe(card)), expected, "{card}");
        }
        assert_eq!(json!(describe("---\nlanguage: en\n---")), json!({"languages": ["en"]}));
        assert!(describe("# No front matter\nlicense: mit").is_empty());
    }
}
