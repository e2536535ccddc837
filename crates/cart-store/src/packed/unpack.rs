//! Taking packed files into a store.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cart_format::codec::{Codec, CodecError};
use cart_format::packed::PackedBlob;
use cart_format::{BlobEntry, BlobId, CommitId, ManifestId};
use thiserror::Error;

use super::audit::{chunk_damage, use_of};
use super::file::PackedFile;
use super::source::BaseBlob;
use crate::blob_source::BlobError;
use crate::draft::Drafts;
use crate::file_error::FileError;
use crate::ingest::Ingested;
use crate::objects::ObjectError;
use crate::progress::Progress;
use crate::store::Store;
use crate::verify::{Damage, DamageKind, Verified, with_uses};

/// Why a packed file was not taken in. Nothing was added under a lasting name.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// It needs a base.
    #[error("{} turns cartridge {expected} into another: name that one as the base", path.display())]
    NoBase {
        /// The file.
        path: PathBuf,
        /// The base that it needs.
        expected: ManifestId,
    },
    /// It needs another base.
    #[error("{} goes with base {expected}, found {found}; nothing was changed", path.display())]
    WrongBase {
        /// The file.
        path: PathBuf,
        /// The base that it needs.
        expected: ManifestId,
        /// The one that was given.
        found: ManifestId,
    },
    /// The base lacks a blob that the file counts on.
    #[error("{} counts on blob {blob} in its base, which has none such; it was made wrongly", path.display())]
    BaseLacks {
        /// The file.
        path: PathBuf,
        /// The blob.
        blob: BlobId,
    },
    /// Its bytes are damaged.
    #[error("{} is damaged, nothing was taken in; get it again:\n  {damage}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        damage: Box<Damage>,
    },
    /// Its bytes are as they were written, and no packed chunk.
    #[error("{} holds {what} in a form that can't be unpacked: {source}", path.display())]
    Codec {
        /// The file.
        path: PathBuf,
        /// What the chunk is for.
        what: String,
        /// The reason.
        source: CodecError,
    },
    /// [`Progress::cancelled`] said so.
    #[error("cancelled; nothing was added")]
    Cancelled,
    /// A blob of the base can't be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Storing the manifest or the commit failed.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What was taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// The cartridge.
    pub manifest: ManifestId,
    /// Its commit, if the file has one.
    pub commit: Option<CommitId>,
    /// Blobs of the cartridge.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that were unpacked.
    pub unpacked_blobs: u64,
    /// Their bytes.
    pub unpacked_bytes: u64,
    /// Blobs that the store did not have.
    pub new_blobs: u64,
    /// Bytes of blobs that the store did not have.
    pub new_bytes: u64,
}

impl Store {
    /// Takes a packed file in: blobs, manifest and commit. No name points to it yet. Every chunk is
    /// compared with its digest and every blob with its id, and nothing enters unless all match.
    ///
    /// * `base`: what the file says that it needs; its blobs are in this store
    ///
    /// # Errors
    /// The base is another, the file is damaged, the store can't be written, or `progress` cancelled.
    pub fn unpack(
        &self,
        file: &PackedFile,
        base: Option<&Verified>,
        progress: &dyn Progress,
    ) -> Result<Unpacked, UnpackError> {
        let _guard = self.hold()?;
        file.check_base(base)?;
        let packed = file.packed();
        let mut blobs: Vec<&PackedBlob> = packed.blobs.iter().collect();
        // The largest first, so that no core is left with one at the end.
        blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size));
        progress.total(blobs.iter().map(|blob| blob.size).sum());
        let work = Work {
            file,
            base,
            drafts: self.drafts(blobs.iter().map(|blob| blob.size))?,
            left: blobs.iter().map(|blob| AtomicUsize::new(blob.chunks.len())).collect(),
            ends: ends(&blobs),
            blobs,
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            failure: Mutex::default(),
            progress,
        };
        let expected: Vec<(BlobId, &BlobEntry)> =
            work.blobs.iter().map(|blob| (blob.blob, &packed.manifest.blobs[&blob.blob])).collect();
        let drafts = work.run()?;
        let matches =
            |index: usize, found: &Ingested| (found.blob, &found.entry) == expected[index];
        let taken = drafts.publish_if(matches)?.map_err(|(index, found)| {
            let kind = DamageKind::Digest { found: found.blob.hex() };
            file.damaged((expected[index].0, crate::audit::Part::Whole, kind))
        })?;
        let manifest = self.put_manifest(&packed.manifest)?;
        let commit =
            packed.commit.as_ref().map(|(_, commit)| self.put_commit(commit)).transpose()?;
        Ok(Unpacked {
            manifest,
            commit,
            blobs: packed.manifest.blobs.len() as u64,
            bytes: packed.manifest.total_bytes(),
            unpacked_blobs: taken.len() as u64,
            unpacked_bytes: taken.iter().map(|blob| blob.entry.size).sum(),
            new_blobs: taken.iter().filter(|blob| blob.new_bytes > 0).count() as u64,
            new_bytes: taken.iter().map(|blob| blob.new_bytes).sum(),
        })
    }
}

impl PackedFile {
    /// Whether a base is the one that the file needs, and has what the file counts on.
    pub(super) fn check_base(&self, base: Option<&Verified>) -> Result<(), UnpackError> {
        let packed = self.packed();
        let Some(expected) = packed.base else { return Ok(()) };
        let path = || self.path().to_path_buf();
        let base = base.ok_or_else(|| UnpackError::NoBase { path: path(), expected })?;
        let found = base.manifest_id();
        if found != expected {
            return Err(UnpackError::WrongBase { path: path(), expected, found });
        }
        let has = |blob: &BlobId| base.manifest().blobs.get(blob);
        let here: BTreeSet<BlobId> = packed.blobs.iter().map(|blob| blob.blob).collect();
        let untouched = packed.manifest.blobs.iter();
        let lacks = untouched
            .filter(|(blob, entry)| has(blob) != Some(*entry) && !here.contains(blob))
            .map(|(blob, _)| *blob);
        let referred = packed.blobs.iter().filter_map(|blob| blob.base);
        match lacks.chain(referred.filter(|blob| has(blob).is_none())).next() {
            Some(blob) => Err(UnpackError::BaseLacks { path: path(), blob }),
            None => Ok(()),
        }
    }

    pub(super) fn damaged(&self, found: crate::audit::Found) -> UnpackError {
        let damage = with_uses(&self.packed().manifest, vec![found]).remove(0);
        UnpackError::Damaged { path: self.path().to_path_buf(), damage: Box::new(damage) }
    }
}

fn ends(blobs: &[&PackedBlob]) -> Vec<usize> {
    let end = |end: &mut usize, blob: &&PackedBlob| {
        *end += blob.chunks.len();
        Some(*end)
    };
    blobs.iter().scan(0, end).collect()
}

/// Chunks that become blobs.
struct Work<'a> {
    file: &'a PackedFile,
    base: Option<&'a Verified>,
    drafts: Drafts,
    blobs: Vec<&'a PackedBlob>,
    /// Chunks of each blob that are not written yet.
    left: Vec<AtomicUsize>,
    /// The number of the chunk after the last of each blob.
    ends: Vec<usize>,
    next: AtomicUsize,
    stop: AtomicBool,
    failure: Mutex<Option<UnpackError>>,
    progress: &'a dyn Progress,
}

impl Work<'_> {
    fn run(self) -> Result<Drafts, UnpackError> {
        // A blob of no bytes has no chunk that would end it.
        for (index, blob) in self.blobs.iter().enumerate() {
            if blob.chunks.is_empty() {
                self.drafts.seal(index)?;
            }
        }
        rayon::scope(|scope| {
            for _ in 0..rayon::current_num_threads() {
                scope.spawn(|_| self.work());
            }
        });
        match self.failure.into_inner().expect("no thread panics holding it") {
            Some(error) => Err(error),
            None => Ok(self.drafts),
        }
    }

    fn work(&self) {
        let mut codec = Codec::default();
        let (mut packed, mut of_base, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
        while let Some((index, chunk)) = self.take() {
            let buffers = (&mut packed, &mut of_base, &mut bytes);
            if let Err(error) = self.chunk(index, chunk, &mut codec, buffers) {
                self.stop.store(true, Ordering::Relaxed);
                let mut failure = self.failure.lock().expect("no thread panics holding it");
                failure.get_or_insert(error);
            }
        }
    }

    /// The next chunk that nobody has begun: its blob and its number there.
    fn take(&self) -> Option<(usize, usize)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let index = self.ends.partition_point(|&end| end <= number);
        if index == self.blobs.len() || self.stop.load(Ordering::Relaxed) {
            return None;
        }
        Some((index, number + self.blobs[index].chunks.len() - self.ends[index]))
    }

    fn chunk(
        &self,
        index: usize,
        number: usize,
        codec: &mut Codec,
        (packed, of_base, bytes): (&mut Vec<u8>, &mut Vec<u8>, &mut Vec<u8>),
    ) -> Result<(), UnpackError> {
        if self.progress.cancelled() {
            return Err(UnpackError::Cancelled);
        }
        let blob = self.blobs[index];
        if !self.file.chunk(&blob.chunks[number], packed)? {
            return Err(self.file.damaged(chunk_damage(blob, number)));
        }
        let range = blob.elements.chunks(blob.size).nth(number).expect("the index was checked");
        let base = BaseBlob::of(blob, self.base)?;
        let base = base.read(&range, of_base)?;
        bytes.resize((range.end - range.start) as usize, 0);
        codec.unpack(blob.elements, packed, base, bytes).map_err(|source| {
            let path = self.file.path().to_path_buf();
            UnpackError::Codec { path, what: use_of(self.file, &blob.blob), source }
        })?;
        self.progress.add(bytes.len() as u64);
        if blob.chunks.len() == 1 {
            return Ok(self.drafts.keep(&[(index, bytes)])?);
        }
        self.drafts.write(index, range.start, bytes)?;
        if self.left[index].fetch_sub(1, Ordering::AcqRel) == 1 {
            self.drafts.seal(index)?;
        }
        Ok(())
    }
}
