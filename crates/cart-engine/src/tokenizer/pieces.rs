//! A vocabulary: texts to ids and back, in three allocations however many there are.

/// No entry.
const NONE: u32 = u32::MAX;
/// An unused place of the table.
const EMPTY: u64 = u64::MAX;
/// Largest id that is taken: a document can't make the tables larger than a vocabulary ever is.
pub(super) const MAX_ID: u32 = 1 << 24;

/// Texts with ids.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// All texts, one after the other.
    texts: String,
    entries: Vec<Entry>,
    /// The entry of each id, or [`NONE`].
    by_id: Vec<u32>,
    /// Open addressing with linear probing, at most half full: the upper half of a text's hash, and its
    /// entry. Half a hash tells nearly all texts apart without a look at their bytes, all over memory.
    table: Vec<u64>,
    /// Bytes of the longest text.
    longest: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u32,
    len: u32,
    id: u32,
}

impl Pieces {
    /// Adds a text. The table is made by [`Pieces::index`].
    pub(super) fn push(&mut self, text: &str, id: u32) {
        let entry = self.entries.len() as u32;
        self.entries.push(Entry { start: self.texts.len() as u32, len: text.len() as u32, id });
        self.texts.push_str(text);
        if self.by_id.len() <= id as usize {
            self.by_id.resize(id as usize + 1, NONE);
        }
        self.by_id[id as usize] = entry;
        self.longest = self.longest.max(text.len());
    }

    /// Makes texts findable. Of two equal texts the last one counts.
    pub(super) fn index(&mut self) {
        let places = (self.entries.len() * 2).next_power_of_two().max(2);
        let mut table = vec![EMPTY; places];
        for (index, entry) in self.entries.iter().enumerate() {
            let text = text_of(&self.texts, *entry);
            let hash = hash(text.as_bytes());
            let is_text = |found: u64| {
                found >> 32 == hash >> 32
                    && text_of(&self.texts, self.entries[entry_of(found)]) == text
            };
            let mut place = hash as usize & (places - 1);
            while table[place] != EMPTY && !is_text(table[place]) {
                place = (place + 1) & (places - 1);
            }
            table[place] = hash >> 32 << 32 | index as u64;
        }
        self.table = table;
    }

    /// The id of a text.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        let mask = self.table.len().checked_sub(1)?;
        if text.len() > self.longest {
            return None;
        }
        let hash = hash(text.as_bytes());
        let mut place = hash as usize & mask;
        loop {
            let found = self.table[place];
            let entry = *self.entries.get(entry_of(found))?;
            if found >> 32 == hash >> 32 && text_of(&self.texts, entry) == text {
                return Some(entry.id);
            }
            place = (place + 1) & mask;
        }
    }

    /// The text of an id.
    pub(super) fn text(&self, id: u32) -> Option<&str> {
        let entry = *self.by_id.get(id as usize)?;
        self.entries.get(entry as usize).map(|&entry| text_of(&self.texts, entry))
    }

    /// One more than the largest id.
    pub(super) fn end(&self) -> usize {
        self.by_id.len()
    }

    /// Bytes of the longest text.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// The ids of the 256 bytes, if all of them have a token.
    pub(super) fn bytes(&self) -> Option<Box<[u32; 256]>> {
        let mut ids = Box::new([0; 256]);
        for (byte, id) in ids.iter_mut().enumerate() {
            *id = self.id(&format!("<0x{byte:02X}>"))?;
        }
        Some(ids)
    }
}

/// The entry of a place of the table; beyond all entries for an unused one.
fn entry_of(place: u64) -> usize {
    place as u32 as usize
}

fn text_of(texts: &str, entry: Entry) -> &str {
    &texts[entry.start as usize..(entry.start + entry.len) as usize]
}

/// Eight bytes at a time, multiplied and folded; the length goes in, so that zeros at the end count.
fn hash(bytes: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = ODD ^ bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let product = u128::from(state ^ u64::from_le_bytes(word)) * u128::from(ODD | 1 << 63);
        state = product as u64 ^ (product >> 64) as u64;
    }
    state ^ state >> 29
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_ids_find_each_other() {
        let mut pieces = Pieces::default();
        assert_eq!((pieces.id("a"), pieces.text(0)), (None, None));
        for id in 0..1000 {
            pieces.push(&format!("piece {}", id * id), id * 2);
        }
        pieces.push("", 1);
        pieces.index();
        for id in 0..1000 {
            let text = format!("piece {}", id * id);
            assert_eq!((pieces.id(&text), pieces.text(id * 2)), (Some(id * 2), Some(&*text)));
        }
        assert_eq!((pieces.id(""), pieces.text(3), pieces.id("piece 2")), (Some(1), None, None));
        assert_eq!((pieces.end(), pieces.bytes()), (1999, None));
    }
}
