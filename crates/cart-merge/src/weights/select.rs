//! Order statistics of a tensor, exact and without sorting it: two histograms over the bits of the
//! values.

use std::ops::Range;

use crate::weights::error::MergeError;
use crate::weights::view::{Chunk, Grain, View};

const HALF: usize = 1 << 16;

/// A key that orders as the value does.
#[inline]
pub(crate) fn key(value: f32) -> u32 {
    // Zeros are one value: adding zero takes the sign from the negative one.
    let bits = (value + 0.0).to_bits();
    // All bits of a negative value are turned, of others the sign.
    bits ^ ((bits as i32 >> 31) as u32 | 1 << 31)
}

/// The value of a key.
pub(crate) fn value(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

/// The key at a place of the sorted order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The key.
    pub(crate) key: u32,
    /// Elements with smaller keys.
    pub(crate) below: u64,
    /// Elements with this key.
    pub(crate) equal: u64,
}

/// Writes the key of each element of a chunk; the number says of which query.
pub(crate) trait Keys: Fn(usize, &Chunk<'_>, &mut Vec<u32>) + Sync {}

impl<F: Fn(usize, &Chunk<'_>, &mut Vec<u32>) + Sync> Keys for F {}

/// Counts by 16 bits of the keys, one histogram for each query's bin.
fn histograms(
    view: &View<'_>,
    grain: Grain,
    keys: &impl Keys,
    bins: &[(usize, Option<u32>)],
) -> Result<Vec<Vec<u64>>, MergeError> {
    let start = || vec![vec![0_u32; HALF]; bins.len()];
    let work = |(counts, buffer): &mut (Vec<Vec<u32>>, Vec<u32>), chunk: &Chunk<'_>| {
        let mut written = None;
        for (counts, &(query, bin)) in counts.iter_mut().zip(bins) {
            if written != Some(query) {
                keys(query, chunk, buffer);
                written = Some(query);
            }
            let counts: &mut [u32; HALF] =
                counts.as_mut_slice().try_into().expect("made with this length");
            match bin {
                None => buffer.iter().for_each(|key| counts[(key >> 16) as usize] += 1),
                Some(bin) => {
                    let inside = buffer.iter().filter(|key| **key >> 16 == bin);
                    inside.for_each(|key| counts[(key & 0xffff) as usize] += 1);
                }
            }
        }
    };
    let join = |(mut a, buffer): (Vec<Vec<u32>>, Vec<u32>), (b, _): (Vec<Vec<u32>>, Vec<u32>)| {
        for (a, b) in a.iter_mut().flatten().zip(b.iter().flatten()) {
            *a += b;
        }
        (a, buffer)
    };
    let (counts, _) = view.gather(grain, || (start(), Vec::new()), work, join)?;
    let wide = |counts: Vec<u32>| counts.into_iter().map(u64::from).collect();
    Ok(counts.into_iter().map(wide).collect())
}

/// The keys at places of the sorted order of each query.
///
/// * `places`: for each query, places counted from the smallest, all under the number of elements
pub(crate) fn places(
    view: &View<'_>,
    grain: Grain,
    places: &[Vec<u64>],
    keys: &impl Keys,
) -> Result<Vec<Vec<Place>>, MergeError> {
    let queries: Vec<usize> =
        (0..places.len()).filter(|&query| !places[query].is_empty()).collect();
    let upper: Vec<_> = queries.iter().map(|&query| (query, None)).collect();
    let upper = histograms(view, grain, keys, &upper)?;
    // Where each place lies: its query, the bin, and what is below the bin.
    let mut found = Vec::new();
    for (&query, counts) in queries.iter().zip(&upper) {
        for &place in &places[query] {
            let (bin, below) = bin_of(counts, place);
            found.push((query, bin, below, place));
        }
    }
    let mut bins: Vec<_> = found.iter().map(|&(query, bin, ..)| (query, Some(bin))).collect();
    bins.sort_unstable();
    bins.dedup();
    let lower = histograms(view, grain, keys, &bins)?;
    let mut result: Vec<Vec<Place>> = places.iter().map(|_| Vec::new()).collect();
    for (query, bin, below, place) in found {
        let at = bins.binary_search(&(query, Some(bin))).expect("it was put there");
        let counts = &lower[at];
        let (low, inside) = bin_of(counts, place - below);
        let (key, equal) = (bin << 16 | low, counts[low as usize]);
        result[query].push(Place { key, below: below + inside, equal });
    }
    Ok(result)
}

/// The bin in which a place lies, and how many lie in bins below.
fn bin_of(counts: &[u64], place: u64) -> (u32, u64) {
    let mut below = 0;
    for (bin, &count) in counts.iter().enumerate() {
        if place < below + count {
            return (bin as u32, below);
        }
        below += count;
    }
    unreachable!("a place is under the number of elements")
}

/// A stretch of the sorted order: everything between two keys, and some of the elements that equal
/// one of them, by the order of their indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Band {
    low: u32,
    /// Which of those that equal `low`, counted by index.
    low_kept: Range<u64>,
    high: u32,
    high_kept: Range<u64>,
    /// For each chunk, how many before it equal `low` and `high`. Empty where all or none are kept.
    before: Vec<[u64; 2]>,
}

/// A stretch to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// The first place, counted from the smallest.
    pub(crate) from: u64,
    /// The place after the last; over `from`.
    pub(crate) to: u64,
    /// Whether of equal elements those with small indices are the large ones, as in a stable sort
    /// that begins with the largest.
    pub(crate) descending: bool,
}

impl Band {
    /// Finds stretches of the orders of several queries; none for those that are not asked for.
    pub(crate) fn find(
        view: &View<'_>,
        grain: Grain,
        stretches: &[Option<Stretch>],
        keys: &impl Keys,
    ) -> Result<Vec<Option<Self>>, MergeError> {
        let wanted: Vec<Vec<u64>> = stretches
            .iter()
            .map(|stretch| stretch.map_or_else(Vec::new, |one| vec![one.from, one.to - 1]))
            .collect();
        let found = places(view, grain, &wanted, keys)?;
        let mut bands: Vec<Option<Self>> = stretches
            .iter()
            .zip(&found)
            .map(|(stretch, found)| stretch.map(|one| Self::between(one, found[0], found[1])))
            .collect();
        count_equals(view, grain, &mut bands, &found, keys)?;
        Ok(bands)
    }

    fn between(stretch: Stretch, low: Place, high: Place) -> Self {
        // Which of the equal ones, in the order of places.
        let part = |place: Place| {
            let from = stretch.from.saturating_sub(place.below).min(place.equal);
            let to = stretch.to.saturating_sub(place.below).min(place.equal);
            if stretch.descending { place.equal - to..place.equal - from } else { from..to }
        };
        Self {
            low: low.key,
            low_kept: part(low),
            high: high.key,
            high_kept: part(high),
            before: Vec::new(),
        }
    }

    /// The smallest and largest key of the band, where all elements with these keys are in it.
    pub(crate) fn whole(&self) -> Option<[u32; 2]> {
        self.before.is_empty().then_some([self.low, self.high])
    }

    /// Sets, for each element of a chunk in turn, whether it is in the band.
    ///
    /// * `chunk`: which chunk, of the grain that the band was found with
    pub(crate) fn mark(&self, chunk: usize, keys: &[u32], mut set: impl FnMut(usize, bool)) {
        if let Some([low, high]) = self.whole() {
            keys.iter().enumerate().for_each(|(index, &key)| set(index, key >= low && key <= high));
            return;
        }
        let [mut low, mut high] = self.before[chunk];
        for (index, &key) in keys.iter().enumerate() {
            let mut kept = key > self.low && key < self.high;
            if key == self.low {
                kept = self.low_kept.contains(&low);
                low += 1;
            } else if key == self.high {
                kept = self.high_kept.contains(&high);
                high += 1;
            }
            set(index, kept);
        }
    }
}

/// Counts the elements that equal the ends of bands which keep some of them only.
fn count_equals(
    view: &View<'_>,
    grain: Grain,
    bands: &mut [Option<Band>],
    found: &[Vec<Place>],
    keys: &impl Keys,
) -> Result<(), MergeError> {
    for (query, band) in bands.iter_mut().enumerate() {
        let Some(band) = band else { continue };
        let all = |kept: &Range<u64>, place: Place| *kept == (0..place.equal);
        if all(&band.low_kept, found[query][0]) && all(&band.high_kept, found[query][1]) {
            continue;
        }
        let counts = view.map(grain, |chunk| {
            let mut buffer = Vec::new();
            keys(query, chunk, &mut buffer);
            let count = |end: u32| buffer.iter().filter(|key| **key == end).count() as u64;
            [count(band.low), count(band.high)]
        })?;
        let mut sums = [0, 0];
        band.before = counts
            .into_iter()
            .map(|[low, high]| {
                let before = sums;
                sums = [sums[0] + low, sums[1] + high];
                before
            })
            .collect();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_values_do() {
        let values = [f32::MIN, -1.5, -f32::MIN_POSITIVE, -0.0, 0.0, 1e-40, 0.25, f32::MAX];
        for pair in values.windows(2) {
            assert_eq!(key(pair[0]) < key(pair[1]), pair[0] < pair[1], "{pair:?}");
            assert_eq!(value(key(pair[1])), pair[1]);
        }
    }
}
