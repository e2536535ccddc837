//! Corrections: of two texts that begin alike and end differently, the one that was said last is the
//! better answer, where both answer about as well. Nothing ends by it: a question that is nearer to the
//! older one still finds that first.

use crate::slot::{SlotRef, StoreKind};
use crate::{Recalled, Slot, Tick, UnifiedMemory};

/// How much better, in cosine, the older of two such texts has to match to stay before the newer. Two
/// ends that a question does not know match it by chance, and differ by less.
const MARGIN: f32 = 0.06;

impl UnifiedMemory {
    /// Moves what corrects another right before it, where it is at most [`MARGIN`] behind.
    ///
    /// * `found`: best first
    pub(crate) fn newest_first(&self, found: &mut [Recalled]) {
        for place in 1..found.len() {
            let newer = &found[place];
            let said = self.said(newer);
            let corrected = found[..place].iter().position(|older| {
                older.cosine - newer.cosine <= MARGIN
                    && self.said(older) < said
                    && differ_at_their_ends(&older.text, &newer.text)
            });
            if let Some(corrected) = corrected {
                found[corrected..=place].rotate_right(1);
            }
        }
    }

    /// When something was said last.
    fn said(&self, hit: &Recalled) -> Tick {
        let of = |&at: &SlotRef| Some(said_at(at.store, self.slot(at)?));
        std::iter::once(&hit.slot).chain(&hit.also).filter_map(of).max().unwrap_or_default()
    }
}

/// When what a slot says was said last.
pub(crate) fn said_at(store: StoreKind, slot: &Slot) -> Tick {
    // A long-term slot that nothing was blended into was refreshed when it was taken over.
    let blended = store == StoreKind::Stm || slot.refreshed > slot.made;
    if blended { slot.refreshed } else { slot.validity.from }
}

/// The first two words, which texts that [`differ_at_their_ends`] share.
pub(crate) fn opening(text: &str) -> Option<[String; 2]> {
    let mut words = words(text).into_iter();
    Some([words.next()?, words.next()?])
}

/// Words in lower case, without punctuation.
fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

/// Whether two texts say the same of the same up to their ends: they begin with the same words, at
/// least two and no fewer than follow in either, and of what follows no word is in both.
pub(crate) fn differ_at_their_ends(a: &str, b: &str) -> bool {
    let (a, b) = (words(a), words(b));
    let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[same..], &b[same..]);
    let others = !a.is_empty() && !b.is_empty() && a.iter().all(|word| !b.contains(word));
    others && same >= 2.max(a.len()).max(b.len())
}

#[cfg(test)]
mod tests {
    use super::differ_at_their_ends;

    #[test]
    fn corrections_say_something_else_of_the_same() {
        for (a, b) in [
            ("The pet of Anna Grant is a cat.", "The pet of Anna Grant is a grey donkey."),
            ("Anna lives in Oslo.", "Anna lives in Lima"),
            ("The code is 4821.", "the code is 4812"),
        ] {
            assert!(differ_at_their_ends(a, b) && differ_at_their_ends(b, a), "{a} {b}");
        }
        for (a, b) in [
            ("The code of vault 7 is 4821.", "The code of vault 8 is 1134."),
            ("Anna lives in Oslo.", "Boris lives in Oslo."),
            ("Anna lives in Oslo.", "Anna went to the market and bought fish."),
            ("Anna lives in Oslo.", "Anna lives in Oslo, Norway."),
            ("Anna lives", "Anna lives"),
            ("", ""),
        ] {
            assert!(!differ_at_their_ends(a, b) && !differ_at_their_ends(b, a), "{a} {b}");
        }
    }
}
