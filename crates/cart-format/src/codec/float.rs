//! Floats alone: the exponent and the first bits of the mantissa by their frequencies, the sign and the
//! rest of the mantissa as they are.

use super::bits::{octet_bytes, pack_octets, unpack_octets};
use super::cost::{self, ONE_BIT};
use super::error::CodecError;
use super::frequencies::{Frequencies, SYMBOLS};
use super::plane;
use super::rans::{self, Coded, Coding};
use super::varint::{self, take_bytes};
use super::word::{Bf16, F16, F32, F64, Word};
use crate::dtype::DType;

/// A float type that can be packed so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FloatLayout {
    Bf16,
    F16,
    F32,
    F64,
}

impl FloatLayout {
    /// The floats that elements are made of.
    pub(super) fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::BF16 => Some(Self::Bf16),
            DType::F16 => Some(Self::F16),
            DType::F32 | DType::C64 => Some(Self::F32),
            DType::F64 => Some(Self::F64),
            _ => None,
        }
    }
}

/// Runs a generic function for the word of a layout.
macro_rules! for_word {
    ($layout:expr, $word:ident => $work:expr) => {
        match $layout {
            FloatLayout::Bf16 => {
                type $word = Bf16;
                $work
            }
            FloatLayout::F16 => {
                type $word = F16;
                $work
            }
            FloatLayout::F32 => {
                type $word = F32;
                $work
            }
            FloatLayout::F64 => {
                type $word = F64;
                $work
            }
        }
    };
}
pub(super) use for_word;

/// How a word is cut: `[sign | token | rest]`, of which the sign goes with the rest.
trait Cut: Word {
    /// First bits of the mantissa that are coded with the exponent: near a bell curve they are not even.
    const LEADING: u32 = if Self::EXPONENT < 8 { 3 } else { 2 };
    /// Bits of a token.
    const TOKEN: u32 = Self::EXPONENT + Self::LEADING;
    /// Tokens that there are.
    const TOKENS: usize = 1 << Self::TOKEN;
    /// Bits of mantissa that are left.
    const LEFT: u32 = Self::BITS - 1 - Self::TOKEN;
    /// The rest: sign and what is left of the mantissa, as whole bytes and some bits above.
    const REST_BYTES: usize = (Self::LEFT as usize + 1) / 8;
    const REST_BITS: u32 = (Self::LEFT + 1) % 8;

    #[inline(always)]
    fn token(value: u64) -> usize {
        (value >> Self::LEFT) as usize % Self::TOKENS
    }

    #[inline(always)]
    fn rest(value: u64) -> u64 {
        (value & ((1 << Self::LEFT) - 1)) | (value >> (Self::BITS - 1)) << Self::LEFT
    }

    #[inline(always)]
    fn join(token: u64, rest: u64) -> u64 {
        let sign = rest >> Self::LEFT;
        sign << (Self::BITS - 1) | token << Self::LEFT | (rest & ((1 << Self::LEFT) - 1))
    }
}

impl<W: Word> Cut for W {}

/// Room to work in.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    counts: Vec<u32>,
    symbols: Vec<u8>,
    plane: Vec<u8>,
    words: Vec<u16>,
}

impl Buffers {
    /// Counts the tokens; gives what packing takes, in bytes.
    pub(super) fn look(&mut self, layout: FloatLayout, bytes: &[u8]) -> u64 {
        for_word!(layout, W => self.count::<W>(bytes))
    }

    /// Packs what [`Buffers::look`] has just looked at.
    pub(super) fn pack(&mut self, layout: FloatLayout, bytes: &[u8], out: &mut Vec<u8>) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") {
            // SAFETY: the processor has the instructions that the function is compiled for.
            return unsafe { self.pack_avx2(layout, bytes, out) };
        }
        for_word!(layout, W => self.pack_words::<W>(bytes, out));
    }

    /// The same, compiled for more of the processor.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi2")]
    unsafe fn pack_avx2(&mut self, layout: FloatLayout, bytes: &[u8], out: &mut Vec<u8>) {
        for_word!(layout, W => self.pack_words::<W>(bytes, out));
    }

    /// Unpacks.
    pub(super) fn unpack(
        &mut self,
        layout: FloatLayout,
        packed: &[u8],
        bytes: &mut [u8],
    ) -> Result<(), CodecError> {
        for_word!(layout, W => self.unpack_words::<W>(packed, bytes))
    }

    fn count<W: Cut>(&mut self, bytes: &[u8]) -> u64 {
        self.counts.clear();
        self.counts.resize(2 * W::TOKENS, 0);
        let (even, odd) = self.counts.split_at_mut(W::TOKENS);
        let mut pairs = bytes.chunks_exact(2 * W::BYTES);
        for pair in &mut pairs {
            let (first, second) = pair.split_at(W::BYTES);
            even[W::token(W::load(first))] += 1;
            odd[W::token(W::load(second))] += 1;
        }
        if !pairs.remainder().is_empty() {
            even[W::token(W::load(pairs.remainder()))] += 1;
        }
        even.iter_mut().zip(odd).for_each(|(even, odd)| *even += *odd);
        self.counts.truncate(W::TOKENS);
        let elements = (bytes.len() / W::BYTES) as u64;
        let used = self.counts.iter().filter(|&&count| count > 0).count() as u64;
        let coded = cost::of_counts(self.counts.iter().copied()) / (8 * ONE_BIT);
        coded + elements * u64::from(W::LEFT + 1) / 8 + 3 * used + rans::OVERHEAD
    }

    #[inline(always)]
    fn pack_words<W: Cut>(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let elements = bytes.len() / W::BYTES;
        let dictionary = Dictionary::of(&self.counts, W::TOKENS);
        dictionary.write(out);
        let token = |at: usize| W::token(W::load(&bytes[at * W::BYTES..(at + 1) * W::BYTES]));
        let escaped: Vec<u16> = match dictionary.escape {
            Some(escape) => {
                let escapes = |token: &usize| dictionary.symbol_of[*token] == escape;
                (0..elements).map(token).filter(escapes).map(|token| token as u16).collect()
            }
            None => Vec::new(),
        };
        varint::put(escaped.len() as u64, out);
        out.extend(escaped.iter().flat_map(|token| token.to_le_bytes()));
        // By token, so that symbols need not be looked up first.
        let table = Coding::table(&dictionary.frequencies);
        let symbols = dictionary.symbol_of.iter();
        let table: Vec<Coding> = symbols
            .map(|&symbol| table.get(usize::from(symbol)).copied().unwrap_or_default())
            .collect();
        rans::encode(elements, |at| &table[token(at)], &mut self.words, out);
        self.plane.resize(elements, 0);
        if W::REST_BITS > 0 {
            let words = bytes.chunks_exact(W::BYTES);
            for (high, word) in self.plane.iter_mut().zip(words) {
                *high = (W::rest(W::load(word)) >> (8 * W::REST_BYTES)) as u8;
            }
            pack_octets(&self.plane, W::REST_BITS, out);
        }
        for place in 0..W::REST_BYTES {
            let words = bytes.chunks_exact(W::BYTES);
            for (byte, word) in self.plane.iter_mut().zip(words) {
                *byte = (W::rest(W::load(word)) >> (8 * place)) as u8;
            }
            plane::pack(&self.plane, &mut self.words, out);
        }
    }

    fn unpack_words<W: Cut>(
        &mut self,
        mut packed: &[u8],
        bytes: &mut [u8],
    ) -> Result<(), CodecError> {
        let packed = &mut packed;
        let elements = bytes.len() / W::BYTES;
        let (frequencies, labels, has_escape) = Dictionary::read(packed, W::TOKENS)?;
        let escapes = varint::take(packed)?;
        if escapes > elements as u64 {
            return Err(CodecError::Value);
        }
        let (escaped, _) = take_bytes(packed, 2 * escapes as usize)?.as_chunks::<2>();
        self.symbols.resize(elements, 0);
        let coded = Coded::take(packed, elements)?;
        if frequencies.len() > 0 {
            let slots = rans::slots(&frequencies);
            coded.decode(|_| Some(&slots), &mut self.symbols)?;
        } else if elements > 0 {
            return Err(CodecError::Frequencies);
        }
        let mut rests: Vec<&mut [u8]> = Vec::new();
        self.plane.resize(elements * (W::REST_BYTES + 1), 0);
        let (high, low) = self.plane.split_at_mut(elements);
        if W::REST_BITS > 0 {
            let octets = take_bytes(packed, octet_bytes(elements, W::REST_BITS))?;
            unpack_octets(octets, W::REST_BITS, high);
        } else {
            high.fill(0);
        }
        if elements > 0 {
            rests.extend(low.chunks_exact_mut(elements));
        }
        for rest in &mut rests {
            plane::unpack(packed, rest)?;
        }
        if !packed.is_empty() {
            return Err(CodecError::Rest { bytes: packed.len() });
        }
        let mut tokens = [0_u64; SYMBOLS];
        for (token, &label) in tokens.iter_mut().zip(&labels) {
            *token = u64::from(label);
        }
        join::<W>(&self.symbols, &tokens, high, &rests, bytes);
        if has_escape {
            let escape = (labels.len() - 1) as u8;
            return put_escaped::<W>(&self.symbols, escape, escaped, bytes);
        }
        if escapes > 0 { Err(CodecError::Value) } else { Ok(()) }
    }
}

/// Puts words together again.
fn join<W: Cut>(
    symbols: &[u8],
    tokens: &[u64; SYMBOLS],
    high: &[u8],
    low: &[&mut [u8]],
    bytes: &mut [u8],
) {
    let words = bytes.chunks_exact_mut(W::BYTES);
    match low {
        [] => {
            for ((word, &symbol), &high) in words.zip(symbols).zip(high) {
                W::store(W::join(tokens[usize::from(symbol)], u64::from(high)), word);
            }
        }
        [first, second] => {
            let rest = high.iter().zip(first.iter()).zip(second.iter());
            for ((word, &symbol), ((&high, &first), &second)) in words.zip(symbols).zip(rest) {
                let rest = u64::from(high) << 16 | u64::from(second) << 8 | u64::from(first);
                W::store(W::join(tokens[usize::from(symbol)], rest), word);
            }
        }
        low => {
            for (at, (word, &symbol)) in words.zip(symbols).enumerate() {
                let high = u64::from(high[at]);
                let rest =
                    low.iter().rev().fold(high, |rest, plane| rest << 8 | u64::from(plane[at]));
                W::store(W::join(tokens[usize::from(symbol)], rest), word);
            }
        }
    }
}

/// Puts the tokens in that the dictionary lacks.
fn put_escaped<W: Cut>(
    symbols: &[u8],
    escape: u8,
    escaped: &[[u8; 2]],
    bytes: &mut [u8],
) -> Result<(), CodecError> {
    let mut escaped = escaped.iter();
    for (word, _) in
        bytes.chunks_exact_mut(W::BYTES).zip(symbols).filter(|(_, symbol)| **symbol == escape)
    {
        let token = u64::from(u16::from_le_bytes(*escaped.next().ok_or(CodecError::Value)?));
        if token >= W::TOKENS as u64 {
            return Err(CodecError::Value);
        }
        W::store(W::join(token, W::rest(W::load(word))), word);
    }
    if escaped.next().is_some() { Err(CodecError::Value) } else { Ok(()) }
}

/// Which tokens have a symbol: all, or the 255 most frequent and a symbol for all others.
struct Dictionary {
    /// What each symbol stands for; that of the escape is not looked at.
    labels: Vec<u16>,
    frequencies: Frequencies,
    symbol_of: Vec<u8>,
    escape: Option<u8>,
}

impl Dictionary {
    /// * `counts`: of each token
    fn of(counts: &[u32], tokens: usize) -> Self {
        let mut labels: Vec<u16> =
            (0..tokens as u32).filter(|&at| counts[at as usize] > 0).map(|at| at as u16).collect();
        let needs_escape = labels.len() > SYMBOLS;
        if needs_escape {
            labels.sort_by_key(|&label| (std::cmp::Reverse(counts[usize::from(label)]), label));
            labels.truncate(SYMBOLS - 1);
            labels.sort_unstable();
        }
        let mut used: Vec<u32> = labels.iter().map(|&label| counts[usize::from(label)]).collect();
        let escape = needs_escape.then_some((SYMBOLS - 1) as u8);
        let mut symbol_of = vec![escape.unwrap_or_default(); tokens];
        for (symbol, &label) in labels.iter().enumerate() {
            symbol_of[usize::from(label)] = symbol as u8;
        }
        if needs_escape {
            let all: u32 = counts.iter().sum();
            used.push(all - used.iter().sum::<u32>());
            labels.push(labels.last().copied().unwrap_or_default().saturating_add(1));
        }
        Self { labels, frequencies: Frequencies::of(&used), symbol_of, escape }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.escape.is_some()));
        self.frequencies.write(&self.labels, out);
    }

    /// Frequencies, what symbols stand for, and whether the last is the escape.
    fn read(
        packed: &mut &[u8],
        tokens: usize,
    ) -> Result<(Frequencies, Vec<u16>, bool), CodecError> {
        let has_escape = match take_bytes(packed, 1)?[0] {
            0 => false,
            1 => true,
            _ => return Err(CodecError::Value),
        };
        let (frequencies, labels) = Frequencies::read(packed)?;
        let real = labels.len() - usize::from(has_escape && !labels.is_empty());
        if labels[..real].iter().any(|&label| usize::from(label) >= tokens)
            || (has_escape && labels.is_empty())
        {
            return Err(CodecError::Frequencies);
        }
        Ok((frequencies, labels, has_escape))
    }
}
