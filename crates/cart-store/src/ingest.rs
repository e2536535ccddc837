//! Taking bytes in as blobs: on all cores, through small buffers, durably, and only what is new.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use cart_format::limits::SEGMENT;
use cart_format::{BlobEntry, BlobId, SegmentId};
use thiserror::Error;

use crate::file_error::{At as _, FileError};
use crate::hashing::{self, HashError, Lane};
use crate::progress::Progress;
use crate::publish::{Synced, Unpublished};
use crate::source::{SourceRange, same_bytes};
use crate::store::Store;

/// Threads that only wait for the disk, so that the cores go on hashing. More gain nothing: the
/// file system joins the syncs that wait at the same time.
const SYNCERS: usize = 4;
/// Files that wait for a syncer.
const WAITING: usize = 16;
/// Whole files from this size on are reflinked where the file system can.
const REFLINK: u64 = 64 << 10;
/// Bytes in the middle of a blob by which one that might be there already is told from others.
const SAMPLE: usize = 64;

/// Why bytes were not taken in. The store is as before, but for whole blobs that nothing names yet.
#[derive(Debug, Error)]
pub enum IngestError {
    /// [`Progress::cancelled`] said so.
    #[error("cancelled; nothing was added")]
    Cancelled,
    /// The bytes of sources have other digests than they should.
    #[error("{} of the sources differ from what they should be; nothing was added", differing.len())]
    Differs {
        /// Which sources, and what they really are.
        differing: Vec<(usize, Ingested)>,
    },
    /// The file system, of the source or of the store.
    #[error(transparent)]
    File(#[from] FileError),
}

impl From<HashError> for IngestError {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Cancelled => Self::Cancelled,
            HashError::File(error) => Self::File(error),
        }
    }
}

/// A blob that is now in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingested {
    /// Its id.
    pub blob: BlobId,
    /// What the manifest says about it.
    pub entry: BlobEntry,
    /// Its size if it was added, 0 if the store had it.
    pub new_bytes: u64,
}

impl Store {
    /// Takes bytes in as blobs, one for each source, in that order. When it returns, they are
    /// durable. A blob's id and segments are those of the bytes that were written, whatever happens
    /// to a source meanwhile. Memory does not grow with the sources.
    ///
    /// Runs on the current rayon pool. Hold [`Store::hold`] until a ref names the blobs.
    ///
    /// # Errors
    /// A source can't be read, the store can't be written, or `progress` cancelled. Nothing
    /// half-written stays under a lasting name.
    pub fn ingest(
        &self,
        sources: &[SourceRange],
        progress: &dyn Progress,
    ) -> Result<Vec<Ingested>, IngestError> {
        self.ingest_if(sources, progress, |_, _| true)
    }

    /// As [`Store::ingest`], but nothing gets a lasting name unless every source is what `expected`
    /// says of its index.
    pub(crate) fn ingest_if(
        &self,
        sources: &[SourceRange],
        progress: &dyn Progress,
        expected: impl Fn(usize, &Ingested) -> bool,
    ) -> Result<Vec<Ingested>, IngestError> {
        let _guard = self.hold()?;
        progress.total(sources.iter().map(SourceRange::len).sum());
        let intake = Intake {
            store: self,
            known: Known::of(self, sources)?,
            progress,
            jobs: sources.iter().map(|source| Job { source, digests: Mutex::default() }).collect(),
            stop: AtomicBool::new(false),
            failure: Mutex::new(None),
        };
        let synced = intake.run();
        if let Some(error) = intake.failure.into_inner().expect("no thread panics holding it") {
            return Err(error);
        }
        let mut done = intake.jobs.iter().map(Job::finish).collect::<Vec<_>>();
        let differing = done.iter().cloned().enumerate().filter(|(at, blob)| !expected(*at, blob));
        let differing: Vec<_> = differing.collect();
        if !differing.is_empty() {
            return Err(IngestError::Differs { differing });
        }
        self.publish_blobs(&mut done, synced)?;
        Ok(done)
    }

    /// Gives synced files their lasting names.
    ///
    /// * `synced`: each with its index in `done`
    pub(crate) fn publish_blobs(
        &self,
        done: &mut [Ingested],
        synced: Vec<(usize, Synced)>,
    ) -> Result<(), FileError> {
        if synced.is_empty() {
            return Ok(());
        }
        for (index, file) in synced {
            let blob = &mut done[index];
            if file.publish(&self.layout.blob(&blob.blob))? {
                blob.new_bytes = blob.entry.size;
            }
        }
        self.publisher.sync_folder(&self.layout.blobs())
    }
}

/// One call of [`Store::ingest`].
struct Intake<'a> {
    store: &'a Store,
    known: Known,
    progress: &'a dyn Progress,
    jobs: Vec<Job<'a>>,
    stop: AtomicBool,
    failure: Mutex<Option<IngestError>>,
}

/// One source, with what is found out about it.
struct Job<'a> {
    source: &'a SourceRange,
    digests: Mutex<Option<Digests>>,
}

/// The digest of the whole and those of the segments.
type Digests = ([u8; 32], Vec<SegmentId>);

/// A written file on its way to a syncer.
type Written = (usize, Unpublished);

impl Job<'_> {
    fn finish(&self) -> Ingested {
        let digests = self.digests.lock().expect("no thread panics holding it");
        let (whole, segments) = digests.clone().expect("set unless there was a failure");
        let entry = BlobEntry { size: self.source.len(), segments };
        Ingested { blob: BlobId::from_bytes(whole), entry, new_bytes: 0 }
    }
}

impl Intake<'_> {
    /// Hashes and writes everything. Returns the new files, durable and without a lasting name.
    fn run(&self) -> Vec<(usize, Synced)> {
        let (sender, receiver) = sync_channel::<Written>(WAITING);
        let receiver = Mutex::new(receiver);
        std::thread::scope(|threads| {
            let syncers: Vec<_> =
                (0..SYNCERS).map(|_| threads.spawn(|| self.sync_all(&receiver))).collect();
            rayon::scope_fifo(|scope| {
                for group in self.groups() {
                    let sender = sender.clone();
                    scope.spawn_fifo(move |_| self.attempt(|| self.take(&group, &sender)));
                }
            });
            drop(sender);
            let join = |syncer: std::thread::ScopedJoinHandle<'_, _>| {
                syncer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            syncers.into_iter().flat_map(join).collect()
        })
    }

    /// Which sources are hashed side by side. A source with segments is hashed beside its own
    /// segments, others in pairs of about the same length. The longest first, so that no core is
    /// left with it at the end.
    fn groups(&self) -> Vec<Vec<usize>> {
        let len = |index: &usize| self.jobs[*index].source.len();
        let mut order: Vec<usize> = (0..self.jobs.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(len(index)));
        let long = order.partition_point(|index| len(index) > SEGMENT);
        let (long, short) = order.split_at(long);
        long.chunks(1).chain(short.chunks(2)).map(<[usize]>::to_vec).collect()
    }

    /// Runs a step unless another has failed; keeps the first failure.
    fn attempt(&self, step: impl FnOnce() -> Result<(), IngestError>) {
        if self.stop.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = step() {
            self.stop.store(true, Ordering::Relaxed);
            self.failure.lock().expect("no thread panics holding it").get_or_insert(error);
        }
    }

    fn sync_all(&self, receiver: &Mutex<Receiver<Written>>) -> Vec<(usize, Synced)> {
        let mut synced = Vec::new();
        loop {
            let next = receiver.lock().expect("no thread panics holding it").recv();
            let Ok((index, file)) = next else { return synced };
            self.attempt(|| {
                synced.push((index, file.sync()?));
                Ok(())
            });
        }
    }

    /// Hashes one or two sources, writing those that are new for sure; then writes those that
    /// turned out to be new.
    fn take(&self, group: &[usize], written: &SyncSender<Written>) -> Result<(), IngestError> {
        let mut intakes = Vec::new();
        for &index in group {
            let twin = self.known.twin(self.store, self.jobs[index].source)?;
            intakes.push(self.begin(index, twin)?);
        }
        self.hash(&intakes, self.progress)?;
        for intake in intakes {
            let done = if intake.file.is_none() && !self.is_stored(&intake) {
                let again = self.begin(intake.index, None)?;
                self.hash(std::slice::from_ref(&again), &Uncounted(self.progress))?;
                again
            } else {
                intake
            };
            if let Some(file) = done.file {
                written.send((done.index, file)).expect("syncers live as long as senders");
            }
        }
        Ok(())
    }

    /// Whether the store has a blob with these very bytes. Its name alone would leave a damaged one
    /// as it is; to pack again is how people heal it. The twin was compared while the source was
    /// hashed.
    fn is_stored(&self, reading: &Reading<'_>) -> bool {
        let found = self.jobs[reading.index].finish().blob;
        if let Some(twin) = reading.twin.as_ref().filter(|twin| twin.blob == found) {
            return twin.is_same.get();
        }
        let stored = SourceRange::whole(&self.store.layout.blob(&found));
        stored.is_ok_and(|stored| same_bytes(reading.source, &stored))
    }

    /// * `twin`: a blob that most likely is the source; without one, it is written
    fn begin(&self, index: usize, twin: Option<Twin>) -> Result<Reading<'_>, FileError> {
        let source = self.jobs[index].source;
        if twin.is_some() {
            return Ok(Reading { index, source, file: None, cloned: None, twin });
        }
        let file = self.store.publisher.create(&self.store.layout.tmp(), "blob")?;
        let clone = || SourceRange::range(file.file(), &file.path().into(), 0, source.len());
        let cloned = reflink(source, &file)?.then(clone);
        Ok(Reading { index, source, file: Some(file), cloned, twin })
    }

    /// Reads (and writes) sources once, and sets their digests.
    fn hash(&self, group: &[Reading<'_>], progress: &dyn Progress) -> Result<(), IngestError> {
        let len = |lane: usize| group.get(lane).map_or(0, |reading| reading.source.len());
        let read = |lane: usize| move |buffer: &mut [u8], at| group[lane].read(buffer, at);
        let digests = if len(0) > SEGMENT {
            vec![hashing::digest_segments(len(0), progress, read(0))?]
        } else if group.len() == 1 {
            vec![(hashing::digest(0..len(0), progress, read(0))?, Vec::new())]
        } else {
            let reads = [read(0), read(1)];
            let lane = |index: usize| {
                let (range, read) = (0..len(index), &reads[index] as &hashing::Read<'_>);
                Lane { range, grain: 1, read, see: None }
            };
            let lanes = [lane(0), lane(1)];
            let [left, right] = hashing::digest_pair(lanes, progress).map_err(HashError::from)?;
            vec![(left?, Vec::new()), (right?, Vec::new())]
        };
        for (reading, digests) in group.iter().zip(digests) {
            // Set twice where a source was hashed to see whether it is new: what counts is what was
            // written, which is what is set last.
            *self.jobs[reading.index].digests.lock().expect("no thread panics holding it") =
                Some(digests);
        }
        Ok(())
    }
}

/// A source that is read, and the new file that its bytes go to, if they are to be kept.
struct Reading<'a> {
    index: usize,
    source: &'a SourceRange,
    file: Option<Unpublished>,
    /// The new file, if it has the bytes already and is to be read in place of the source.
    cloned: Option<SourceRange>,
    twin: Option<Twin>,
}

/// A stored blob that most likely has the bytes of a source.
struct Twin {
    blob: BlobId,
    stored: SourceRange,
    /// Whether it has had the same bytes so far. One that can't be read has not.
    is_same: Cell<bool>,
}

impl Twin {
    fn compare(&self, bytes: &[u8], at: u64) {
        let same = |buffer: &mut [u8]| {
            let part = &mut buffer[..bytes.len()];
            self.stored.read_at(part, at).is_ok() && part == bytes
        };
        self.is_same.set(self.is_same.get() && hashing::with_buffer(same));
    }
}

impl Reading<'_> {
    /// Reads the next bytes, and writes what was read before it is hashed: the digest is that of
    /// the written bytes, whatever happens to the source.
    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), FileError> {
        match (&self.cloned, &self.file) {
            (Some(cloned), _) => cloned.read_at(buffer, at),
            (None, Some(file)) => {
                self.source.read_at(buffer, at)?;
                file.write_at(buffer, at)
            }
            (None, None) => {
                self.source.read_at(buffer, at)?;
                if let Some(twin) = &self.twin {
                    twin.compare(buffer, at);
                }
                Ok(())
            }
        }
    }
}

/// Work on bytes that were counted already; it can still be cancelled.
struct Uncounted<'a>(&'a dyn Progress);

impl Progress for Uncounted<'_> {
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

/// Shares the source's blocks with the new file, where the file system can. Never a hard link: the
/// source may be changed later, in place. Returns whether the file now has the bytes.
fn reflink(source: &SourceRange, file: &Unpublished) -> Result<bool, FileError> {
    let Some(whole) = source.as_whole_file().filter(|_| source.len() >= REFLINK) else {
        return Ok(false);
    };
    file.before_write()?;
    if rustix::fs::ioctl_ficlone(file.file(), whole).is_err() {
        return Ok(false);
    }
    // The source may have grown between the question and the clone.
    file.file().set_len(source.len()).at("write", file.path())?;
    Ok(true)
}

/// The stored blobs that have the size of a source, by size and middle bytes. A source that matches
/// none of them is new for sure and is hashed once, while it is written; one that matches is hashed
/// first, while it is compared, and most likely need not be written.
struct Known(HashMap<(u64, Vec<u8>), BlobId>);

impl Known {
    fn of(store: &Store, sources: &[SourceRange]) -> Result<Self, FileError> {
        let sizes: HashSet<u64> = sources.iter().map(SourceRange::len).collect();
        let folder = store.layout.blobs();
        let mut known = HashMap::new();
        for entry in std::fs::read_dir(&folder).at("list", &folder)? {
            let entry = entry.at("list", &folder)?;
            let size = entry.metadata().at("read", &entry.path())?.len();
            let name = entry.file_name();
            let blob = name.to_str().and_then(|name| name.parse::<BlobId>().ok());
            if let Some(blob) = blob.filter(|_| sizes.contains(&size)) {
                let stored = SourceRange::whole(&entry.path())?;
                known.insert((size, sample(&stored)?), blob);
            }
        }
        Ok(Self(known))
    }

    /// The blob that most likely is this source.
    fn twin(&self, store: &Store, source: &SourceRange) -> Result<Option<Twin>, FileError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let Some(&blob) = self.0.get(&(source.len(), sample(source)?)) else { return Ok(None) };
        let stored = SourceRange::whole(&store.layout.blob(&blob))?;
        Ok(Some(Twin { blob, stored, is_same: Cell::new(true) }))
    }
}

fn sample(source: &SourceRange) -> Result<Vec<u8>, FileError> {
    let len = source.len().min(SAMPLE as u64);
    let mut bytes = vec![0; len as usize];
    source.read_at(&mut bytes, (source.len() - len) / 2)?;
    Ok(bytes)
}
