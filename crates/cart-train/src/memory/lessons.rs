//! What is told, asked and answered.

/// What a memory says, as memory layers see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Remembered {
    /// For each memory layer what went into the layer beside it when the memory's spans were read,
    /// `[rows, hidden_size]`, flat.
    pub states: Vec<Vec<f32>>,
    /// Of each row, `[rows]`: 0 for what weighs as usual.
    pub bias: Vec<f32>,
}

impl Remembered {
    /// Tokens that it says.
    pub fn rows(&self) -> usize {
        self.bias.len()
    }
}

/// A memory, what is asked, and what is to be said.
#[derive(Clone, Debug, PartialEq)]
pub struct Lesson {
    /// What was told.
    pub memory: Remembered,
    /// Up to where the answer begins; one token or more.
    pub prompt: Vec<u32>,
    /// The answer, with what ends it.
    pub answer: Vec<u32>,
}

impl Lesson {
    /// Tokens that are read: all but the answer's last.
    pub(super) fn length(&self) -> usize {
        self.prompt.len() + self.answer.len() - 1
    }
}

/// Lessons side by side, filled up to one length.
pub(super) struct Batch {
    pub(super) rows: usize,
    pub(super) length: usize,
    /// `[rows, length]`.
    pub(super) tokens: Vec<u32>,
    /// `[rows, length]`.
    pub(super) targets: Vec<u32>,
    /// `[rows, length]`: 1 where the target is of an answer.
    pub(super) weights: Vec<f32>,
    /// Targets of answers.
    pub(super) count: usize,
}

pub(super) fn batched(lessons: &[&Lesson]) -> Batch {
    let length = lessons.iter().map(|lesson| lesson.length()).max().unwrap_or(0);
    let (mut tokens, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
    let mut count = 0;
    for lesson in lessons {
        let all: Vec<u32> = lesson.prompt.iter().chain(&lesson.answer).copied().collect();
        let filled = length - lesson.length();
        let fill = std::iter::repeat_n(all[0], filled);
        tokens.extend(all[..all.len() - 1].iter().copied().chain(fill.clone()));
        targets.extend(all[1..].iter().copied().chain(fill));
        weights.extend(std::iter::repeat_n(0.0, lesson.prompt.len() - 1));
        weights.extend(std::iter::repeat_n(1.0, lesson.answer.len()));
        weights.extend(std::iter::repeat_n(0.0, filled));
        count += lesson.answer.len();
    }
    Batch { rows: lessons.len(), length, tokens, targets, weights, count }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_and_nothing_else() {
        let lesson = |prompt: &[u32], answer: &[u32]| Lesson {
            memory: Remembered::default(),
            prompt: prompt.to_vec(),
            answer: answer.to_vec(),
        };
        let lessons = [lesson(&[1, 2], &[3, 4]), lesson(&[5], &[6])];
        let batch = batched(&lessons.iter().collect::<Vec<_>>());
        assert_eq!((batch.rows, batch.length, batch.count), (2, 3, 3));
        assert_eq!(batch.tokens, [1, 2, 3, 5, 5, 5]);
        assert_eq!(batch.targets, [2, 3, 4, 6, 5, 5]);
        assert_eq!(batch.weights, [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    }
}
