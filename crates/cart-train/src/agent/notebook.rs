//! What surprised a model while it was trained.

use cart_memory::config::StoreRules;
use cart_memory::{MemoryConfig, SurpriseStatistics, energy_from_surprise};
use serde::Serialize;
use serde_json::{Value, json};

/// Most tokens of a note, and of a span of the memory that is told it: a sentence in bytes.
pub const NOTE_TOKENS: usize = 160;

/// Fewest bytes of a note.
const LEAST: usize = 12;

/// A sentence that surprised.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// The step before which the model read it, which counts from 0.
    pub step: u64,
    /// Mean of −ln p over its tokens, in nats.
    pub surprise: f32,
    /// What that is worth by what had surprised before, 0 to 1.
    pub energy: f32,
    /// What it says.
    pub text: String,
}

/// Sentences that surprised a model while it was trained, by the rule that long-term memory takes
/// what surprises with (spec 30 §8, `store`). It holds no vectors: those of one step mean nothing to the
/// model of the next.
#[derive(Clone, Debug)]
pub struct Notebook {
    most: usize,
    rules: StoreRules,
    alpha: f32,
    statistics: SurpriseStatistics,
    report: NotebookReport,
    notes: Vec<Note>,
}

/// What was heard, and what of it was written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NotebookReport {
    /// Sentences that the model read.
    pub heard: u64,
    /// Of these, those that surprised enough.
    pub surprising: u64,
    /// Notes that had to make room for more surprising ones.
    pub outranked: u64,
}

impl Notebook {
    /// * `most`: notes, 1 or more
    pub fn new(most: usize) -> Self {
        let config = MemoryConfig::default();
        Self {
            most: most.max(1),
            rules: StoreRules::default(),
            alpha: config.surprise_alpha,
            statistics: SurpriseStatistics::new(&config),
            report: NotebookReport::default(),
            notes: Vec::new(),
        }
    }

    /// What is there, in the order in which it was read.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// What was heard.
    pub fn report(&self) -> NotebookReport {
        self.report
    }

    /// Hears a sentence. One that is there already is not written twice.
    ///
    /// * `surprise`: mean of −ln p over its tokens, in nats
    pub(super) fn hear(&mut self, step: u64, text: &str, surprise: f32) {
        let text = text.trim();
        if text.len() < LEAST || !text.contains(char::is_alphabetic) {
            return;
        }
        self.report.heard += 1;
        let fullness = self.notes.len() as f64 / self.most as f64;
        let needed = f64::from(self.rules.z_threshold)
            * (1.0 + f64::from(self.rules.capacity_pressure) * fullness);
        let is_surprising = self.statistics.z_score(surprise) > needed;
        let energy = energy_from_surprise(surprise, &self.statistics);
        self.statistics.update(surprise, self.alpha);
        if !is_surprising {
            return;
        }
        self.report.surprising += 1;
        if self.notes.iter().any(|note| note.text == text) {
            return;
        }
        self.notes.push(Note { step, surprise, energy, text: text.to_owned() });
        if self.notes.len() > self.most {
            self.outrank();
        }
    }

    /// Lets the least surprising note go; of equals the oldest.
    fn outrank(&mut self) {
        let least = (0..self.notes.len())
            .min_by(|&a, &b| self.notes[a].energy.total_cmp(&self.notes[b].energy));
        if let Some(least) = least {
            self.notes.remove(least);
            self.report.outranked += 1;
        }
    }

    /// All of it, bit for bit: numbers that are not whole as their bits.
    pub(super) fn to_value(&self) -> Value {
        let Self { statistics, report, .. } = self;
        let note = |note: &Note| {
            json!([note.step, note.surprise.to_bits(), note.energy.to_bits(), note.text])
        };
        json!({
            "count": statistics.count,
            "mean": statistics.mean.to_bits(),
            "variance": statistics.variance.to_bits(),
            "heard": report.heard,
            "surprising": report.surprising,
            "outranked": report.outranked,
            "notes": self.notes.iter().map(note).collect::<Vec<_>>(),
        })
    }

    /// Goes where another was. None where that is no notebook.
    pub(super) fn restore(&mut self, from: &Value) -> Option<()> {
        let whole = |name: &str| from[name].as_u64();
        let bits = |of: &Value| Some(f32::from_bits(u32::try_from(of.as_u64()?).ok()?));
        self.statistics = SurpriseStatistics {
            count: whole("count")?,
            mean: f64::from_bits(whole("mean")?),
            variance: f64::from_bits(whole("variance")?),
        };
        self.report = NotebookReport {
            heard: whole("heard")?,
            surprising: whole("surprising")?,
            outranked: whole("outranked")?,
        };
        let note = |of: &Value| {
            let (step, text) = (of[0].as_u64()?, of[3].as_str()?.to_owned());
            Some(Note { step, surprise: bits(&of[1])?, energy: bits(&of[2])?, text })
        };
        self.notes = from["notes"].as_array()?.iter().map(note).collect::<Option<_>>()?;
        Some(())
    }
}

/// Where sentences of a sequence are: from after the first end of one to the last one.
///
/// * `texts`: what each token says; none for one that ends a text
pub(super) fn sentences(texts: &[Option<String>]) -> Vec<std::ops::Range<usize>> {
    let mut ends = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        let next = texts.get(at + 1).and_then(Option::as_deref).unwrap_or("");
        let ends_here = text.as_deref().is_none_or(|text| {
            let stops = text.trim_end().ends_with(['.', '!', '?']);
            text.ends_with('\n') || stops && (text.ends_with(' ') || next.starts_with([' ', '\n']))
        });
        if ends_here {
            ends.push(at + 1);
        }
    }
    let spans = ends.array_windows().map(|&[start, end]| start..end);
    spans.filter(|span| span.len() <= NOTE_TOKENS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters(text: &str) -> Vec<Option<String>> {
        text.chars().map(|letter| (letter != '|').then(|| letter.to_string())).collect()
    }

    #[test]
    fn sentences_are_whole_ones() {
        let text = "ot it. One is 3.5 long. Two!\nThree|Four? and";
        let found = sentences(&letters(text));
        let said: Vec<&str> = found.into_iter().map(|span| &text[span]).collect();
        assert_eq!(said, [" One is 3.5 long.", " Two!", "\n", "Three|", "Four?"]);
        assert!(sentences(&letters(&format!("a. {}. b", "x".repeat(NOTE_TOKENS)))).is_empty());
    }

    #[test]
    fn what_surprises_more_than_usual_is_noted_once_and_the_most_surprising_stay() {
        let mut book = Notebook::new(3);
        // From the prior, 3 ± 1.5.
        book.hear(0, "nothing unusual here", 3.1);
        book.hear(1, "  who expects the comet  ", 9.0);
        book.hear(1, "who expects the comet", 12.0);
        book.hear(2, "short", 30.0);
        book.hear(2, "1234 5678 9012 3456", 30.0);
        assert_eq!(book.report(), NotebookReport { heard: 3, surprising: 2, outranked: 0 });
        let [note] = book.notes() else { panic!("{:?}", book.notes()) };
        assert_eq!((note.step, note.text.as_str()), (1, "who expects the comet"));
        assert!(note.energy > 0.9, "{note:?}");
        (0..6).for_each(|at| {
            book.hear(3 + at, &format!("something of kind {at}"), 40.0 + (at * at * 40) as f32);
        });
        assert_eq!(book.notes().len(), 3);
        assert!(book.report().outranked > 0);
        assert!(book.notes().is_sorted_by_key(|note| note.step));

        let kept = book.to_value();
        let mut again = Notebook::new(3);
        again.restore(&serde_json::from_str(&kept.to_string()).unwrap()).unwrap();
        assert_eq!((again.notes(), again.report()), (book.notes(), book.report()));
        for book in [&mut book, &mut again] {
            book.hear(20, "and the other one, too", 1e4);
        }
        assert_eq!(again.to_value(), book.to_value());
        assert_eq!(Notebook::new(3).restore(&json!({"count": 3})), None);
    }
}
