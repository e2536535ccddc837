//! Writing packed files: on all cores, a few chunks in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use cart_format::codec::{Codec, Elements, Mode};
use cart_format::packed::{DATA_START, Ids, Index, IndexedBlob, IndexedChunk, Layout, Lengths};
use cart_format::{BlobId, ChunkId, CommitError, DType, Manifest, ManifestError};
use serde::Serialize;
use thiserror::Error;

use super::source::{BaseBlob, read};
use crate::blob_source::{BlobError, BlobLocation};
use crate::file_error::{FileError, existing_folder_of};
use crate::progress::Progress;
use crate::publish::{Publisher, Unpublished};
use crate::verify::Verified;

/// Why no packed file was written. What was at its path is as before.
#[derive(Debug, Error)]
pub enum PackedWriteError {
    /// [`Progress::cancelled`] said so.
    #[error("cancelled; {} was not written", path.display())]
    Cancelled {
        /// The file.
        path: PathBuf,
    },
    /// The manifest has no canonical form.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The commit has no canonical form.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A blob can't be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What was packed, as numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PackReport {
    /// Blobs of the cartridge.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that the base has, which are only named.
    pub shared_blobs: u64,
    /// Their bytes.
    pub shared_bytes: u64,
    /// Blobs that were packed against one of the base.
    pub changed_blobs: u64,
    /// Blobs that were packed alone.
    pub new_blobs: u64,
    /// Bytes of blobs that were packed.
    pub packed_from: u64,
    /// What became of them.
    pub packed_bytes: u64,
    /// Chunks by how they are packed.
    pub chunks: BTreeMap<&'static str, u64>,
    /// The whole file.
    pub file_bytes: u64,
}

/// A blob to be packed.
struct Job {
    blob: BlobId,
    from: BlobLocation,
    base: Option<BlobId>,
    of_base: BaseBlob,
    dtype: Option<DType>,
    elements: Elements,
    /// The number of its first chunk.
    first: usize,
}

impl Verified {
    /// Writes the cartridge as a packed file, durably, in place of what is at `path`: alone, or as what
    /// turns a base into it. The same cartridges give the same bytes at every number of threads.
    ///
    /// # Errors
    /// A blob can't be read, the file can't be written, or `progress` cancelled; `path` is then as it was.
    pub fn write_packed(
        &self,
        base: Option<&Self>,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<PackReport, PackedWriteError> {
        let folder = existing_folder_of(path)?;
        let publisher = Publisher::default();
        let file = publisher.create(folder, ".cart")?;
        let (jobs, mut report) = self.jobs(base)?;
        progress.total(report.packed_from);
        let work = Work::new(&jobs, &file, progress);
        rayon::scope(|scope| {
            for _ in 0..rayon::current_num_threads() {
                scope.spawn(|_| work.run());
            }
        });
        let done = work.finish(path)?;
        report.packed_bytes = done.end;
        report.chunks = done.modes;
        let (index, manifest) = self.index(base, &jobs, &done.placed)?;
        report.file_bytes = self.write_documents(&index, manifest, done.end, &file)?;
        file.sync()?.replace(path)?;
        publisher.sync_folder(folder)?;
        Ok(report)
    }

    /// The blobs that a base lacks, each with the one of the base that has its place.
    fn jobs(&self, base: Option<&Self>) -> Result<(Vec<Job>, PackReport), PackedWriteError> {
        let manifest = self.manifest();
        let places = base.map(|base| places(base.manifest())).unwrap_or_default();
        let types = types(manifest);
        let of_base = base.map(|base| self::types(base.manifest())).unwrap_or_default();
        let mut report = PackReport { blobs: manifest.blobs.len() as u64, ..PackReport::default() };
        report.bytes = manifest.total_bytes();
        let (mut jobs, mut seen, mut first) = (Vec::new(), BTreeSet::new(), 0);
        for (place, blob) in numbered(manifest) {
            if !seen.insert(blob) {
                continue;
            }
            let size = manifest.blobs[&blob].size;
            if base.is_some_and(|base| base.manifest().blobs.contains_key(&blob)) {
                report.shared_blobs += 1;
                report.shared_bytes += size;
                continue;
            }
            let dtype = types.get(&blob).copied();
            let dtype = dtype.filter(|dtype| size.is_multiple_of(dtype.block_bytes()));
            let twin = places
                .get(&place)
                .copied()
                .filter(|twin| dtype.is_none() || of_base.get(twin).copied() == dtype);
            let locate = |(base, twin): (&Self, BlobId)| base.cartridge().locate(&twin);
            let twin_at = base.zip(twin).map(locate).transpose()?;
            report.packed_from += size;
            if twin.is_some() {
                report.changed_blobs += 1;
            } else {
                report.new_blobs += 1;
            }
            let elements = dtype.map_or(Elements::Document, Elements::Of);
            let from = self.cartridge().locate(&blob)?;
            let of_base = BaseBlob::new(elements, twin_at);
            jobs.push(Job { blob, from, base: twin, of_base, dtype, elements, first });
            first += elements.chunks(size).len();
        }
        Ok((jobs, report))
    }

    /// The index, and the packed manifest.
    fn index(
        &self,
        base: Option<&Self>,
        jobs: &[Job],
        chunks: &[IndexedChunk],
    ) -> Result<(Index, Vec<u8>), PackedWriteError> {
        let of = |job: &Job| IndexedBlob {
            blob: job.blob,
            base: job.base,
            dtype: job.dtype,
            chunks: chunks[job.first..][..job.elements.chunks(job.from.len).len()].to_vec(),
        };
        let bytes = self.manifest().to_bytes()?;
        let mut packed = Vec::new();
        Codec::default().pack(Elements::Document, &bytes, None, &mut packed);
        let index = Index {
            base: base.map(Self::manifest_id),
            manifest: IndexedChunk(bytes.len() as u64, ChunkId::of(&packed)),
            blobs: jobs.iter().map(of).collect(),
        };
        Ok((index, packed))
    }

    /// Writes what is around the chunks; gives the file's length.
    fn write_documents(
        &self,
        index: &Index,
        manifest: Vec<u8>,
        data: u64,
        file: &Unpublished,
    ) -> Result<u64, PackedWriteError> {
        let base = index.base;
        let index = index.to_bytes();
        let commit = self.cartridge().commit();
        let ids = Ids {
            manifest: self.manifest_id(),
            base,
            commit: commit.map(|(id, _)| id),
            index: BlobId::of(&index),
        };
        let commit = commit.map(|(_, commit)| commit.to_bytes()).transpose()?.unwrap_or_default();
        let [index_len, manifest_len, commit_len] =
            [&index, &manifest, &commit].map(|document| document.len() as u64);
        let lengths =
            Lengths { data, index: index_len, manifest: manifest_len, commit: commit_len };
        let layout = Layout { ids, lengths };
        file.write_at(&layout.header(), 0)?;
        file.write_at(&[index, manifest, commit].concat(), layout.index().start)?;
        Ok(layout.len())
    }
}

/// Every place that names a blob, with its number among those of the same description.
fn numbered(manifest: &Manifest) -> Vec<((String, usize), BlobId)> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let number = |(what, blob): (String, BlobId)| {
        let count = counts.entry(what.clone()).or_default();
        *count += 1;
        ((what, *count), blob)
    };
    manifest.uses().into_iter().map(number).collect()
}

fn places(manifest: &Manifest) -> BTreeMap<(String, usize), BlobId> {
    numbered(manifest).into_iter().collect()
}

/// What blobs of tensors are made of, by the first that has them.
fn types(manifest: &Manifest) -> BTreeMap<BlobId, DType> {
    let weights = manifest.model.tensors.values().map(|tensor| (tensor.blob, tensor.dtype));
    let memory = manifest.memory.iter().flat_map(|memory| memory.tensors.values());
    let session = manifest.session.iter().flat_map(|session| session.tensors.values());
    let blocks = memory.chain(session);
    let blocks = blocks.flat_map(|tensor| tensor.blocks.iter().map(|blob| (*blob, tensor.dtype)));
    let mut types = BTreeMap::new();
    for (blob, dtype) in weights.chain(blocks) {
        types.entry(blob).or_insert(dtype);
    }
    types
}

/// Chunks in the making, and the file that they go to in order.
struct Work<'a> {
    jobs: &'a [Job],
    total: usize,
    file: &'a Unpublished,
    progress: &'a dyn Progress,
    /// The next chunk that nobody has begun.
    next: AtomicUsize,
    stop: AtomicBool,
    queue: Mutex<Queue>,
    moved: Condvar,
}

/// Packed chunks on their way into the file.
#[derive(Default)]
struct Queue {
    /// Chunks whose place is known: all before the first that is not packed yet.
    placed: Vec<IndexedChunk>,
    end: u64,
    /// Packed before one that comes before them.
    early: BTreeMap<usize, (ChunkId, Vec<u8>)>,
    modes: BTreeMap<&'static str, u64>,
    failure: Option<PackedWriteError>,
    cancelled: bool,
}

impl Queue {
    /// Gives places to chunks that nothing is before any more.
    fn ready(&mut self) -> Vec<Vec<u8>> {
        let mut ready = Vec::new();
        while let Some((id, packed)) = self.early.remove(&self.placed.len()) {
            self.end += packed.len() as u64;
            self.placed.push(IndexedChunk(packed.len() as u64, id));
            ready.push(packed);
        }
        ready
    }
}

/// Chunks that may wait for one that comes before them.
const EARLY: usize = 32;

impl<'a> Work<'a> {
    fn new(jobs: &'a [Job], file: &'a Unpublished, progress: &'a dyn Progress) -> Self {
        let total =
            jobs.last().map_or(0, |job| job.first + job.elements.chunks(job.from.len).len());
        Self {
            jobs,
            total,
            file,
            progress,
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            queue: Mutex::default(),
            moved: Condvar::new(),
        }
    }

    /// Packs chunks until none is left, two at a time, as their digests are worked out in pairs.
    fn run(&self) {
        let mut codec = Codec::default();
        let (mut bytes, mut of_base) = (Vec::new(), Vec::new());
        loop {
            let first = self.next.fetch_add(2, Ordering::Relaxed);
            if first >= self.total || self.stop.load(Ordering::Relaxed) {
                return;
            }
            if self.progress.cancelled() {
                return self.give_up(|queue| queue.cancelled = true);
            }
            let mut pack = |number| self.pack(number, &mut codec, &mut bytes, &mut of_base);
            let both = first..self.total.min(first + 2);
            let packed: Result<Vec<_>, _> = both.map(&mut pack).collect();
            if let Err(error) = packed.and_then(|packed| self.place_all(first, packed)) {
                return self.give_up(|queue| queue.failure = queue.failure.take().or(Some(error)));
            }
        }
    }

    fn give_up(&self, note: impl FnOnce(&mut Queue)) {
        self.stop.store(true, Ordering::Relaxed);
        note(&mut self.queue.lock().expect("no thread panics holding it"));
        self.moved.notify_all();
    }

    fn pack(
        &self,
        number: usize,
        codec: &mut Codec,
        bytes: &mut Vec<u8>,
        of_base: &mut Vec<u8>,
    ) -> Result<(Vec<u8>, Mode), PackedWriteError> {
        let at = self.jobs.partition_point(|job| job.first <= number) - 1;
        let job = &self.jobs[at];
        let mut chunks = job.elements.chunks(job.from.len);
        let chunk = chunks.nth(number - job.first).expect("jobs are numbered by their chunks");
        read(&job.from, &chunk, bytes)?;
        let base = job.of_base.read(&chunk, of_base)?;
        let mut packed = Vec::with_capacity(bytes.len() + 1);
        let mode = codec.pack(job.elements, bytes, base, &mut packed);
        self.progress.add(bytes.len() as u64);
        Ok((packed, mode))
    }

    /// Places one or two chunks.
    fn place_all(
        &self,
        first: usize,
        packed: Vec<(Vec<u8>, Mode)>,
    ) -> Result<(), PackedWriteError> {
        let ids = match packed.as_slice() {
            [(one, _), (other, _)] => ChunkId::of_pair(one, other).to_vec(),
            alone => alone.iter().map(|(packed, _)| ChunkId::of(packed)).collect(),
        };
        for (index, ((packed, mode), id)) in packed.into_iter().zip(ids).enumerate() {
            self.place(first + index, id, packed, mode)?;
        }
        Ok(())
    }

    /// Gives a chunk its place and writes it, with those that waited for it. Waits itself where too many
    /// are early.
    fn place(
        &self,
        number: usize,
        id: ChunkId,
        packed: Vec<u8>,
        mode: Mode,
    ) -> Result<(), PackedWriteError> {
        let mut queue = self.queue.lock().expect("no thread panics holding it");
        *queue.modes.entry(mode.name()).or_default() += 1;
        while queue.early.len() >= EARLY
            && queue.placed.len() < number
            && !self.stop.load(Ordering::Relaxed)
        {
            queue = self.moved.wait(queue).expect("no thread panics holding it");
        }
        queue.early.insert(number, (id, packed));
        let start = queue.end;
        let ready = queue.ready();
        drop(queue);
        self.moved.notify_all();
        let mut at = DATA_START + start;
        for packed in ready {
            self.file.write_at(&packed, at)?;
            at += packed.len() as u64;
        }
        Ok(())
    }

    /// What was packed, all of which has its place.
    fn finish(self, path: &Path) -> Result<Queue, PackedWriteError> {
        let queue = self.queue.into_inner().expect("no thread panics holding it");
        match queue.failure {
            Some(error) => Err(error),
            None if queue.cancelled => Err(PackedWriteError::Cancelled { path: path.into() }),
            None => Ok(queue),
        }
    }
}
