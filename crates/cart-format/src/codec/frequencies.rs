//! How often symbols occur, in parts of 4,096.

use super::error::CodecError;
use super::varint;

/// Bits of a frequency's unit.
pub(super) const SCALE: u32 = 12;
/// What frequencies add up to.
pub(super) const WHOLE: u32 = 1 << SCALE;
/// Most symbols.
pub(super) const SYMBOLS: usize = 256;

/// Frequencies of symbols 0 and on, each over 0, together [`WHOLE`]; or of none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Frequencies(Vec<u16>);

impl Frequencies {
    /// Frequencies in proportion to counts, each of which is over 0; at most [`SYMBOLS`].
    pub(super) fn of(counts: &[u32]) -> Self {
        let total: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        if total == 0 {
            return Self::default();
        }
        let share = |&count: &u32| {
            let exact = u64::from(count) * u64::from(WHOLE);
            ((exact + total / 2) / total).max(1) as u16
        };
        let mut shares: Vec<u16> = counts.iter().map(share).collect();
        let mut sum: i64 = shares.iter().map(|&share| i64::from(share)).sum();
        // What rounding left over goes to, or comes from, the most frequent, which feel it least.
        while sum != i64::from(WHOLE) {
            let most = (0..shares.len()).max_by_key(|&at| (shares[at], std::cmp::Reverse(at)));
            let most = most.expect("there are counts");
            let room = i64::from(shares[most] - 1).min(i64::from(shares[most] / 8 + 1));
            let step = (i64::from(WHOLE) - sum).clamp(-room, i64::from(WHOLE));
            shares[most] = (i64::from(shares[most]) + step) as u16;
            sum += step;
        }
        Self(shares)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Each symbol's first slot and frequency.
    pub(super) fn slots(&self) -> impl Iterator<Item = (u32, u32)> {
        self.0.iter().scan(0, |next, &frequency| {
            let start = *next;
            *next += u32::from(frequency);
            Some((start, u32::from(frequency)))
        })
    }

    /// * `labels`: what each symbol stands for, growing
    pub(super) fn write(&self, labels: &[u16], out: &mut Vec<u8>) {
        varint::put(self.0.len() as u64, out);
        let mut next = 0;
        for (&label, &frequency) in labels.iter().zip(&self.0) {
            varint::put(u64::from(label - next), out);
            varint::put(u64::from(frequency), out);
            next = label.wrapping_add(1);
        }
    }

    /// Reads frequencies and what their symbols stand for.
    pub(super) fn read(bytes: &mut &[u8]) -> Result<(Self, Vec<u16>), CodecError> {
        let count = varint::take(bytes)?;
        if count > SYMBOLS as u64 {
            return Err(CodecError::Frequencies);
        }
        let (mut shares, mut labels) = (Vec::new(), Vec::new());
        let (mut sum, mut next) = (0, 0);
        for _ in 0..count {
            let label = next + varint::take(bytes)?;
            let share = varint::take(bytes)?;
            sum += share;
            next = label + 1;
            if label > u64::from(u16::MAX) || share == 0 || sum > u64::from(WHOLE) {
                return Err(CodecError::Frequencies);
            }
            labels.push(label as u16);
            shares.push(share as u16);
        }
        if sum != u64::from(WHOLE) && count > 0 {
            return Err(CodecError::Frequencies);
        }
        Ok((Self(shares), labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_nothing_that_occurs_gets_none() {
        for counts in [
            vec![1],
            vec![1, u32::MAX],
            vec![1; 256],
            vec![3, 3, 3],
            (1..=256).map(|n| n * n * n).collect(),
            (0..256).map(|n| if n == 7 { 1 << 30 } else { 1 }).collect(),
        ] {
            let shares = Frequencies::of(&counts);
            assert_eq!(shares.slots().map(|(_, share)| share).sum::<u32>(), WHOLE);
            assert!(shares.slots().all(|(_, share)| share > 0));
            let labels: Vec<u16> = (0..counts.len() as u16).map(|at| at * 200 + 3).collect();
            let mut bytes = Vec::new();
            shares.write(&labels, &mut bytes);
            let mut rest = bytes.as_slice();
            assert_eq!(Frequencies::read(&mut rest).unwrap(), (shares, labels));
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn tables_that_do_not_add_up_are_refused() {
        for bytes in [&[1, 0, 5][..], &[2, 0, 0, 0, 5], &[129, 3], &[1, 0, 129, 32]] {
            assert!(Frequencies::read(&mut &*bytes).is_err(), "{bytes:?}");
        }
    }
}
