//! Hashing many ranges of blobs on all cores, and saying which differ.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cart_format::limits::SEGMENT;
use cart_format::{BlobEntry, BlobId, DType};

use crate::blob_source::{BlobError, BlobLocation};
use crate::finite::{Place, Scan};
use crate::hashing::{self, Cancelled, Lane, See};
use crate::progress::Progress;
use crate::verify::DamageKind;
use crate::witness::{Interest, Witness};

/// Something to hash.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    blob: BlobId,
    range: Range<u64>,
    part: Part,
    expected: [u8; 32],
    /// Types of the tensors that have these bytes: which are to be looked through for values that
    /// are no numbers.
    types: Vec<DType>,
    /// What the witness wants of it.
    interest: Interest,
}

/// Which part of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Whole,
    Segment(u64),
}

/// What one or two units showed.
#[derive(Default)]
struct Checked {
    damage: Vec<Found>,
    /// Values that are no numbers, in bytes that have their digest.
    places: Vec<Place>,
    /// Bytes that were read to their end.
    bytes: u64,
}

/// What is wrong with a part of a blob.
pub(crate) type Found = (BlobId, Part, DamageKind);

/// How a blob is found, with its size checked where it is known.
pub(crate) type Locate<'a> = dyn Fn(&BlobId) -> Result<BlobLocation, BlobError> + Sync + 'a;

impl Unit {
    /// A whole blob.
    pub(crate) fn whole(blob: BlobId, size: u64) -> Self {
        Self {
            blob,
            range: 0..size,
            part: Part::Whole,
            expected: *blob.as_bytes(),
            types: Vec::new(),
            interest: Interest::None,
        }
    }

    /// The segments of a blob; none if it has none.
    pub(crate) fn segments(blob: BlobId, entry: &BlobEntry) -> impl Iterator<Item = Self> {
        entry.segments.iter().zip(0_u64..).map(move |(segment, index)| {
            let start = index * SEGMENT;
            let range = start..entry.size.min(start + SEGMENT);
            let (part, expected) = (Part::Segment(index), *segment.as_bytes());
            Self { blob, range, part, expected, types: Vec::new(), interest: Interest::None }
        })
    }

    /// The same, to be looked through as well.
    pub(crate) fn of_types(self, types: &[DType]) -> Self {
        Self { types: types.to_vec(), ..self }
    }

    /// The same, to be shown to the witness.
    pub(crate) fn shown(self, interest: Interest) -> Self {
        Self { interest, ..self }
    }

    pub(crate) fn is_segment(&self) -> bool {
        self.part != Part::Whole
    }

    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn grain(&self) -> usize {
        if let Interest::Pieces { grain } = self.interest { grain } else { 1 }
    }

    fn scans(&self) -> Vec<Scan> {
        self.types.iter().map(|&dtype| Scan::new(dtype, self.range.start)).collect()
    }

    /// Where the values are that are no numbers, once the scans have seen the range.
    fn places(&self, location: &BlobLocation, scans: Vec<Scan>) -> Vec<Place> {
        let place = |(mut scan, &dtype): (Scan, &DType)| {
            let mut rest = vec![0; scan.missing()];
            // What can't be read is the damage of the unit that it is in.
            if self.range.end < location.len && location.read_at(&mut rest, self.range.end).is_ok()
            {
                scan.see(&rest);
            }
            scan.first().map(|first| (self.blob, dtype, first))
        };
        scans.into_iter().zip(&self.types).filter_map(place).collect()
    }

    /// What is wrong, if the bytes have this digest.
    pub(crate) fn compare(&self, digest: [u8; 32]) -> Option<Found> {
        if digest == self.expected {
            return None;
        }
        let found = BlobId::from_bytes(digest).hex();
        let Range { start, end } = self.range;
        let kind = match self.part {
            Part::Whole => DamageKind::Digest { found },
            Part::Segment(segment) => DamageKind::Segment { segment, start, end, found },
        };
        Some((self.blob, self.part, kind))
    }
}

/// What was hashed, and what was wrong, in the order of blobs and segments.
#[derive(Debug)]
pub(crate) struct Audit {
    pub(crate) found: Vec<Found>,
    /// Values that are no numbers, in no order; the first of each unit and type. None of a unit
    /// that is damaged: its bytes are not those of the cartridge.
    pub(crate) not_finite: Vec<Place>,
    /// Bytes hashed; none of what could not be found or read.
    pub(crate) bytes: u64,
    pub(crate) threads: usize,
}

/// Hashes everything: first what is waited for as a whole, then the longest unit first, so that no
/// core is left with it at the end.
pub(crate) fn audit(
    mut units: Vec<Unit>,
    threads: Option<usize>,
    locate: &Locate<'_>,
    progress: &dyn Progress,
    witness: &dyn Witness,
) -> Result<Audit, Cancelled> {
    units.sort_by_key(|unit| (unit.interest != Interest::Whole, Reverse(unit.len())));
    progress.total(units.iter().map(Unit::len).sum());
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.unwrap_or_else(cores).clamp(1, units.len().div_ceil(2).max(1));
    // Neighbours are of about the same length, so both lanes of a pair end together.
    let pairs: Vec<&[Unit]> = units.chunks(2).collect();
    let next = AtomicUsize::new(0);
    let cancelled = AtomicBool::new(false);
    let seen = Mutex::new(Checked::default());
    let showing = Showing::new(witness, &units);
    let work = || {
        while let Some(pair) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
            match check_pair(pair, locate, progress, &showing) {
                Ok(checked) => {
                    let mut seen = seen.lock().expect("no thread panics holding it");
                    seen.damage.extend(checked.damage);
                    seen.places.extend(checked.places);
                    seen.bytes += checked.bytes;
                }
                Err(Cancelled) => return cancelled.store(true, Ordering::Relaxed),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    if cancelled.into_inner() {
        return Err(Cancelled);
    }
    let Checked { damage: mut found, places: not_finite, bytes } =
        seen.into_inner().expect("no thread panics holding it");
    found.sort_by_key(|(blob, part, _): &Found| (*blob, *part));
    found.dedup();
    Ok(Audit { found, not_finite, bytes, threads })
}

/// What the witness has yet to be told.
struct Showing<'a> {
    witness: &'a dyn Witness,
    /// Units that have not matched, of each blob that is waited for.
    waiting: BTreeMap<BlobId, AtomicUsize>,
}

impl<'a> Showing<'a> {
    fn new(witness: &'a dyn Witness, units: &[Unit]) -> Self {
        let mut waiting: BTreeMap<BlobId, AtomicUsize> = BTreeMap::new();
        for unit in units.iter().filter(|unit| unit.interest == Interest::Whole) {
            *waiting.entry(unit.blob).or_default().get_mut() += 1;
        }
        Self { witness, waiting }
    }

    fn see(&self, unit: &Unit, at: u64, bytes: &[u8]) {
        if matches!(unit.interest, Interest::Pieces { .. }) {
            self.witness.see(&unit.blob, at, bytes);
        }
    }

    /// A unit has matched: calls the witness with the last one of a blob.
    fn matched(&self, unit: &Unit, location: &BlobLocation) {
        if unit.interest == Interest::Whole
            && let Some(waiting) = self.waiting.get(&unit.blob)
            && waiting.fetch_sub(1, Ordering::AcqRel) == 1
        {
            self.witness.matched(&unit.blob, location);
        }
    }
}

/// Hashes one or two units. Says what is wrong with them, and where they have values that are no
/// numbers.
fn check_pair(
    units: &[Unit],
    locate: &Locate<'_>,
    progress: &dyn Progress,
    showing: &Showing<'_>,
) -> Result<Checked, Cancelled> {
    let mut checked = Checked::default();
    let mut located = Vec::new();
    for unit in units {
        match locate(&unit.blob) {
            Ok(location) => located.push((unit, location)),
            // Of the whole blob, so that it is said once for all of its segments.
            Err(error) => checked.damage.push((unit.blob, Part::Whole, error.into())),
        }
    }
    let unit = |lane: usize| located.get(lane).map(|(unit, _): &(&Unit, BlobLocation)| *unit);
    let readers = [0, 1].map(|lane| {
        let location = located.get(lane).map(|(_, location)| location);
        move |buffer: &mut [u8], at| {
            location.map_or(Ok(()), |location: &BlobLocation| location.read_at(buffer, at))
        }
    });
    let mut scans = [0, 1].map(|lane| unit(lane).map_or_else(Vec::new, Unit::scans));
    let digests = {
        let [left, right] = &mut scans;
        let mut see = [(unit(0), left), (unit(1), right)].map(|(unit, scans)| {
            move |at: u64, bytes: &[u8]| {
                scans.iter_mut().for_each(|scan: &mut Scan| scan.see(bytes));
                if let Some(unit) = unit {
                    showing.see(unit, at, bytes);
                }
            }
        });
        let [left, right] = &mut see;
        let lane = |lane: usize, see| Lane {
            range: unit(lane).map_or(0..0, |unit| unit.range.clone()),
            grain: unit(lane).map_or(1, Unit::grain),
            read: &readers[lane],
            see: Some(see),
        };
        hashing::digest_pair([lane(0, left as &mut See<'_>), lane(1, right)], progress)?
    };
    for (((unit, location), scans), digest) in located.iter().zip(scans).zip(digests) {
        let damage = match digest {
            Ok(digest) => {
                checked.bytes += unit.len();
                unit.compare(digest)
            }
            Err(error) => {
                let kind = DamageKind::Unreadable { reason: error.to_string() };
                Some((unit.blob, unit.part, kind))
            }
        };
        if let Some(damage) = damage {
            checked.damage.push(damage);
        } else {
            checked.places.extend(unit.places(location, scans));
            showing.matched(unit, location);
        }
    }
    Ok(checked)
}
