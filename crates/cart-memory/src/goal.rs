//! What the agent wants: a slow average of what it found worth keeping.

use crate::MemoryConfig;
use crate::event::MemoryEvent;
use crate::vector;

/// Steps after which the goal's rate has fallen to 1/e.
const RATE_STEPS: f64 = 1000.0;

/// A vector in the normalized space, 0 at birth.
///
/// Each consolidated entry pulls it: `goal ← (1 − r) · goal + r · unit(entry)` with
/// `r = goal_rate · exp(−step / 1000)`. Its length says how much the entries agree; because it
/// begins at 0 and is cut at `goal_cap`, no single entry can turn it all the way at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Goal {
    pub(crate) vector: Vec<f32>,
    pub(crate) steps: u64,
    /// Where the prompt points, a unit vector.
    pub(crate) prompt: Option<Vec<f32>>,
}

impl Goal {
    pub(crate) fn new(dim: usize) -> Self {
        Self { vector: vec![0.0; dim], steps: 0, prompt: None }
    }

    /// The vector, `[dim]`, in the normalized space; its length is at most `goal_cap`.
    pub fn vector(&self) -> &[f32] {
        &self.vector
    }

    /// Entries that have pulled it.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Its length.
    pub fn norm(&self) -> f32 {
        vector::norm(&self.vector) as f32
    }

    /// Whether nothing has pulled it yet.
    pub fn is_zero(&self) -> bool {
        self.vector.iter().all(|&value| value == 0.0)
    }

    /// Where the prompt points, `[dim]`, of length 1; none where nothing was said about it.
    pub fn prompt(&self) -> Option<&[f32]> {
        self.prompt.as_deref()
    }

    /// How far the next entry moves it, before the self-diagnostic: `goal_rate · exp(−steps / 1000)`.
    pub fn next_rate(&self, config: &MemoryConfig) -> f32 {
        self.rate(config) as f32
    }

    fn rate(&self, config: &MemoryConfig) -> f64 {
        f64::from(config.goal_rate) * libm::exp(-(self.steps as f64) / RATE_STEPS)
    }

    /// One step towards a unit vector, `[dim]`. The prompt's direction is blended in before it.
    ///
    /// * `confidence`: 0 to 1, of the self-diagnostic, where it is on
    pub(crate) fn pull(
        &mut self,
        unit: &[f32],
        config: &MemoryConfig,
        confidence: Option<f32>,
    ) -> MemoryEvent {
        let mut rate = self.rate(config);
        if let (Some(rules), Some(confidence)) = (&config.diagnostic, confidence) {
            let floor = f64::from(rules.floor);
            rate *= floor + (1.0 - floor) * f64::from(confidence);
        }
        let rate = rate as f32;
        let before = self.vector.clone();
        if let Some(prompt) = &self.prompt {
            vector::blend(&mut self.vector, prompt, config.goal_prompt_blend);
        }
        vector::blend(&mut self.vector, unit, rate);
        self.cut(config.goal_cap);
        self.steps += 1;
        let drift = cosine(&before, &self.vector);
        MemoryEvent::GoalMoved { rate, norm: self.norm(), drift, confidence }
    }

    pub(crate) fn cut(&mut self, cap: f32) {
        let norm = vector::norm(&self.vector);
        if norm <= f64::from(cap) {
            return;
        }
        let factor = f64::from(cap) / norm;
        for value in &mut self.vector {
            *value = (f64::from(*value) * factor) as f32;
        }
    }
}

fn cosine(a: &[f32], b: &[f32]) -> Option<f32> {
    let lengths = vector::norm(a) * vector::norm(b);
    let product: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    (lengths > 0.0).then(|| (product / lengths).clamp(-1.0, 1.0) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(goal_rate: f32, goal_cap: f32) -> MemoryConfig {
        MemoryConfig { goal_rate, goal_cap, ..MemoryConfig::default() }
    }

    #[test]
    fn steps_by_hand() {
        let mut goal = Goal::new(2);
        assert!(goal.is_zero());
        let first = goal.pull(&[1.0, 0.0], &config(0.5, 1.0), None);
        assert_eq!(goal.vector(), [0.5, 0.0]);
        let moved = MemoryEvent::GoalMoved { rate: 0.5, norm: 0.5, drift: None, confidence: None };
        assert_eq!(first, moved);

        // The rate at step 1 is ½ · e^−0.001 = 0.49950.
        let second = goal.pull(&[0.0, 1.0], &config(0.5, 1.0), None);
        let MemoryEvent::GoalMoved { rate, drift: Some(drift), .. } = second else {
            panic!("{second:?}")
        };
        assert!((rate - 0.499_500_25).abs() < 1e-7);
        assert!((goal.vector()[0] - 0.250_249_9).abs() < 1e-6);
        assert!((goal.vector()[1] - 0.499_500_25).abs() < 1e-6);
        // tan = 0.4995 / 0.25025, so the cosine is 1 / √(1 + 1.99601²).
        assert!((drift - 0.447_928).abs() < 1e-4, "{drift}");
    }

    #[test]
    fn the_cap_holds_however_long_one_direction_pulls() {
        let mut goal = Goal::new(2);
        for _ in 0..500 {
            goal.pull(&[0.6, 0.8], &config(0.3, 0.5), None);
            assert!(goal.norm() <= 0.5 + 1e-6);
        }
        assert!((goal.norm() - 0.5).abs() < 1e-6);
    }
}
