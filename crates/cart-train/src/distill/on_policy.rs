//! A student that goes on from the data itself, for its teacher to say what it would have said
//! (Agarwal et al., 2024).

use cart_nn::LogitsFor;
use cart_nn::graph::{Graph, GraphRun};
use cart_nn::logits;

use crate::chance::Chance;
use crate::error::TrainError;

/// What chance in here is for: which sequences the student goes on from, and what it says.
const CHOICE: u64 = 4;
const TOKENS: u64 = 5;

/// Whether the student goes on from each sequence of a part.
///
/// * `part`: counted from the beginning of the run
pub(super) fn chosen(seed: u64, part: u64, rows: usize, share: f64) -> Vec<bool> {
    let mut chance = Chance::new(seed, &[CHOICE, part]);
    (0..rows).map(|_| chance.unit() < share).collect()
}

/// Goes on from the beginnings of sequences, each with numbers of its own: what a sequence becomes
/// follows from the seed, its place and the student's weights.
///
/// * `rows`: the places in the part of `sequences`, all of one length
/// * `prompt`: tokens that stay
pub(super) fn go_on(
    student: &Graph,
    sequences: &mut [Vec<u32>],
    prompt: usize,
    (seed, part, rows): (u64, u64, &[usize]),
) -> Result<(), TrainError> {
    let Some(len) = sequences.first().map(Vec::len) else { return Ok(()) };
    let mut chances: Vec<Chance> =
        rows.iter().map(|&row| Chance::new(seed, &[TOKENS, part, row as u64])).collect();
    let mut state = student.new_state(sequences.len());
    let mut read = 0;
    for at in prompt..len {
        let next = sequences.iter().flat_map(|sequence| &sequence[read..at]).copied();
        let next: Vec<u32> = next.collect();
        let run = GraphRun { state: &mut state, tokens: &next, taps: None };
        let found = student.forward(&mut [run], LogitsFor::Last)?.remove(0);
        let found: Vec<Vec<f32>> =
            found.expect("logits were asked for").flatten(0, 1)?.to_vec2()?;
        for ((sequence, logits), chance) in sequences.iter_mut().zip(&found).zip(&mut chances) {
            sequence[at] = drawn(logits, chance);
        }
        read = at;
    }
    Ok(())
}

/// A token by its probability.
fn drawn(of: &[f32], chance: &mut Chance) -> u32 {
    let most = logits::largest(of);
    let mut left = chance.unit() * logits::sum_exp(of, most, 1.0);
    for (token, &logit) in of.iter().enumerate() {
        left -= f64::from(logit - most).exp();
        if left < 0.0 {
            return token as u32;
        }
    }
    // What rounding left over belongs to the likeliest.
    of.iter().position(|&logit| logit == most).unwrap_or(0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_drawn_by_their_probability() {
        let of = [1.0_f32, f32::NEG_INFINITY, 2.0, 0.0];
        let mut chance = Chance::new(3, &[]);
        let mut counts = [0.0; 4];
        (0..20_000).for_each(|_| counts[drawn(&of, &mut chance) as usize] += 1.0 / 20_000.0);
        let all: f64 = of.iter().map(|&x| f64::from(x).exp()).sum();
        for (count, &logit) in counts.iter().zip(&of) {
            assert!((count - f64::from(logit).exp() / all).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn a_share_of_the_sequences_is_chosen() {
        let all = |share: f64| (0..500).flat_map(|part| chosen(1, part, 4, share)).collect();
        let all: [Vec<bool>; 3] = [0.0, 0.3, 1.0].map(all);
        let [none, some, every] = all.map(|rows| rows.iter().filter(|&&row| row).count());
        assert_eq!((none, every), (0, 2000));
        assert!((500..700).contains(&some), "{some}");
    }
}
