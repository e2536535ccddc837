//! Asymmetric numeral systems (J. Duda, "Asymmetric numeral systems: entropy coding combining speed of
//! Huffman coding with compression rate of arithmetic coding", arXiv:1311.2540; the range variant, F.
//! Giesen, "Interleaved entropy coders", arXiv:1402.3392): a symbol of frequency *f* of 4,096 takes
//! log₂(4,096 / *f*) bits.
//!
//! Symbol *i* goes through state *i* mod 32, so that a processor works on several at a time. States are
//! from 2¹⁶ on and give off 16 bits where they would outgrow 32.

use super::error::CodecError;
use super::frequencies::{Frequencies, SCALE, WHOLE};
use super::varint::{self, take_bytes};

/// States.
const LANES: usize = 32;
/// The least that a state is between two symbols, and what it begins with.
const LOW: u32 = 1 << 16;

/// Bytes of coded symbols beside their words: the states, and the number of words.
pub(super) const OVERHEAD: u64 = 4 * LANES as u64 + 3;

/// How a symbol changes a state: the division by its frequency as a multiplication.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Coding {
    reciprocal: u64,
    start: u32,
    frequency: u16,
    complement: u16,
}

/// Bits of the fraction of a reciprocal. A state that is divided by *f* is under 2²⁰ *f*, and *f* is at most
/// 2¹², so 44 bits give the quotient exactly, and the product fits 64.
const FRACTION: u32 = 44;

impl Coding {
    fn of((start, frequency): (u32, u32)) -> Self {
        let reciprocal = (1_u64 << FRACTION).div_ceil(u64::from(frequency));
        let complement = (WHOLE - frequency) as u16;
        Self { reciprocal, start, frequency: frequency as u16, complement }
    }

    /// Codings of all symbols.
    pub(super) fn table(frequencies: &Frequencies) -> Vec<Self> {
        frequencies.slots().map(Self::of).collect()
    }
}

/// What each of the 4,096 slots stands for: bits 0 to 7 the symbol, 8 to 19 the slot's place in the
/// symbol, from 20 on the frequency less 1.
pub(super) type Slots = [u32; WHOLE as usize];

/// The slots of a table that is not empty.
pub(super) fn slots(frequencies: &Frequencies) -> Box<Slots> {
    let mut slots = Vec::with_capacity(WHOLE as usize);
    for (symbol, (_, frequency)) in frequencies.slots().enumerate() {
        slots.extend((0..frequency).map(|at| (frequency - 1) << 20 | at << 8 | symbol as u32));
    }
    slots.into_boxed_slice().try_into().expect("frequencies add up to 4,096")
}

/// Codes `count` symbols.
///
/// * `coding`: of the symbol with this index
/// * `words`: room to work in
#[inline(always)]
pub(super) fn encode<'a>(
    count: usize,
    coding: impl Fn(usize) -> &'a Coding,
    words: &mut Vec<u16>,
    out: &mut Vec<u8>,
) {
    // Every symbol gives off one word at most. The first is never part of the result.
    if words.len() < count + 1 {
        words.resize(count + 1, 0);
    }
    let mut at = count + 1;
    let mut states = [LOW; LANES];
    let mut step = |index: usize, state: &mut u32| {
        let coding = coding(index);
        // No branch: whether a word is given off is as good as random.
        let gives = u32::from(*state >> (32 - SCALE) >= u32::from(coding.frequency));
        words[at - 1] = *state as u16;
        at -= gives as usize;
        let kept = *state >> (16 * gives);
        let quotient = ((u64::from(kept) * coding.reciprocal) >> FRACTION) as u32;
        *state = kept + coding.start + quotient * u32::from(coding.complement);
    };
    let whole = count / LANES * LANES;
    for index in (whole..count).rev() {
        step(index, &mut states[index % LANES]);
    }
    for group in (0..whole / LANES).rev() {
        for lane in (0..LANES).rev() {
            step(group * LANES + lane, &mut states[lane]);
        }
    }
    let words = &words[at..=count];
    varint::put(words.len() as u64, out);
    out.extend(states.iter().flat_map(|state| state.to_le_bytes()));
    out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

/// Coded symbols, to be read.
pub(super) struct Coded<'a> {
    states: [u32; LANES],
    words: &'a [[u8; 2]],
}

impl<'a> Coded<'a> {
    /// Takes what [`encode`] wrote for at most `count` symbols off the front.
    pub(super) fn take(bytes: &mut &'a [u8], count: usize) -> Result<Self, CodecError> {
        let len = varint::take(bytes)?;
        if len > count as u64 {
            return Err(CodecError::Symbols);
        }
        let (states, _) = take_bytes(bytes, 4 * LANES)?.as_chunks::<4>();
        let states = std::array::from_fn(|lane| u32::from_le_bytes(states[lane]));
        let (words, _) = take_bytes(bytes, 2 * len as usize)?.as_chunks::<2>();
        Ok(Self { states, words })
    }

    /// Reads as many symbols as `symbols` has room for.
    ///
    /// * `slots`: by which the symbol with this index was coded
    pub(super) fn decode<'t>(
        self,
        slots: impl Fn(usize) -> Option<&'t Slots>,
        symbols: &mut [u8],
    ) -> Result<(), CodecError> {
        let Self { mut states, words } = self;
        let mut at = 0;
        let count = symbols.len();
        let mut index = 0;
        // As long as words are left for a whole group, none is asked whether it is there.
        while index + LANES <= count
            && let Some(near) = words.get(at..at + LANES)
        {
            let near: &[[u8; 2]; LANES] = near.try_into().expect("that many were taken");
            let group: &mut [u8; LANES] =
                (&mut symbols[index..index + LANES]).try_into().expect("that many are left");
            let mut used = 0;
            for lane in 0..LANES {
                let slots = slots(index + lane).ok_or(CodecError::Frequencies)?;
                let (symbol, state) = advance(slots, states[lane]);
                // No branch: whether a word is needed is as good as random.
                let needs = u32::from(state < LOW);
                let word = u32::from(u16::from_le_bytes(near[used % LANES]));
                states[lane] = state << (16 * needs) | (word & needs.wrapping_neg());
                used += needs as usize;
                group[lane] = symbol;
            }
            at += used;
            index += LANES;
        }
        for (symbol, index) in symbols[index..].iter_mut().zip(index..) {
            let slots = slots(index).ok_or(CodecError::Frequencies)?;
            let state = &mut states[index % LANES];
            (*symbol, *state) = advance(slots, *state);
            if *state < LOW {
                let word = words.get(at).ok_or(CodecError::Symbols)?;
                *state = *state << 16 | u32::from(u16::from_le_bytes(*word));
                at += 1;
            }
        }
        if at != words.len() || states != [LOW; LANES] {
            return Err(CodecError::Symbols);
        }
        Ok(())
    }
}

/// The symbol that a state holds, and the state without it.
#[inline(always)]
fn advance(slots: &Slots, state: u32) -> (u8, u32) {
    let slot = slots[(state % WHOLE) as usize];
    let frequency = (slot >> 20) + 1;
    // A damaged state may leave the range of valid ones; it must only not panic.
    let rest = frequency.wrapping_mul(state >> SCALE).wrapping_add((slot >> 8) % WHOLE);
    (slot as u8, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(counts: &[u32], symbols: &[u8]) -> usize {
        let frequencies = Frequencies::of(counts);
        let table = Coding::table(&frequencies);
        let mut out = Vec::new();
        encode(symbols.len(), |at| &table[usize::from(symbols[at])], &mut Vec::new(), &mut out);
        let mut rest = out.as_slice();
        let coded = Coded::take(&mut rest, symbols.len()).unwrap();
        assert!(rest.is_empty());
        let slots = slots(&frequencies);
        let mut back = vec![0; symbols.len()];
        coded.decode(|_| Some(&slots), &mut back).unwrap();
        assert_eq!(back, symbols);
        out.len()
    }

    #[test]
    fn symbols_come_back_whatever_their_frequencies() {
        for count in [0, 1, 15, 16, 17, 1000] {
            let symbols: Vec<u8> = (0..count).map(|at| (at * at % 7) as u8).collect();
            round_trip(&[1; 7], &symbols);
            round_trip(&[1, 4000, 1, 90, 2, 1, 1], &symbols);
            round_trip(&[5], &vec![0; count]);
        }
        let all: Vec<u8> = (0..=255).cycle().take(5000).collect();
        round_trip(&[1; 256], &all);
    }

    #[test]
    fn frequent_symbols_take_little() {
        let symbols: Vec<u8> = (0..65_536).map(|at| u8::from(at % 16 == 0)).collect();
        let len = round_trip(&[15, 1], &symbols);
        // H(1/16) = 0.337 bits.
        assert!((2760..2860).contains(&len), "{len}");
    }

    #[test]
    fn what_was_not_coded_so_is_refused() {
        let frequencies = Frequencies::of(&[3, 2]);
        let table = Coding::table(&frequencies);
        let symbols: Vec<u8> = (0..100).map(|at| (at % 2) as u8).collect();
        let mut out = Vec::new();
        encode(100, |at| &table[usize::from(symbols[at])], &mut Vec::new(), &mut out);
        let slots = slots(&frequencies);
        for at in 0..out.len() {
            let mut damaged = out.clone();
            damaged[at] ^= 0x41;
            let mut back = vec![0; 100];
            let coded = Coded::take(&mut damaged.as_slice(), 100);
            let read = coded.and_then(|coded| coded.decode(|_| Some(&slots), &mut back));
            assert!(read.is_err(), "byte {at}");
        }
    }
}
