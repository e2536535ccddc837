//! A vocabulary: texts to ids and back, in a few allocations however many there are.

/// No entry.
const NONE: u32 = u32::MAX;
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
    /// Where the places of each bucket begin in `places`, and after the last bucket where they end.
    starts: Vec<u32>,
    /// Bucket after bucket the upper half of each text's hash, and its entry. Half a hash tells nearly
    /// all texts apart without a look at their bytes, all over memory.
    places: Vec<u64>,
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
    /// Adds a text, which is found once [`Pieces::index`] was called.
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

    /// Makes texts findable, in two passes over them: they are counted out into buckets of two or so.
    /// Of two equal texts the last one counts.
    pub(super) fn index(&mut self) {
        let buckets = (self.entries.len() / 2).next_power_of_two();
        let hashes: Vec<u64> = self
            .entries
            .iter()
            .map(|&entry| hash(text_of(&self.texts, entry).as_bytes()))
            .collect();
        let bucket = |hash: u64| hash as usize & (buckets - 1);
        let mut starts = vec![0_u32; buckets + 1];
        for &hash in &hashes {
            starts[bucket(hash)] += 1;
        }
        // From how many there are to where they end, and, as each is put in front, where they begin.
        let mut end = 0;
        for start in &mut starts {
            end += *start;
            *start = end;
        }
        let mut places = vec![0; hashes.len()];
        for (entry, &hash) in hashes.iter().enumerate().rev() {
            let start = &mut starts[bucket(hash)];
            *start -= 1;
            places[*start as usize] = hash >> 32 << 32 | entry as u64;
        }
        (self.starts, self.places) = (starts, places);
    }

    /// The id of a text.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        let buckets = self.starts.len().checked_sub(1)?;
        if text.len() > self.longest {
            return None;
        }
        let hash = hash(text.as_bytes());
        let bucket = hash as usize & (buckets - 1);
        let range = self.starts[bucket] as usize..self.starts[bucket + 1] as usize;
        let places = self.places[range].iter().rev().filter(|&place| place >> 32 == hash >> 32);
        let entries = places.map(|&place| self.entries[place as u32 as usize]);
        entries.into_iter().find(|&entry| text_of(&self.texts, entry) == text).map(|entry| entry.id)
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

fn text_of(texts: &str, entry: Entry) -> &str {
    &texts[entry.start as usize..(entry.start + entry.len) as usize]
}

/// Eight bytes at a time, multiplied and folded; the length goes in, so that zeros at the end count.
fn hash(bytes: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let fold = |state: u64, word: u64| {
        let product = u128::from(state ^ word) * u128::from(ODD | 1 << 63);
        product as u64 ^ (product >> 64) as u64
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let start = ODD ^ bytes.len() as u64;
    let state = words.iter().fold(start, |state, word| fold(state, u64::from_le_bytes(*word)));
    let state = if rest.is_empty() { state } else { fold(state, short_word(rest)) };
    state ^ state >> 29
}

/// Up to seven bytes as a number, in which each of them counts: short copies cost more than they move.
fn short_word(bytes: &[u8]) -> u64 {
    let four = |at: usize| {
        u64::from(u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]))
    };
    let len = bytes.len();
    if len >= 4 {
        return four(0) | four(len - 4) << 32;
    }
    let byte = |at: usize| u64::from(bytes[at]);
    byte(0) | byte(len / 2) << 8 | byte(len - 1) << 16
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
        pieces.push("twice", 3);
        pieces.push("twice", 5);
        pieces.index();
        assert_eq!(pieces.id("twice"), Some(5));
        for id in 0..1000 {
            let text = format!("piece {}", id * id);
            assert_eq!((pieces.id(&text), pieces.text(id * 2)), (Some(id * 2), Some(&*text)));
        }
        assert_eq!((pieces.id(""), pieces.text(7), pieces.id("piece 2")), (Some(1), None, None));
        assert_eq!((pieces.end(), pieces.bytes()), (1999, None));
    }

    #[test]
    fn every_byte_of_a_text_counts() {
        for len in 1..20 {
            let text = vec![b'a'; len];
            for at in 0..len {
                let mut other = text.clone();
                other[at] = b'b';
                assert_ne!(hash(&text), hash(&other), "byte {at} of {len}");
            }
            assert_ne!(hash(&text), hash(&text[1..]));
        }
    }
}
