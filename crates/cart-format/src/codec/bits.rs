//! Numbers of a few bits each, one after the other, the lowest bits first.

use super::error::CodecError;

/// Writes numbers of up to 64 bits. Each is put in without a branch: how long it is, is as good as random.
#[derive(Debug, Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    at: usize,
    held: u64,
    count: u32,
}

impl BitWriter {
    /// Begins anew, with room for so many bits.
    pub(super) fn begin(&mut self, bits: u64) {
        let room = bits as usize / 8 + 16;
        if self.bytes.len() < room {
            self.bytes.resize(room, 0);
        }
        (self.at, self.held, self.count) = (0, 0, 0);
    }

    /// * `value`: under 2 to the `bits`
    /// * `bits`: at most 56
    #[inline(always)]
    pub(super) fn put(&mut self, value: u64, bits: u32) {
        self.held |= value << self.count;
        self.count += bits;
        self.bytes[self.at..self.at + 8].copy_from_slice(&self.held.to_le_bytes());
        let whole = self.count / 8;
        self.at += whole as usize;
        // All 64 bits at once can't be shifted out in one step.
        self.held = self.held >> (4 * whole) >> (4 * whole);
        self.count %= 8;
    }

    /// As [`BitWriter::put`], of up to 64 bits.
    #[inline(always)]
    pub(super) fn put_long(&mut self, value: u64, bits: u32) {
        let low = bits.min(32);
        self.put(value & 0xffff_ffff, low);
        self.put(value >> 16 >> 16, bits - low);
    }

    /// Everything that was put, the last byte filled up with zeros.
    pub(super) fn finish(&self) -> &[u8] {
        &self.bytes[..self.at + self.count.div_ceil(8) as usize]
    }
}

/// Reads what a [`BitWriter`] wrote. Past the end it reads zeros, and says so at last.
#[derive(Debug)]
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    /// In bits.
    at: usize,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// * `bits`: at most 56
    #[inline(always)]
    pub(super) fn take(&mut self, bits: u32) -> u64 {
        let from = self.at / 8;
        let word = match self.bytes.get(from..from + 8) {
            Some(word) => u64::from_le_bytes(word.try_into().expect("eight were taken")),
            None => self.last(),
        };
        let value = word >> (self.at % 8) & ((1 << bits) - 1);
        self.at += bits as usize;
        value
    }

    /// As [`BitReader::take`], of up to 64 bits.
    #[inline(always)]
    pub(super) fn take_long(&mut self, bits: u32) -> u64 {
        let low = bits.min(32);
        self.take(low) | self.take(bits - low) << 16 << 16
    }

    #[cold]
    fn last(&self) -> u64 {
        let mut word = [0; 8];
        let rest = self.bytes.get(self.at / 8..).unwrap_or_default();
        word[..rest.len()].copy_from_slice(rest);
        u64::from_le_bytes(word)
    }

    /// Whether exactly what was written was read.
    pub(super) fn finish(mut self) -> Result<(), CodecError> {
        let read = self.at.div_ceil(8);
        if read != self.bytes.len() {
            let rest = self.bytes.len().checked_sub(read).ok_or(CodecError::Cut)?;
            return Err(CodecError::Rest { bytes: rest });
        }
        let left = (8 - self.at % 8) % 8;
        if self.take(left as u32) == 0 { Ok(()) } else { Err(CodecError::Value) }
    }
}

/// Packs numbers of `bits` bits, eight of them into `bits` bytes.
///
/// * `values`: each under 2 to the `bits`, which is at most 7
#[inline(always)]
pub(super) fn pack_octets(values: &[u8], bits: u32, out: &mut Vec<u8>) {
    let (groups, rest) = values.as_chunks::<8>();
    let start = out.len();
    out.resize(start + octet_bytes(values.len(), bits), 0);
    let (whole, last) = out[start..].split_at_mut(groups.len() * bits as usize);
    for (group, place) in groups.iter().zip(whole.chunks_exact_mut(bits as usize)) {
        place.copy_from_slice(
            &squeeze(u64::from_le_bytes(*group), bits).to_le_bytes()[..bits as usize],
        );
    }
    if !rest.is_empty() {
        let mut group = [0; 8];
        group[..rest.len()].copy_from_slice(rest);
        let squeezed = squeeze(u64::from_le_bytes(group), bits).to_le_bytes();
        last.copy_from_slice(&squeezed[..last.len()]);
    }
}

/// Bytes that [`pack_octets`] gives.
pub(super) fn octet_bytes(count: usize, bits: u32) -> usize {
    (count * bits as usize).div_ceil(8)
}

/// Reads what [`pack_octets`] wrote.
///
/// * `packed`: [`octet_bytes`] of `values`
#[inline(always)]
pub(super) fn unpack_octets(packed: &[u8], bits: u32, values: &mut [u8]) {
    let (groups, rest) = values.as_chunks_mut::<8>();
    let (whole, last) = packed.split_at(groups.len() * bits as usize);
    for (group, place) in groups.iter_mut().zip(whole.chunks_exact(bits as usize)) {
        let mut word = [0; 8];
        word[..bits as usize].copy_from_slice(place);
        *group = spread(u64::from_le_bytes(word), bits).to_le_bytes();
    }
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..last.len()].copy_from_slice(last);
        rest.copy_from_slice(&spread(u64::from_le_bytes(word), bits).to_le_bytes()[..rest.len()]);
    }
}

/// Eight numbers, a byte each, moved together: pairs, then fours, then all.
#[inline(always)]
fn squeeze(word: u64, bits: u32) -> u64 {
    let gap = 8 - bits;
    let word = (word & 0x00ff_00ff_00ff_00ff) | ((word & 0xff00_ff00_ff00_ff00) >> gap);
    let word = (word & 0x0000_ffff_0000_ffff) | ((word & 0xffff_0000_ffff_0000) >> (2 * gap));
    (word & 0xffff_ffff) | ((word >> 32) << (4 * bits))
}

/// The other way round.
#[inline(always)]
fn spread(word: u64, bits: u32) -> u64 {
    let gap = 8 - bits;
    let low = (1_u64 << (4 * bits)) - 1;
    let word = (word & low) | (((word >> (4 * bits)) & low) << 32);
    let pair = ((1_u64 << (2 * bits)) - 1) * 0x0000_0001_0000_0001;
    let word = (word & pair) | ((word << (2 * gap)) & (pair << 16));
    let one = ((1_u64 << bits) - 1) * 0x0001_0001_0001_0001;
    (word & one) | ((word << gap) & (one << 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_come_back_at_every_width() {
        for bits in 1..8 {
            for count in [0, 1, 7, 8, 9, 64, 65] {
                let values: Vec<u8> =
                    (0..count).map(|at| (at * 37 + 11) as u8 & ((1 << bits) - 1)).collect();
                let mut packed = vec![9];
                pack_octets(&values, bits, &mut packed);
                assert_eq!(packed.len() - 1, octet_bytes(count, bits));
                let mut back = vec![0; count];
                unpack_octets(&packed[1..], bits, &mut back);
                assert_eq!(back, values, "{bits} bits, {count}");
            }
        }
    }

    #[test]
    fn numbers_of_any_length_come_back_and_nothing_may_be_left() {
        let numbers: Vec<(u64, u32)> = (0..500_u64)
            .map(|at| (at, (at % 62) as u32))
            .map(|(at, bits)| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) & ((1 << bits) - 1), bits))
            .collect();
        let mut writer = BitWriter::default();
        writer.begin(500 * 64);
        numbers.iter().for_each(|&(value, bits)| writer.put_long(value, bits));
        let mut bytes = writer.finish().to_vec();
        let read = |bytes: &[u8]| {
            let mut reader = BitReader::new(bytes);
            let found: Vec<_> =
                numbers.iter().map(|&(_, bits)| (reader.take_long(bits), bits)).collect();
            reader.finish().map(|()| found)
        };
        assert_eq!(read(&bytes).unwrap(), numbers);
        assert!(matches!(read(&bytes[..bytes.len() - 1]), Err(CodecError::Cut)));
        bytes.push(0);
        assert!(matches!(read(&bytes), Err(CodecError::Rest { bytes: 1 })));
    }
}
