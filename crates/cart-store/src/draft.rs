//! Blobs that are computed: written in any order, hashed when they are complete.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use cart_format::limits::SEGMENT;
use cart_format::{BlobEntry, BlobId, Hasher, SegmentId};

use crate::file_error::FileError;
use crate::hashing::{self, HashError};
use crate::ingest::Ingested;
use crate::lock::StoreGuard;
use crate::progress::Silent;
use crate::publish::{Synced, Unpublished};
use crate::source::SourceRange;
use crate::store::Store;

/// Threads that only wait for the disk.
const SYNCERS: usize = 4;
/// Files that wait for a syncer.
const WAITING: usize = 16;

/// Blobs in the making. Nothing of them has a lasting name before [`Drafts::publish`]; dropped, they
/// are removed.
#[derive(Debug)]
pub struct Drafts {
    store: Store,
    blobs: Vec<Mutex<Draft>>,
    syncers: Vec<JoinHandle<Vec<SyncedFile>>>,
    /// None where nothing is to be kept.
    written: Mutex<Option<SyncSender<(usize, Unpublished)>>>,
    /// Keeps gc away.
    _guard: StoreGuard,
}

#[derive(Debug)]
enum Draft {
    /// Nothing was written yet; its length.
    Empty(u64),
    /// Under a temporary name.
    Open(u64, Arc<Unpublished>),
    /// Hashed, and on its way to the disk.
    Sealed(Ingested),
    /// Taken out to be hashed; stays so where that failed.
    Away,
}

impl Store {
    /// Begins blobs of these lengths.
    ///
    /// # Errors
    /// The store can't be written.
    pub fn drafts(&self, lens: impl IntoIterator<Item = u64>) -> Result<Drafts, FileError> {
        let mut drafts = self.passing_drafts(lens)?;
        let (sender, receiver) = sync_channel(WAITING);
        let receiver = Arc::new(Mutex::new(receiver));
        drafts.syncers = (0..SYNCERS)
            .map(|_| {
                let receiver = Arc::clone(&receiver);
                std::thread::spawn(move || sync_all(&receiver))
            })
            .collect();
        *drafts.written.get_mut().expect("nobody holds it yet") = Some(sender);
        Ok(drafts)
    }

    /// Begins blobs of these lengths that will not be kept: only their ids are wanted.
    ///
    /// # Errors
    /// The store can't be written.
    pub fn passing_drafts(&self, lens: impl IntoIterator<Item = u64>) -> Result<Drafts, FileError> {
        Ok(Drafts {
            store: self.clone(),
            blobs: lens.into_iter().map(|len| Mutex::new(Draft::Empty(len))).collect(),
            syncers: Vec::new(),
            written: Mutex::new(None),
            _guard: self.hold()?,
        })
    }
}

/// A file that was synced, and its index.
type SyncedFile = (usize, Result<Synced, FileError>);

fn sync_all(receiver: &Mutex<Receiver<(usize, Unpublished)>>) -> Vec<SyncedFile> {
    let mut synced = Vec::new();
    loop {
        let next = receiver.lock().expect("no thread panics holding it").recv();
        let Ok((index, file)) = next else { return synced };
        synced.push((index, file.sync()));
    }
}

impl Drafts {
    /// Writes some bytes of draft `index`. Called from several threads at once.
    ///
    /// # Errors
    /// The store can't be written.
    pub fn write(&self, index: usize, at: u64, bytes: &[u8]) -> Result<(), FileError> {
        let file = {
            let mut draft = self.blobs[index].lock().expect("no thread panics holding it");
            if let Draft::Empty(len) = *draft {
                let made = self.store.publisher.create(&self.store.layout.tmp(), "blob")?;
                *draft = Draft::Open(len, Arc::new(made));
            }
            let Draft::Open(_, file) = &*draft else { panic!("a sealed draft is not written to") };
            Arc::clone(file)
        };
        file.write_at(bytes, at)
    }

    /// Hashes a draft, whose every byte was written, and hands it to the disk.
    ///
    /// # Errors
    /// It can't be read back, or the store can't be written.
    pub fn seal(&self, index: usize) -> Result<(), FileError> {
        if matches!(*self.blobs[index].lock().expect("no thread panics"), Draft::Empty(_)) {
            self.write(index, 0, &[])?;
        }
        let (len, file) = self.take(index);
        let range = SourceRange::range(file.file(), &file.path().into(), 0, len);
        let digests = digests(&range)?;
        drop(range);
        self.hand_over(index, file, len, digests);
        Ok(())
    }

    /// Writes one or two drafts whole, hashes them, and hands them to the disk. Two are hashed side
    /// by side, which is quicker.
    ///
    /// # Errors
    /// The store can't be written.
    pub fn keep(&self, drafts: &[(usize, &[u8])]) -> Result<(), FileError> {
        for &(index, bytes) in drafts {
            self.write(index, 0, bytes)?;
        }
        if drafts.iter().any(|(_, bytes)| bytes.len() as u64 > SEGMENT) {
            return drafts.iter().try_for_each(|(index, _)| self.seal(*index));
        }
        let mut hashers = [Hasher::new(), Hasher::new()];
        let [first, second] = &mut hashers;
        match drafts {
            [(_, one), (_, two)] => first.update_pair(one, second, two),
            _ => drafts.iter().for_each(|(_, bytes)| first.update(bytes)),
        }
        for (&(index, _), hasher) in drafts.iter().zip(hashers) {
            let (len, file) = self.take(index);
            self.hand_over(index, file, len, (hasher.finish(), Vec::new()));
        }
        Ok(())
    }

    /// What a draft is, is known; its file goes to the disk, if it is to be kept.
    fn hand_over(&self, index: usize, file: Arc<Unpublished>, len: u64, digests: Digests) {
        let (whole, segments) = digests;
        let entry = BlobEntry { size: len, segments };
        let blob = Ingested { blob: BlobId::from_bytes(whole), entry, new_bytes: 0 };
        *self.blobs[index].lock().expect("no thread panics") = Draft::Sealed(blob);
        let file = Arc::into_inner(file).expect("all writing was done before the draft was sealed");
        let written = self.written.lock().expect("no thread panics").clone();
        if let Some(written) = written {
            written.send((index, file)).expect("syncers live as long as senders");
        }
    }

    fn take(&self, index: usize) -> (u64, Arc<Unpublished>) {
        let mut draft = self.blobs[index].lock().expect("no thread panics holding it");
        match std::mem::replace(&mut *draft, Draft::Away) {
            Draft::Open(len, file) => (len, file),
            _ => panic!("a draft is sealed once, after it was written"),
        }
    }

    /// Gives every draft its lasting name, when all of them are durable. They were all sealed.
    ///
    /// # Errors
    /// The store can't be written. Nothing half-written has a lasting name then.
    pub fn publish(self) -> Result<Vec<Ingested>, FileError> {
        let published = self.publish_if(|_, _| true)?;
        Ok(published.unwrap_or_else(|_| unreachable!("everything is expected")))
    }

    /// As [`Drafts::publish`], but nothing gets a lasting name unless every draft is what `expected`
    /// says of its index; else gives the first that is not.
    ///
    /// # Errors
    /// As [`Drafts::publish`].
    pub(crate) fn publish_if(
        mut self,
        expected: impl Fn(usize, &Ingested) -> bool,
    ) -> Result<Result<Vec<Ingested>, (usize, Ingested)>, FileError> {
        let synced = self.synced();
        let mut done = self.sealed();
        if let Some((index, found)) = done.iter().enumerate().find(|(at, one)| !expected(*at, one))
        {
            return Ok(Err((index, found.clone())));
        }
        let synced = synced.into_iter().map(|(index, file)| Ok((index, file?)));
        let synced = synced.collect::<Result<Vec<_>, FileError>>()?;
        self.store.publish_blobs(&mut done, synced)?;
        Ok(Ok(done))
    }

    /// What the drafts would be. They were all sealed, and are removed.
    pub fn identify(mut self) -> Vec<Ingested> {
        self.sealed()
    }

    /// Waits for the disk.
    fn synced(&mut self) -> Vec<SyncedFile> {
        drop(self.written.get_mut().expect("no thread panics").take());
        let join = |syncer: JoinHandle<_>| {
            syncer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        self.syncers.drain(..).flat_map(join).collect()
    }

    fn sealed(&mut self) -> Vec<Ingested> {
        let blob = |draft: Mutex<Draft>| match draft.into_inner().expect("no thread panics") {
            Draft::Sealed(blob) => blob,
            _ => panic!("drafts are asked for when all of them are sealed"),
        };
        self.blobs.drain(..).map(blob).collect()
    }
}

impl Drop for Drafts {
    /// Waits for the syncers, so that no file outlives the drafts.
    fn drop(&mut self) {
        drop(self.synced());
    }
}

/// The digest of the whole and those of the segments.
type Digests = ([u8; 32], Vec<SegmentId>);

fn digests(range: &SourceRange) -> Result<Digests, FileError> {
    let read = |buffer: &mut [u8], at| range.read_at(buffer, at);
    let digests = if range.len() > SEGMENT {
        hashing::digest_segments(range.len(), &Silent, read)
    } else {
        hashing::digest(0..range.len(), &Silent, read).map(|whole| (whole, Vec::new()))
    };
    digests.map_err(uncancelled)
}

fn uncancelled(error: HashError) -> FileError {
    match error {
        HashError::File(error) => error,
        HashError::Cancelled => unreachable!("nobody is asked"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::blob_source::BlobSource as _;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(folder.path().join("store")).unwrap();
        (folder, store)
    }

    #[test]
    fn drafts_become_the_blobs_that_their_bytes_are() {
        let (_folder, store) = store();
        let long: Vec<u8> = (0..SEGMENT + 5).map(|index| ((index * 31) >> 3) as u8).collect();
        let contents: [&[u8]; 5] = [b"one and", b"another", &[], &long, b"a third, beside it"];
        let drafts = store.drafts(contents.iter().map(|bytes| bytes.len() as u64)).unwrap();
        drafts.write(0, 4, b"and").unwrap();
        drafts.write(0, 0, b"one ").unwrap();
        drafts.write(3, SEGMENT, &long[SEGMENT as usize..]).unwrap();
        drafts.write(3, 0, &long[..SEGMENT as usize]).unwrap();
        drafts.seal(0).unwrap();
        drafts.keep(&[(1, contents[1]), (4, b"a third, beside it")]).unwrap();
        drafts.seal(2).unwrap();
        drafts.seal(3).unwrap();
        let made = drafts.publish().unwrap();
        let sources = contents.map(SourceRange::bytes);
        let expected = store.ingest(&sources, &Silent).unwrap();
        for (made, expected) in made.iter().zip(&expected) {
            assert_eq!((made.blob, &made.entry), (expected.blob, &expected.entry));
            assert_eq!((made.new_bytes, expected.new_bytes), (made.entry.size, 0));
            assert_eq!(store.locate(&made.blob).unwrap().len, made.entry.size);
        }
    }

    #[test]
    fn passing_drafts_are_identified_and_leave_nothing() {
        let (_folder, store) = store();
        let drafts = store.passing_drafts([3]).unwrap();
        drafts.write(0, 0, b"abc").unwrap();
        drafts.seal(0).unwrap();
        assert_eq!(drafts.identify()[0].blob, BlobId::of(b"abc"));
        assert_eq!(fs::read_dir(store.layout.blobs()).unwrap().count(), 0);
        assert_eq!(fs::read_dir(store.layout.tmp()).unwrap().count(), 0);
    }

    #[test]
    fn dropped_drafts_leave_nothing() {
        let (_folder, store) = store();
        let drafts = store.drafts([3, 3]).unwrap();
        drafts.write(0, 0, b"abc").unwrap();
        drafts.write(1, 0, b"xyz").unwrap();
        drafts.seal(0).unwrap();
        drop(drafts);
        assert_eq!(fs::read_dir(store.layout.blobs()).unwrap().count(), 0);
        assert_eq!(fs::read_dir(store.layout.tmp()).unwrap().count(), 0);
    }
}
