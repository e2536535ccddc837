//! Some positions' keys and values, laid out for the kernels of attention.

use half::f16;

use super::KvFormat;

/// Positions of a block.
pub(crate) const BLOCK: usize = 64;

/// Values of a position are padded with zeros to a multiple of this, so that every vector is whole.
pub(crate) const LANE_PAD: usize = 16;

/// How a position is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvShape {
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) format: KvFormat,
}

/// Keys and values of [`BLOCK`] positions. Keys lie with the positions side by side, so that one
/// vector holds a number of many positions; values with the numbers of a position side by side.
#[derive(Clone, Debug)]
pub(crate) enum Block {
    F32(Planes<f32>),
    F16(Planes<f16>),
    Q8(Codes),
}

/// Keys and values as floats.
#[derive(Clone, Debug)]
pub(crate) struct Planes<T> {
    /// `[kv_heads, head_dim, BLOCK]`.
    keys: Aligned<T>,
    /// `[kv_heads, BLOCK, padded]`.
    values: Aligned<T>,
}

/// Keys and values as codes, 32 to a scale.
#[derive(Clone, Debug)]
pub(crate) struct Codes {
    planes: Planes<i8>,
    /// `[kv_heads, groups, BLOCK]`.
    key_scales: Aligned<f16>,
    /// `[kv_heads, BLOCK, groups]`.
    value_scales: Aligned<f16>,
}

/// One head's keys and values of a block, codes with their scales.
#[derive(Clone, Copy)]
pub(crate) enum HeadBlock<'a> {
    F32 { keys: &'a [f32], values: &'a [f32] },
    F16 { keys: &'a [f16], values: &'a [f16] },
    Q8 { keys: (&'a [i8], &'a [f16]), values: (&'a [i8], &'a [f16]) },
}

impl KvShape {
    /// Numbers of a position's keys, or of its values.
    pub(crate) fn width(self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Numbers from a value row to the next.
    pub(crate) fn padded(self) -> usize {
        self.head_dim.next_multiple_of(LANE_PAD)
    }

    /// Bytes of a position's keys, or of its values, where they are exported.
    pub(crate) fn row_bytes(self) -> usize {
        let group = self.format.dtype();
        self.width() / group.block_elements() as usize * group.block_bytes() as usize
    }

    /// Bytes of a block in memory.
    pub(crate) fn block_bytes(self) -> usize {
        let numbers = (self.head_dim + self.padded()) * self.kv_heads * BLOCK;
        match self.format {
            KvFormat::F32 => numbers * size_of::<f32>(),
            KvFormat::F16 => numbers * size_of::<f16>(),
            KvFormat::Q8 => numbers + self.kv_heads * 2 * self.groups() * BLOCK * size_of::<f16>(),
        }
    }

    /// Groups of codes in a head.
    fn groups(self) -> usize {
        self.head_dim / self.format.group()
    }
}

impl Block {
    /// Zeros.
    pub(crate) fn new(shape: KvShape) -> Self {
        match shape.format {
            KvFormat::F32 => Self::F32(Planes::new(shape)),
            KvFormat::F16 => Self::F16(Planes::new(shape)),
            KvFormat::Q8 => {
                let scales = || Aligned::new(shape.kv_heads * shape.groups() * BLOCK);
                let planes = Planes::new(shape);
                Self::Q8(Codes { planes, key_scales: scales(), value_scales: scales() })
            }
        }
    }

    /// One head's keys and values.
    pub(crate) fn head(&self, shape: KvShape, head: usize) -> HeadBlock<'_> {
        match self {
            Self::F32(planes) => {
                let (keys, values) = planes.head(shape, head);
                HeadBlock::F32 { keys, values }
            }
            Self::F16(planes) => {
                let (keys, values) = planes.head(shape, head);
                HeadBlock::F16 { keys, values }
            }
            Self::Q8(Codes { planes, key_scales, value_scales }) => {
                let (keys, values) = planes.head(shape, head);
                let scales = shape.groups() * BLOCK;
                let part =
                    |all: &'_ Aligned<f16>| head * scales..all.len().min((head + 1) * scales);
                HeadBlock::Q8 {
                    keys: (keys, &key_scales.as_slice()[part(key_scales)]),
                    values: (values, &value_scales.as_slice()[part(value_scales)]),
                }
            }
        }
    }

    /// Stores a position's keys and values, `[kv_heads, head_dim]` each.
    pub(super) fn write(&mut self, shape: KvShape, place: usize, key: &[f32], value: &[f32]) {
        match self {
            Self::F32(planes) => planes.write(shape, place, |at| key[at], |at| value[at]),
            Self::F16(planes) => planes.write(
                shape,
                place,
                |at| f16::from_f32(key[at]),
                |at| f16::from_f32(value[at]),
            ),
            Self::Q8(codes) => {
                let group = shape.format.group();
                for (index, (key, value)) in key.chunks(group).zip(value.chunks(group)).enumerate()
                {
                    codes.write(shape, place, index, [quantize(key), quantize(value)]);
                }
            }
        }
    }

    /// Stores a position's keys and values as [`Block::read`] gave them.
    pub(super) fn write_stored(&mut self, shape: KvShape, place: usize, row: (&[u8], &[u8])) {
        let (key, value) = row;
        match self {
            Self::F32(planes) => {
                let number = |row: &[u8], at: usize| f32::from_le_bytes(bytes(row, at));
                planes.write(shape, place, |at| number(key, at), |at| number(value, at));
            }
            Self::F16(planes) => {
                let number = |row: &[u8], at: usize| f16::from_le_bytes(bytes(row, at));
                planes.write(shape, place, |at| number(key, at), |at| number(value, at));
            }
            Self::Q8(codes) => {
                let (keys, values) = (key.as_chunks::<34>().0, value.as_chunks::<34>().0);
                for (index, (key, value)) in keys.iter().zip(values).enumerate() {
                    codes.write(shape, place, index, [unpack(key), unpack(value)]);
                }
            }
        }
    }

    /// Appends a position's keys and values to `out`, as they are stored.
    pub(super) fn read(&self, shape: KvShape, place: usize, out: &mut [Vec<u8>; 2]) {
        match self {
            Self::F32(planes) => planes.read(shape, place, |side, number| {
                out[side].extend_from_slice(&number.to_le_bytes());
            }),
            Self::F16(planes) => planes.read(shape, place, |side, number| {
                out[side].extend_from_slice(&number.to_le_bytes());
            }),
            Self::Q8(codes) => codes.read(shape, place, out),
        }
    }
}

impl<T: Copy + Default> Planes<T> {
    fn new(shape: KvShape) -> Self {
        Self {
            keys: Aligned::new(shape.width() * BLOCK),
            values: Aligned::new(shape.kv_heads * shape.padded() * BLOCK),
        }
    }

    fn head(&self, shape: KvShape, head: usize) -> (&[T], &[T]) {
        let (keys, values) = (shape.head_dim * BLOCK, shape.padded() * BLOCK);
        let keys = &self.keys.as_slice()[head * keys..][..keys];
        (keys, &self.values.as_slice()[head * values..][..values])
    }

    /// Where number `at` of a position is, among keys and among values.
    fn places(shape: KvShape, place: usize, at: usize) -> [usize; 2] {
        let (head, dim) = (at / shape.head_dim, at % shape.head_dim);
        [at * BLOCK + place, (head * BLOCK + place) * shape.padded() + dim]
    }

    fn write(
        &mut self,
        shape: KvShape,
        place: usize,
        key: impl Fn(usize) -> T,
        value: impl Fn(usize) -> T,
    ) {
        let (keys, values) = (self.keys.as_mut_slice(), self.values.as_mut_slice());
        let (dim, padded) = (shape.head_dim, shape.padded());
        for (at, row) in keys.chunks_exact_mut(BLOCK).enumerate() {
            row[place] = key(at);
        }
        for (head, plane) in values.chunks_exact_mut(BLOCK * padded).enumerate() {
            for (at, number) in plane[place * padded..][..dim].iter_mut().enumerate() {
                *number = value(head * dim + at);
            }
        }
    }

    /// Shows `see` each number of a position: of its keys with 0, of its values with 1.
    fn read(&self, shape: KvShape, place: usize, mut see: impl FnMut(usize, T)) {
        for at in 0..shape.width() {
            let [key, value] = Self::places(shape, place, at);
            see(0, self.keys.as_slice()[key]);
            see(1, self.values.as_slice()[value]);
        }
    }
}

impl Codes {
    /// Stores group `index` of a position's keys and values.
    fn write(&mut self, shape: KvShape, place: usize, index: usize, groups: [(f16, [i8; 32]); 2]) {
        let (keys, values) = (self.planes.keys.as_mut_slice(), self.planes.values.as_mut_slice());
        let [(key_scale, key), (value_scale, value)] = groups;
        let group = shape.format.group();
        for (offset, (key, value)) in key.into_iter().zip(value).enumerate() {
            let at = index * group + offset;
            let [key_at, value_at] = Planes::<i8>::places(shape, place, at);
            keys[key_at] = key;
            values[value_at] = value;
        }
        let [key_at, value_at] = Self::scale_places(shape, place, index);
        self.key_scales.as_mut_slice()[key_at] = key_scale;
        self.value_scales.as_mut_slice()[value_at] = value_scale;
    }

    fn read(&self, shape: KvShape, place: usize, out: &mut [Vec<u8>; 2]) {
        let (keys, values) = (self.planes.keys.as_slice(), self.planes.values.as_slice());
        let group = shape.format.group();
        for index in 0..shape.kv_heads * shape.groups() {
            let [key_at, value_at] = Self::scale_places(shape, place, index);
            out[0].extend_from_slice(&self.key_scales.as_slice()[key_at].to_le_bytes());
            out[1].extend_from_slice(&self.value_scales.as_slice()[value_at].to_le_bytes());
            for offset in 0..group {
                let at = index * group + offset;
                let [key_at, value_at] = Planes::<i8>::places(shape, place, at);
                out[0].extend_from_slice(&keys[key_at].to_le_bytes());
                out[1].extend_from_slice(&values[value_at].to_le_bytes());
            }
        }
    }

    /// Where the scale of group `index` of a position is, among those of keys and of values.
    fn scale_places(shape: KvShape, place: usize, index: usize) -> [usize; 2] {
        let groups = shape.groups();
        let (head, group) = (index / groups, index % groups);
        [index * BLOCK + place, (head * BLOCK + place) * groups + group]
    }
}

/// The scale and the codes of 32 numbers, as in `Q8_0`.
fn quantize(numbers: &[f32]) -> (f16, [i8; 32]) {
    let largest = numbers.iter().fold(0.0_f32, |largest, number| largest.max(number.abs()));
    let scale = f16::from_f32(largest / 127.0);
    let inverse = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
    let code = |number: &f32| (number * inverse).round().clamp(-127.0, 127.0) as i8;
    let mut codes = [0; 32];
    codes.iter_mut().zip(numbers).for_each(|(to, number)| *to = code(number));
    (scale, codes)
}

/// A group's scale and codes from its bytes.
fn unpack(bytes: &[u8; 34]) -> (f16, [i8; 32]) {
    let scale = f16::from_le_bytes([bytes[0], bytes[1]]);
    (scale, std::array::from_fn(|at| i8::from_le_bytes([bytes[2 + at]])))
}

/// The bytes of number `at`.
fn bytes<const N: usize>(row: &[u8], at: usize) -> [u8; N] {
    row.as_chunks::<N>().0[at]
}

/// Numbers that begin at a multiple of 64 bytes, in whole lines of 64.
#[derive(Clone, Debug)]
struct Aligned<T>(Vec<Line<T>>);

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line<T>([T; 64]);

impl<T: Copy + Default> Aligned<T> {
    /// At least `len` zeros.
    fn new(len: usize) -> Self {
        Self(vec![Line([T::default(); 64]); len.div_ceil(64)])
    }

    fn len(&self) -> usize {
        self.0.len() * 64
    }

    fn as_slice(&self) -> &[T] {
        const { assert!(size_of::<Line<T>>() == 64 * size_of::<T>()) };
        // SAFETY: a line is 64 numbers without padding, as just asserted.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.len()) }
    }

    fn as_mut_slice(&mut self) -> &mut [T] {
        const { assert!(size_of::<Line<T>>() == 64 * size_of::<T>()) };
        // SAFETY: as for `as_slice`, and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::KvCache;

    fn numbers(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn what_is_exported_comes_back_bit_for_bit() {
        for format in KvFormat::ALL {
            let shape = KvShape { kv_heads: 3, head_dim: 32, format };
            let mut cache = KvCache::new(shape);
            let len = 150;
            cache.append(&numbers(len * 96, 1), &numbers(len * 96, 2));
            let [keys, values] = cache.export();
            assert_eq!(keys.len(), len * shape.row_bytes(), "{format}");
            let back = KvCache::import(shape, len, [&keys, &values]).unwrap();
            assert_eq!(back, cache, "{format}");
            assert_eq!(KvCache::import(shape, len + 1, [&keys, &values]), None);
            assert_eq!(KvCache::import(shape, len, [&keys[1..], &values]), None);
        }
    }

    #[test]
    fn codes_are_near_the_numbers() {
        let shape = KvShape { kv_heads: 1, head_dim: 64, format: KvFormat::Q8 };
        let (keys, values) = (numbers(64, 3), numbers(64, 4));
        let mut cache = KvCache::new(shape);
        cache.append(&keys, &values);
        let exported = cache.export();
        for (row, numbers) in exported.iter().zip([keys, values]) {
            for (group, numbers) in row.as_chunks::<34>().0.iter().zip(numbers.chunks(32)) {
                let (scale, codes) = unpack(group);
                for (code, number) in codes.iter().zip(numbers) {
                    let error = (f32::from(*code) * scale.to_f32() - number).abs();
                    assert!(error <= 0.51 * scale.to_f32(), "{number}: {code} · {scale}");
                }
            }
        }
    }

    #[test]
    fn a_clone_keeps_what_it_had_when_the_other_writes() {
        let shape = KvShape { kv_heads: 1, head_dim: 16, format: KvFormat::F16 };
        let mut cache = KvCache::new(shape);
        cache.append(&numbers(70 * 16, 5), &numbers(70 * 16, 6));
        let earlier = cache.clone();
        let exported = earlier.export();
        cache.append(&numbers(16, 7), &numbers(16, 8));
        assert_eq!(earlier.export(), exported);
        cache.truncate(70);
        assert_eq!(cache, earlier);
    }
}
