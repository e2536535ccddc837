//! Responses that can be asked for later, and gone on from.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::keys::KeyName;

/// Most responses that are kept, and most bytes of them; then the oldest go.
const MOST: usize = 1000;
const MOST_BYTES: usize = 64 << 20;

/// The responses that a server keeps, in its own memory.
#[derive(Debug, Default)]
pub(crate) struct Responses(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_id: BTreeMap<String, One>,
    /// Oldest first; those that were deleted too.
    order: VecDeque<String>,
    bytes: usize,
}

#[derive(Debug)]
struct One {
    response: Value,
    /// The conversation up to its answer, without instructions.
    messages: Vec<Value>,
    /// Whose it is; nobody else finds it.
    holder: Option<KeyName>,
    bytes: usize,
}

impl Responses {
    pub(super) fn put(&self, response: Value, messages: Vec<Value>, holder: Option<&KeyName>) {
        let id = response["id"].as_str().unwrap_or_default().to_owned();
        let written = |value: &Value| value.to_string().len();
        let bytes = written(&response) + messages.iter().map(written).sum::<usize>();
        let mut kept = self.kept();
        kept.bytes += bytes;
        kept.order.push_back(id.clone());
        kept.by_id.insert(id, One { response, messages, holder: holder.cloned(), bytes });
        kept.shrink();
    }

    pub(super) fn response(&self, id: &str, holder: Option<&KeyName>) -> Option<Value> {
        self.kept().of(id, holder).map(|one| one.response.clone())
    }

    pub(super) fn messages(&self, id: &str, holder: Option<&KeyName>) -> Option<Vec<Value>> {
        self.kept().of(id, holder).map(|one| one.messages.clone())
    }

    pub(super) fn delete(&self, id: &str, holder: Option<&KeyName>) -> bool {
        let mut kept = self.kept();
        let found = kept.of(id, holder).is_some();
        if found {
            kept.remove(id);
        }
        found
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn of(&self, id: &str, holder: Option<&KeyName>) -> Option<&One> {
        self.by_id.get(id).filter(|one| one.holder.as_ref() == holder)
    }

    fn remove(&mut self, id: &str) {
        if let Some(gone) = self.by_id.remove(id) {
            self.bytes -= gone.bytes;
        }
    }

    fn shrink(&mut self) {
        while self.order.len() > MOST || self.bytes > MOST_BYTES {
            let Some(oldest) = self.order.pop_front() else { return };
            self.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_oldest_go_and_only_who_asked_finds_them() {
        let kept = Responses::default();
        for index in 0..MOST + 2 {
            kept.put(json!({ "id": format!("r{index}") }), vec![json!(index)], None);
        }
        assert!(kept.response("r1", None).is_none());
        assert_eq!(kept.messages("r2", None), Some(vec![json!(2)]));
        assert!(kept.delete("r2", None) && !kept.delete("r2", None));
        let large = "x".repeat(MOST_BYTES);
        kept.put(json!({ "id": "large" }), vec![json!(large)], None);
        assert!(kept.response("large", None).is_none() && kept.response("r9", None).is_none());
    }
}
