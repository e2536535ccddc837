//! Taking bytes in as blobs: on all cores, through small buffers, durably, and only what is new.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock};

use cart_format::limits::SEGMENT;
use cart_format::{BlobEntry, BlobId, Hasher, SegmentId};
use thiserror::Error;

use crate::file_error::{At as _, FileError};
use crate::hashing::{self, HashError};
use crate::progress::Progress;
use crate::publish::{Synced, Unpublished};
use crate::source::SourceRange;
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
        let _guard = self.hold()?;
        progress.total(sources.iter().map(SourceRange::len).sum());
        let intake = Intake {
            store: self,
            known: Known::of(self, sources)?,
            progress,
            jobs: sources.iter().map(Job::new).collect(),
            stop: AtomicBool::new(false),
            failure: Mutex::new(None),
        };
        let synced = intake.run();
        if let Some(error) = intake.failure.into_inner().expect("no thread panics holding it") {
            return Err(error);
        }
        let mut done = intake.jobs.iter().map(Job::finish).collect::<Vec<_>>();
        let published = !synced.is_empty();
        for (index, file) in synced {
            let blob = &mut done[index];
            if file.publish(&self.layout.blob(&blob.blob))? {
                blob.new_bytes = blob.entry.size;
            }
        }
        if published {
            self.publisher.sync_folder(&self.layout.blobs())?;
        }
        Ok(done)
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

/// One source, with what is found out about it, by whichever thread.
struct Job<'a> {
    source: &'a SourceRange,
    whole: OnceLock<BlobId>,
    segments: Vec<OnceLock<SegmentId>>,
}

/// A written file on its way to a syncer.
type Written = (usize, Unpublished);

impl<'a> Job<'a> {
    fn new(source: &'a SourceRange) -> Self {
        let segments = BlobEntry::segments_for(source.len());
        let segments = (0..segments).map(|_| OnceLock::new()).collect();
        Self { source, whole: OnceLock::new(), segments }
    }

    fn finish(&self) -> Ingested {
        let found = "every digest is set unless there was a failure";
        let segments = self.segments.iter().map(|id| *id.get().expect(found)).collect();
        Ingested {
            blob: *self.whole.get().expect(found),
            entry: BlobEntry { size: self.source.len(), segments },
            new_bytes: 0,
        }
    }
}

impl Intake<'_> {
    /// Hashes and writes everything. Returns the new files, durable and without a lasting name.
    fn run(&self) -> Vec<(usize, Synced)> {
        let mut order: Vec<usize> = (0..self.jobs.len()).collect();
        // The longest first, so that no core is left with it at the end.
        order.sort_by_key(|&index| std::cmp::Reverse(self.jobs[index].source.len()));
        let (sender, receiver) = sync_channel::<Written>(WAITING);
        let receiver = Mutex::new(receiver);
        std::thread::scope(|threads| {
            let syncers: Vec<_> =
                (0..SYNCERS).map(|_| threads.spawn(|| self.sync_all(&receiver))).collect();
            rayon::scope_fifo(|scope| {
                for index in order {
                    let sender = sender.clone();
                    scope.spawn_fifo(move |scope| {
                        self.attempt(|| self.take(index, &sender, scope));
                    });
                }
            });
            drop(sender);
            let join = |syncer: std::thread::ScopedJoinHandle<'_, _>| {
                syncer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            syncers.into_iter().flat_map(join).collect()
        })
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

    fn take<'s>(
        &'s self,
        index: usize,
        written: &SyncSender<Written>,
        scope: &rayon::ScopeFifo<'s>,
    ) -> Result<(), IngestError> {
        let source = self.jobs[index].source;
        if !self.known.may_have(source)? {
            return self.write(index, self.progress, written, scope);
        }
        let read = |buffer: &mut [u8], at| source.read_at(buffer, at);
        let blob = BlobId::from_bytes(hashing::digest(0..source.len(), self.progress, read)?);
        if !self.store.has_blob(&blob, source.len()) {
            return self.write(index, &Uncounted(self.progress), written, scope);
        }
        self.jobs[index].whole.get_or_init(|| blob);
        // The segments are those of the stored bytes, which are the ones that the id stands for.
        let path = self.store.layout.blob(&blob);
        let stored = SourceRange::whole(&path)?;
        self.spawn_segments(index, 0..self.jobs[index].segments.len(), stored, scope);
        Ok(())
    }

    /// Copies a source to a temporary file, hashing what is written.
    fn write<'s>(
        &'s self,
        index: usize,
        progress: &dyn Progress,
        written: &SyncSender<Written>,
        scope: &rayon::ScopeFifo<'s>,
    ) -> Result<(), IngestError> {
        let job = &self.jobs[index];
        let file = self.store.publisher.create(&self.store.layout.tmp(), "blob")?;
        let len = job.source.len();
        let copy = SourceRange::range(file.file(), &file.path().into(), 0, len);
        let cloned = reflink(job.source, &file)?;
        let from = if cloned { &copy } else { job.source };
        let mut hasher = Hasher::new();
        let mut spawned = 0;
        hashing::stream(
            0..len,
            progress,
            |buffer, at| from.read_at(buffer, at),
            |bytes, at| {
                if !cloned {
                    file.write_at(bytes, at)?;
                }
                hasher.update(bytes);
                let ready = ((at + bytes.len() as u64) / SEGMENT) as usize;
                let ready = ready.min(job.segments.len());
                self.spawn_segments(index, spawned..ready, copy.clone(), scope);
                spawned = spawned.max(ready);
                Ok(())
            },
        )?;
        self.spawn_segments(index, spawned..job.segments.len(), copy, scope);
        job.whole.get_or_init(|| BlobId::from_bytes(hasher.finish()));
        // Nobody receives any more only when all syncers are gone, which waits for this sender.
        written.send((index, file)).expect("syncers live as long as senders");
        Ok(())
    }

    /// Leaves the digests of segments to whichever core is free.
    fn spawn_segments<'s>(
        &'s self,
        index: usize,
        segments: Range<usize>,
        bytes: SourceRange,
        scope: &rayon::ScopeFifo<'s>,
    ) {
        for at in segments {
            let bytes = bytes.clone();
            scope.spawn_fifo(move |_| {
                self.attempt(|| {
                    let start = at as u64 * SEGMENT;
                    let range = start..bytes.len().min(start + SEGMENT);
                    let read = |buffer: &mut [u8], at| bytes.read_at(buffer, at);
                    let digest = hashing::digest(range, &Uncounted(self.progress), read)?;
                    self.jobs[index].segments[at].get_or_init(|| SegmentId::from_bytes(digest));
                    Ok(())
                });
            });
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

/// Size and middle bytes of the stored blobs that have the size of a source. A source that matches
/// none of them is new for sure and is hashed once, while it is written; one that matches is hashed
/// first and most likely need not be written.
struct Known(HashSet<(u64, Vec<u8>)>);

impl Known {
    fn of(store: &Store, sources: &[SourceRange]) -> Result<Self, FileError> {
        let sizes: HashSet<u64> = sources.iter().map(SourceRange::len).collect();
        let folder = store.layout.blobs();
        let mut known = HashSet::new();
        for entry in std::fs::read_dir(&folder).at("list", &folder)? {
            let entry = entry.at("list", &folder)?;
            let size = entry.metadata().at("read", &entry.path())?.len();
            if sizes.contains(&size) {
                let blob = SourceRange::whole(&entry.path())?;
                known.insert((size, sample(&blob)?));
            }
        }
        Ok(Self(known))
    }

    fn may_have(&self, source: &SourceRange) -> Result<bool, FileError> {
        Ok(!self.0.is_empty() && self.0.contains(&(source.len(), sample(source)?)))
    }
}

fn sample(source: &SourceRange) -> Result<Vec<u8>, FileError> {
    let len = source.len().min(SAMPLE as u64);
    let mut bytes = vec![0; len as usize];
    source.read_at(&mut bytes, (source.len() - len) / 2)?;
    Ok(bytes)
}
