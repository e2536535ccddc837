//! Documents compared field by field.

use serde::Serialize;
use serde_json::Value;

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FieldChange {
    /// Where: names and indices with dots between them.
    pub field: String,
    /// Its value in A; none where A has no such field.
    pub a: Option<Value>,
    /// Its value in B; none where B has no such field.
    pub b: Option<Value>,
}

/// Fields of two documents that differ, in the order of their names. Objects are gone into, and lists of the same length;
/// anything else is a value.
pub fn field_changes(a: Option<&Value>, b: Option<&Value>) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    compare("", a, b, &mut changes);
    changes
}

fn compare(path: &str, a: Option<&Value>, b: Option<&Value>, changes: &mut Vec<FieldChange>) {
    let within = |name: &str| {
        if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
    };
    match (a, b) {
        (Some(a), Some(b)) if a == b => {}
        (None, None) => {}
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let only_b = b.keys().filter(|name| !a.contains_key(*name));
            let mut names: Vec<&String> = a.keys().chain(only_b).collect();
            names.sort();
            for name in names {
                compare(&within(name), a.get(name), b.get(name), changes);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&within(&index.to_string()), Some(a), Some(b), changes);
            }
        }
        (a, b) => {
            changes.push(FieldChange { field: path.to_owned(), a: a.cloned(), b: b.cloned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_gone_into_and_what_one_side_lacks_is_none() {
        let a = json!({"x": 1, "in": {"y": [1, 2], "z": "s"}, "list": [1]});
        let b = json!({"in": {"y": [1, 3], "z": "s"}, "list": [1, 2], "new": null});
        let found = field_changes(Some(&a), Some(&b));
        let fields: Vec<&str> = found.iter().map(|change| change.field.as_str()).collect();
        assert_eq!(fields, ["in.y.1", "list", "new", "x"]);
        assert_eq!(found[2].a, None);
        assert_eq!(found[2].b, Some(Value::Null));
        assert_eq!(found[3].b, None);
        assert_eq!(field_changes(Some(&a), Some(&a)), []);
        assert_eq!(field_changes(None, Some(&json!(1)))[0].field, "");
    }
}
