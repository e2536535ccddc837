//! Floats as steps from those of a base: how many representable values lie between.
//!
//! A small change of a small weight is many steps, of a large one few. So the length of a number of steps
//! is coded by frequencies that depend on the exponent of the base.

use super::bits::{BitReader, BitWriter};
use super::cost::{self, ONE_BIT};
use super::error::CodecError;
use super::float::{FloatLayout, for_word};
use super::frequencies::{Frequencies, SYMBOLS};
use super::rans::{self, Coded, Coding, Slots};
use super::varint;
use super::word::{Bf16, F16, F32, F64, Word};

/// Groups of exponents that have frequencies of their own.
const CONTEXTS: usize = 8;
/// An exponent counts as one of the greatest if no more than one of so many elements has a greater one.
const RARE: u32 = 64;

/// The token of a number of steps: itself under 8, then 4 times its length in bits less 8, and its first
/// two bits after the leading one. Without a branch: it would be as good as random.
#[inline(always)]
fn token(steps: u64) -> u8 {
    // Those under 4 take the way of 4 to 7, and 4 off again.
    let small = u64::from(steps < 4) * 4;
    let wide = steps + small;
    let length = wide.ilog2();
    let leading = (wide >> (length - 2)) & 3;
    (u64::from(length - 1) * 4 + leading - small) as u8
}

/// Bits that follow a token: what it leaves open.
#[inline(always)]
fn extra(token: u8) -> u32 {
    (u32::from(token) / 4).saturating_sub(1)
}

/// The number of steps of a token and the bits that follow it.
#[inline(always)]
fn steps(token: u8, low: u64) -> u64 {
    let leading = u64::from(token % 4) | u64::from(token >= 4) << 2;
    leading << extra(token) | low
}

/// Which frequencies go with an exponent of the base.
#[inline(always)]
fn context(greatest: u64, exponent: u64) -> u8 {
    greatest.saturating_sub(exponent).min(CONTEXTS as u64 - 1) as u8
}

/// Room to work in.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    greatest: u64,
    counts: Vec<[u32; SYMBOLS]>,
    tokens: Vec<u8>,
    contexts: Vec<u8>,
    words: Vec<u16>,
    bits: BitWriter,
    /// Bits that follow tokens.
    extras: u64,
}

impl Buffers {
    /// Finds the tokens; gives what packing takes, in bytes.
    ///
    /// * `base`: as long as `bytes`
    pub(super) fn look(&mut self, layout: FloatLayout, bytes: &[u8], base: &[u8]) -> u64 {
        for_word!(layout, W => self.look_at::<W>(bytes, base))
    }

    /// Packs what [`Buffers::look`] has just looked at.
    pub(super) fn pack(
        &mut self,
        layout: FloatLayout,
        bytes: &[u8],
        base: &[u8],
        out: &mut Vec<u8>,
    ) {
        for_word!(layout, W => self.pack_words::<W>(bytes, base, out));
    }

    /// Unpacks.
    pub(super) fn unpack(
        &mut self,
        layout: FloatLayout,
        packed: &[u8],
        base: &[u8],
        bytes: &mut [u8],
    ) -> Result<(), CodecError> {
        for_word!(layout, W => self.unpack_words::<W>(packed, base, bytes))
    }

    /// Groups the exponents of the base.
    ///
    /// * `greatest`: what to count from; found if not given
    fn group<W: Word>(&mut self, base: &[u8], greatest: Option<u64>) {
        let words = || base.chunks_exact(W::BYTES).map(|word| W::exponent(W::load(word)));
        self.greatest = greatest.unwrap_or_else(|| {
            let mut counts = vec![0_u32; 1 << W::EXPONENT];
            words().for_each(|exponent| counts[exponent as usize] += 1);
            let rare = (base.len() / W::BYTES) as u32 / RARE;
            let mut above = 0;
            let found = counts.iter().rposition(|&count| {
                above += count;
                above > rare
            });
            found.unwrap_or_default() as u64
        });
        let greatest = self.greatest;
        self.contexts.clear();
        self.contexts.extend(words().map(|exponent| context(greatest, exponent)));
    }

    fn look_at<W: Word>(&mut self, bytes: &[u8], base: &[u8]) -> u64 {
        self.group::<W>(base, None);
        self.counts.clear();
        self.counts.resize(CONTEXTS, [0; SYMBOLS]);
        self.tokens.clear();
        let pairs = bytes.chunks_exact(W::BYTES).zip(base.chunks_exact(W::BYTES));
        self.tokens.extend(pairs.map(|(word, base)| token(W::steps(W::load(base), W::load(word)))));
        for (&token, &context) in self.tokens.iter().zip(&self.contexts) {
            self.counts[usize::from(context)][usize::from(token)] += 1;
        }
        let bits =
            |(token, &count): (usize, &u32)| u64::from(extra(token as u8)) * u64::from(count);
        self.extras =
            self.counts.iter().flat_map(|counts| counts.iter().enumerate()).map(bits).sum();
        let of_context = |counts: &[u32; SYMBOLS]| {
            let used = counts.iter().filter(|&&count| count > 0).count() as u64;
            cost::of_counts(*counts) / ONE_BIT + 24 * used
        };
        let coded: u64 = self.counts.iter().map(of_context).sum();
        (coded + self.extras) / 8 + rans::OVERHEAD
    }

    fn pack_words<W: Word>(&mut self, bytes: &[u8], base: &[u8], out: &mut Vec<u8>) {
        varint::put(self.greatest, out);
        let mut tables = vec![[Coding::default(); SYMBOLS]; CONTEXTS];
        for (table, counts) in tables.iter_mut().zip(&self.counts) {
            let labels: Vec<u16> =
                (0..SYMBOLS as u16).filter(|&at| counts[usize::from(at)] > 0).collect();
            let used: Vec<u32> = labels.iter().map(|&label| counts[usize::from(label)]).collect();
            let frequencies = Frequencies::of(&used);
            frequencies.write(&labels, out);
            for (&label, coding) in labels.iter().zip(Coding::table(&frequencies)) {
                table[usize::from(label)] = coding;
            }
        }
        let (tokens, contexts) = (&self.tokens, &self.contexts);
        let coding = |at: usize| &tables[usize::from(contexts[at])][usize::from(tokens[at])];
        rans::encode(tokens.len(), coding, &mut self.words, out);
        self.bits.begin(self.extras);
        let pairs = bytes.chunks_exact(W::BYTES).zip(base.chunks_exact(W::BYTES));
        for (&token, (word, base)) in tokens.iter().zip(pairs) {
            let bits = extra(token);
            let low = W::steps(W::load(base), W::load(word)) & ((1 << bits) - 1);
            if W::BITS > 32 { self.bits.put_long(low, bits) } else { self.bits.put(low, bits) }
        }
        out.extend_from_slice(self.bits.finish());
    }

    fn unpack_words<W: Word>(
        &mut self,
        mut packed: &[u8],
        base: &[u8],
        bytes: &mut [u8],
    ) -> Result<(), CodecError> {
        let greatest = varint::take(&mut packed)?;
        self.group::<W>(base, Some(greatest));
        let mut tables: Vec<Option<Box<Slots>>> = Vec::new();
        let mut labels = [[0_u8; SYMBOLS]; CONTEXTS];
        for names in &mut labels {
            let (frequencies, read) = Frequencies::read(&mut packed)?;
            for (name, &label) in names.iter_mut().zip(&read) {
                *name = u8::try_from(label).map_err(|_| CodecError::Frequencies)?;
            }
            tables.push((frequencies.len() > 0).then(|| rans::slots(&frequencies)));
        }
        let elements = bytes.len() / W::BYTES;
        let coded = Coded::take(&mut packed, elements)?;
        self.tokens.resize(elements, 0);
        let contexts = &self.contexts;
        let slots = |at: usize| tables[usize::from(contexts[at])].as_deref();
        coded.decode(slots, &mut self.tokens)?;
        let mut reader = BitReader::new(packed);
        let coded = self.tokens.iter().zip(contexts);
        let words = bytes.chunks_exact_mut(W::BYTES).zip(base.chunks_exact(W::BYTES));
        for ((word, base), (&symbol, &context)) in words.zip(coded) {
            let token = labels[usize::from(context)][usize::from(symbol)];
            let bits = extra(token);
            if bits >= W::BITS - 2 {
                return Err(CodecError::Value);
            }
            let low = if W::BITS > 32 { reader.take_long(bits) } else { reader.take(bits) };
            W::store(W::after_steps(W::load(base), steps(token, low)), word);
        }
        reader.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_what_follows_them_are_the_number() {
        let powers = (0..64).flat_map(|bit| [1_u64 << bit, (1 << bit) - 1, (1 << bit) + 1]);
        for number in (0..300).chain(powers).chain([u64::MAX]) {
            let token = token(number);
            let low = number & ((1 << extra(token)) - 1);
            assert_eq!(steps(token, low), number);
        }
        assert_eq!(token(u64::MAX), 251);
    }
}
