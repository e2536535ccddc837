//! Bytes that have one place in their elements, in the least of three forms.

use super::cost::{self, ONE_BIT};
use super::error::CodecError;
use super::frequencies::{Frequencies, SYMBOLS};
use super::rans::{self, Coded, Coding};
use super::varint::take_bytes;

/// The bytes themselves.
const STORED: u8 = 0;
/// One byte that they all are.
const CONSTANT: u8 = 1;
/// By their frequencies.
const CODED: u8 = 2;

/// Longer planes are looked at in pieces of [`SAMPLE`], one of [`EVERY`], before they are counted.
const LOOKED_AT: usize = 64 << 10;
const SAMPLE: usize = 4 << 10;
const EVERY: usize = 8;

/// How often each byte occurs.
pub(super) fn counts(bytes: &[u8]) -> [u32; SYMBOLS] {
    // Four tables, so that a byte that comes twice in a row does not wait for itself.
    let mut tables = [[0_u32; SYMBOLS]; 4];
    let (groups, rest) = bytes.as_chunks::<4>();
    for group in groups {
        for (table, &byte) in tables.iter_mut().zip(group) {
            table[usize::from(byte)] += 1;
        }
    }
    for &byte in rest {
        tables[0][usize::from(byte)] += 1;
    }
    std::array::from_fn(|byte| tables.iter().map(|table| table[byte]).sum())
}

/// What coding takes in bytes, its table included.
pub(super) fn cost_of(counts: &[u32; SYMBOLS]) -> u64 {
    let used = counts.iter().filter(|&&count| count > 0).count() as u64;
    cost::of_counts(*counts) / (8 * ONE_BIT) + 3 * used + rans::OVERHEAD
}

/// Whether it is worth counting: a part of long planes says that they shrink by a hundredth or more.
fn may_shrink(bytes: &[u8]) -> bool {
    if bytes.len() <= LOOKED_AT {
        return true;
    }
    let mut sum = [0; SYMBOLS];
    let mut total = 0;
    for piece in bytes.chunks(SAMPLE).step_by(EVERY) {
        sum.iter_mut().zip(counts(piece)).for_each(|(sum, count)| *sum += count);
        total += piece.len() as u64;
    }
    cost::of_counts(sum) / (8 * ONE_BIT) < total - total / 100
}

/// Packs bytes; never more than one longer than they are.
pub(super) fn pack(bytes: &[u8], words: &mut Vec<u16>, out: &mut Vec<u8>) {
    if let Some(&first) = bytes.first()
        && bytes.iter().all(|&byte| byte == first)
    {
        out.extend([CONSTANT, first]);
        return;
    }
    if may_shrink(bytes) {
        let counts = counts(bytes);
        if cost_of(&counts) < bytes.len() as u64 {
            out.push(CODED);
            code(bytes, &counts, words, out);
            return;
        }
    }
    out.push(STORED);
    out.extend_from_slice(bytes);
}

fn code(bytes: &[u8], counts: &[u32; SYMBOLS], words: &mut Vec<u16>, out: &mut Vec<u8>) {
    let labels: Vec<u16> = (0..SYMBOLS as u16).filter(|&at| counts[usize::from(at)] > 0).collect();
    let used: Vec<u32> = labels.iter().map(|&label| counts[usize::from(label)]).collect();
    let frequencies = Frequencies::of(&used);
    frequencies.write(&labels, out);
    let mut table = [Coding::default(); SYMBOLS];
    for (&label, coding) in labels.iter().zip(Coding::table(&frequencies)) {
        table[usize::from(label)] = coding;
    }
    rans::encode(bytes.len(), |at| &table[usize::from(bytes[at])], words, out);
}

/// Takes what [`pack`] wrote off the front.
pub(super) fn unpack(packed: &mut &[u8], bytes: &mut [u8]) -> Result<(), CodecError> {
    match take_bytes(packed, 1)?[0] {
        STORED => bytes.copy_from_slice(take_bytes(packed, bytes.len())?),
        CONSTANT => bytes.fill(take_bytes(packed, 1)?[0]),
        CODED => {
            let (frequencies, labels) = Frequencies::read(packed)?;
            if frequencies.len() == 0 || labels.iter().any(|&label| label >= SYMBOLS as u16) {
                return Err(CodecError::Frequencies);
            }
            let slots = rans::slots(&frequencies);
            Coded::take(packed, bytes.len())?.decode(|_| Some(&slots), bytes)?;
            let mut names = [0; SYMBOLS];
            for (name, &label) in names.iter_mut().zip(&labels) {
                *name = label as u8;
            }
            bytes.iter_mut().for_each(|byte| *byte = names[usize::from(*byte)]);
        }
        _ => return Err(CodecError::Value),
    }
    Ok(())
}
