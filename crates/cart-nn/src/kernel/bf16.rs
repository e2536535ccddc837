//! Dot products of pairs of `bf16` with sums in `f32`, by the instructions of AVX512-BF16.
//!
//! Both sides of a product are packed: two numbers that follow each other along the inner side are a pair, in 4
//! bytes. An instruction multiplies sixteen pairs and adds each pair's two products to a sum. Numbers under the
//! smallest normal one count as 0, on their way in and on their way out.

#[allow(clippy::wildcard_imports, reason = "thirty intrinsics by name say nothing")]
use std::arch::x86_64::*;

/// Rows and columns of the products that are in registers together.
pub(crate) const ROWS: usize = 12;
pub(crate) const COLUMNS: usize = 32;

/// Lanes of a register, and pairs that are packed together.
pub(crate) const LANES: usize = 16;

/// A processor that was seen to have the instructions: holding one is why calling them is sound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bf16Dots(());

/// Numbers in memory: lanes (rows of the left side, columns of the right side) along the inner side.
#[derive(Clone, Copy)]
pub(crate) struct Side {
    pub(crate) start: *const f32,
    pub(crate) lanes: usize,
    pub(crate) inner: usize,
    /// From a lane to the next where the numbers of a lane follow each other; else from a number of a
    /// lane to its next, and lanes follow each other.
    pub(crate) stride: usize,
    /// Whether the numbers of a lane follow each other.
    pub(crate) is_lane_by_lane: bool,
}

// SAFETY: it is only read from, by functions whose callers promise that nobody writes to it.
unsafe impl Send for Side {}
// SAFETY: as for `Send`.
unsafe impl Sync for Side {}

/// A block of products and where it goes.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) start: *mut f32,
    /// From a row to the next.
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Whether the products are added to what is there.
    pub(crate) added: bool,
}

impl Side {
    /// Lanes from `lane` and numbers from `at` on, up to so many.
    pub(crate) fn part(self, lane: usize, at: usize, lanes: usize, inner: usize) -> Self {
        let (along, across) =
            if self.is_lane_by_lane { (1, self.stride) } else { (self.stride, 1) };
        Self {
            start: self.start.wrapping_add(lane * across + at * along),
            lanes: lanes.min(self.lanes.saturating_sub(lane)),
            inner: inner.min(self.inner.saturating_sub(at)),
            ..self
        }
    }

    /// Pairs along the inner side, whose last may be half of one.
    pub(crate) fn pairs(self) -> usize {
        self.inner.div_ceil(2)
    }
}

#[expect(
    clippy::unused_self,
    reason = "having one is why the processor is known to have the instructions"
)]
impl Bf16Dots {
    /// Where the processor has the instructions.
    pub(crate) fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16");
        all.then_some(Self(()))
    }

    /// Packs the left side, lane by lane: `[lanes, stride]` pairs, zeros behind the last number and lane.
    ///
    /// * `out`: whole lanes of `stride` pairs, a multiple of [`LANES`]
    ///
    /// # Safety
    /// The numbers of the side are in memory, and nobody writes them.
    pub(crate) unsafe fn pack_left(self, side: Side, stride: usize, out: &mut [u32]) {
        assert!(stride.is_multiple_of(LANES) && stride >= side.pairs());
        for (group, lanes) in out.chunks_mut(LANES * stride).enumerate() {
            for pair in (0..stride).step_by(LANES) {
                let part = side.part(group * LANES, 2 * pair, LANES, 2 * LANES);
                // SAFETY: a part of the side, as the caller promises; the processor has the instructions.
                let tile = unsafe { lane_tile(part) };
                for (lane, pairs) in lanes.chunks_exact_mut(stride).zip(&tile) {
                    lane[pair..pair + LANES].copy_from_slice(pairs);
                }
            }
        }
    }

    /// Packs [`COLUMNS`] lanes of the right side, pair by pair: `[pairs, COLUMNS]`, zeros behind the last
    /// number and lane.
    ///
    /// # Safety
    /// As [`Bf16Dots::pack_left`].
    pub(crate) unsafe fn pack_right(self, side: Side, out: &mut [u32]) {
        assert!(out.len() == side.pairs() * COLUMNS && side.lanes <= COLUMNS);
        for (group, pairs) in out.chunks_mut(LANES * COLUMNS).enumerate() {
            for lane in (0..COLUMNS).step_by(LANES) {
                let part = side.part(lane, 2 * group * LANES, LANES, 2 * LANES);
                // SAFETY: a part of the side, as the caller promises; the processor has the instructions.
                let tile = unsafe { pair_tile(part) };
                for (pair, lanes) in pairs.chunks_exact_mut(COLUMNS).zip(&tile) {
                    pair[lane..lane + LANES].copy_from_slice(lanes);
                }
            }
        }
    }

    /// Writes the products of up to [`ROWS`] packed lanes with up to [`COLUMNS`].
    ///
    /// * `left`: `[ROWS, stride]`, `right`: `[pairs, COLUMNS]`
    ///
    /// # Safety
    /// The target's places are in memory, and nobody else's; where it adds, there are numbers in them.
    pub(crate) unsafe fn multiply(
        self,
        (left, stride): (&[u32], usize),
        right: &[u32],
        target: Target,
    ) {
        let pairs = right.len() / COLUMNS;
        assert!(left.len() >= ROWS * stride && pairs <= stride);
        assert!(target.rows <= ROWS && target.columns <= COLUMNS);
        // SAFETY: both sides have the numbers, as just seen; the target is the caller's promise, and the
        // processor has the instructions.
        unsafe { dots(left.as_ptr(), stride, right.as_ptr(), pairs, target) }
    }
}

/// A tile of pairs: `[lane][pair]` or `[pair][lane]`.
type Tile = [[u32; LANES]; LANES];

/// `[lane][pair]`.
///
/// # Safety
/// The processor has the instructions, and the side's numbers are in memory.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn lane_tile(side: Side) -> Tile {
    // SAFETY: passed on to the caller.
    unsafe {
        stored(&if side.is_lane_by_lane { by_lane(side) } else { transposed(&by_pair(side)) })
    }
}

/// `[pair][lane]`.
///
/// # Safety
/// As [`lane_tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pair_tile(side: Side) -> Tile {
    // SAFETY: passed on to the caller.
    unsafe {
        stored(&if side.is_lane_by_lane { transposed(&by_lane(side)) } else { by_pair(side) })
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn stored(tile: &[__m512i; LANES]) -> Tile {
    // SAFETY: both are 16 × 64 bytes of whole numbers.
    unsafe { std::mem::transmute::<[__m512i; LANES], Tile>(*tile) }
}

/// As many of the first lanes of a register.
fn first(count: usize) -> __mmask16 {
    if count >= LANES { !0 } else { (1 << count) - 1 }
}

/// Rounds, `low` to the first half and `high` to the second.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn rounded(high: __m512, low: __m512) -> __m512i {
    // SAFETY: both are 64 bytes of whole numbers.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Of a side that is lane by lane in memory: `[lane][pair]`.
///
/// # Safety
/// As [`lane_tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn by_lane(side: Side) -> [__m512i; LANES] {
    let masks = [first(side.inner), first(side.inner.saturating_sub(LANES))];
    let mut tile = [_mm512_setzero_si512(); LANES];
    for (lane, pairs) in tile.iter_mut().enumerate().take(side.lanes) {
        let start = side.start.wrapping_add(lane * side.stride);
        // SAFETY: the numbers under the masks are the lane's; others are not read.
        let [low, high] = unsafe {
            [
                _mm512_maskz_loadu_ps(masks[0], start),
                _mm512_maskz_loadu_ps(masks[1], start.wrapping_add(LANES)),
            ]
        };
        *pairs = rounded(high, low);
    }
    tile
}

/// Of a side whose lanes follow each other in memory: `[pair][lane]`.
///
/// # Safety
/// As [`lane_tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn by_pair(side: Side) -> [__m512i; LANES] {
    // One of the first half, one of the second, and so on.
    let order: [u16; 2 * LANES] = std::array::from_fn(|at| (at / 2 + at % 2 * LANES) as u16);
    // SAFETY: both are 64 bytes of whole numbers.
    let order = unsafe { std::mem::transmute::<[u16; 2 * LANES], __m512i>(order) };
    let mask = first(side.lanes);
    let mut tile = [_mm512_setzero_si512(); LANES];
    for (pair, lanes) in tile.iter_mut().enumerate().take(side.pairs()) {
        let number = |at: usize| {
            let mask = if at < side.inner { mask } else { 0 };
            // SAFETY: the numbers under the mask are the side's; others are not read.
            unsafe { _mm512_maskz_loadu_ps(mask, side.start.wrapping_add(at * side.stride)) }
        };
        let (low, high) = (number(2 * pair), number(2 * pair + 1));
        *lanes = _mm512_permutexvar_epi16(order, rounded(high, low));
    }
    tile
}

/// Columns as rows.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn transposed(tile: &[__m512i; LANES]) -> [__m512i; LANES] {
    let mut out = *tile;
    // Within blocks of 4 × 4.
    for rows in out.as_chunks_mut::<4>().0 {
        let [a, b, c, d] = *rows;
        let low = [_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d)];
        let high = [_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d)];
        *rows = [
            _mm512_unpacklo_epi64(low[0], low[1]),
            _mm512_unpackhi_epi64(low[0], low[1]),
            _mm512_unpacklo_epi64(high[0], high[1]),
            _mm512_unpackhi_epi64(high[0], high[1]),
        ];
    }
    // The blocks themselves.
    for row in 0..4 {
        let [a, b, c, d] = [out[row], out[row + 4], out[row + 8], out[row + 12]];
        let even = [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d)];
        let odd = [_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d)];
        out[row] = _mm512_shuffle_i32x4::<0x88>(even[0], even[1]);
        out[row + 8] = _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]);
        out[row + 4] = _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]);
        out[row + 12] = _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]);
    }
    out
}

/// # Safety
/// The processor has the instructions; `left` has [`ROWS`] lanes `stride` apart of `pairs` each, `right`
/// has `pairs · COLUMNS`; the rest is the promise of [`Bf16Dots::multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn dots(left: *const u32, stride: usize, right: *const u32, pairs: usize, target: Target) {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    // SAFETY: inside of both sides.
    unsafe {
        for pair in 0..pairs {
            let at = right.add(pair * COLUMNS);
            let first = halves(_mm512_loadu_si512(at.cast()));
            let second = halves(_mm512_loadu_si512(at.add(LANES).cast()));
            for (row, sums) in sums.iter_mut().enumerate() {
                let both =
                    halves(_mm512_set1_epi32((*left.add(row * stride + pair)).cast_signed()));
                sums[0] = _mm512_dpbf16_ps(sums[0], both, first);
                sums[1] = _mm512_dpbf16_ps(sums[1], both, second);
            }
        }
    }
    let masks = [first(target.columns), first(target.columns.saturating_sub(LANES))];
    for (row, sums) in sums.into_iter().enumerate().take(target.rows) {
        for (part, (sum, mask)) in sums.into_iter().zip(masks).enumerate() {
            let place = target.start.wrapping_add(row * target.stride + part * LANES);
            // SAFETY: the places under the mask are the target's; others are neither read nor written.
            unsafe {
                let before = if target.added { mask } else { 0 };
                let before = _mm512_maskz_loadu_ps(before, place);
                _mm512_mask_storeu_ps(place, mask, _mm512_add_ps(before, sum));
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn halves(of: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of whole numbers.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(of) }
}
