//! Offers that wait for their commit, on disk: what a process leaves there, the next one on the same folder
//! takes up.
//!
//! A file for each process, locked by it while it runs, with the first digits of the space in its name. A record is
//! its length (u32), the first 4 bytes of its SHA-256, and the payload; numbers are little-endian. A file that
//! was cut anywhere opens to its last whole record.

mod payload;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use cart_format::Hasher;
use cart_memory::UnifiedMemory;
use thiserror::Error;

use super::{OfferId, PendingOffer};
use payload::Entry;

/// Why a journal can't be used.
#[derive(Debug, Error)]
#[error("the journal of offers at {} can't be opened: {source}", path.display())]
pub struct JournalError {
    /// The folder or file.
    path: PathBuf,
    /// What the system said.
    source: std::io::Error,
}

/// A process's journal.
pub(super) struct Journal {
    file: File,
    space: [u8; 32],
}

impl Journal {
    /// Begins a journal, with what ended processes left behind for the same space, in order of their files.
    ///
    /// * `process`: a number that only this process has
    /// * `memory`: the long-term memory that the offers are for
    pub(super) fn open(
        folder: &Path,
        process: u64,
        memory: &UnifiedMemory,
    ) -> Result<(Self, Vec<PendingOffer>), JournalError> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |source| JournalError { path, source }
        };
        std::fs::create_dir_all(folder).map_err(at(folder))?;
        let space = *memory.space().as_bytes();
        let prefix = memory.space().hex()[..16].to_owned();
        let mut left = Vec::new();
        let mut ended = Vec::new();
        for path in files(folder, &prefix).map_err(at(folder))? {
            let file = File::open(&path).map_err(at(&path))?;
            // Whoever runs holds the lock; its offers are its own.
            if file.try_lock().is_err() {
                continue;
            }
            let (found, is_whole) = unsettled(file, memory).map_err(at(&path))?;
            left.extend(found);
            ended.push((path, is_whole));
        }
        let path = folder.join(format!("{prefix}-{process:016x}.offers"));
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        let file = file.map_err(at(&path))?;
        file.lock().map_err(at(&path))?;
        let mut journal = Self { file, space };
        journal.append(left.iter()).map_err(at(&path))?;
        for (path, is_whole) in ended {
            let done = if is_whole {
                std::fs::remove_file(&path)
            } else {
                // Somebody may want to know what was offered there.
                std::fs::rename(&path, path.with_extension("unread"))
            };
            done.map_err(at(&path))?;
        }
        Ok((journal, left))
    }

    /// Writes offers down; they survive a power cut when this returns.
    pub(super) fn append<'o>(
        &mut self,
        offers: impl Iterator<Item = &'o PendingOffer>,
    ) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        for offer in offers {
            frame(&mut bytes, &payload::offered(&self.space, offer));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.file.write_all(&bytes)?;
        self.file.sync_data()
    }

    /// Notes that offers were committed. Not synced: an offer that is made again changes nothing.
    ///
    /// * `is_all`: whether none is left
    pub(super) fn settle(&mut self, ids: &[OfferId], is_all: bool) -> std::io::Result<()> {
        if is_all {
            self.file.set_len(0)?;
            return self.file.rewind();
        }
        let mut bytes = Vec::new();
        ids.iter().for_each(|id| frame(&mut bytes, &payload::settled(*id)));
        self.file.write_all(&bytes)
    }
}

/// Journals of a space, in order of name.
fn files(folder: &Path, prefix: &str) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(prefix) && name.ends_with(".offers") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The offers of a journal that were not settled, in order, and whether every whole record could be read.
fn unsettled(mut file: File, memory: &UnifiedMemory) -> std::io::Result<(Vec<PendingOffer>, bool)> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let (mut offers, mut is_whole) = (BTreeMap::new(), true);
    for payload in frames(&bytes) {
        match payload::read(payload, memory) {
            Some(Entry::Offered(offer)) => drop(offers.insert(offer.id, offer)),
            Some(Entry::Settled(id)) => drop(offers.remove(&id)),
            None => is_whole = false,
        }
    }
    Ok((offers.into_values().collect(), is_whole))
}

fn frame(bytes: &mut Vec<u8>, payload: &[u8]) {
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(checksum(payload));
    bytes.extend(payload);
}

/// The whole records at the beginning of a journal.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_at_checked(8)?;
        let length = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
        let (payload, rest) = rest.split_at_checked(length)?;
        bytes = rest;
        (checksum(payload) == head[4..]).then_some(payload)
    })
}

fn checksum(payload: &[u8]) -> [u8; 4] {
    let mut hasher = Hasher::new();
    hasher.update(payload);
    hasher.finish()[..4].try_into().expect("a digest has 32 bytes")
}

#[cfg(test)]
mod tests {
    use cart_format::SpaceId;
    use cart_memory::{MemoryConfig, Normalization, Observation};

    use super::*;

    fn memory(space: &[u8]) -> UnifiedMemory {
        let config = MemoryConfig {
            observer_interval: 1,
            consolidate_threshold: 0.0,
            ..MemoryConfig::default()
        };
        let normalization = Normalization::identity(2).unwrap();
        UnifiedMemory::new(SpaceId::of(space), normalization, config).unwrap()
    }

    fn offers(memory: &UnifiedMemory, count: u16) -> Vec<PendingOffer> {
        let mut conversation = memory.conversation();
        for at in 1..=count {
            let text = format!("text {at}");
            let seen = Observation {
                key: vec![1.0, f32::from(at)],
                token_keys: vec![0.5; 2 * text.len()],
                token_ids: text.bytes().map(u32::from).collect(),
                text,
                surprise: Vec::new(),
                energy: 0.5,
                source: "test".to_owned(),
            };
            conversation.observe(u64::from(at), &seen).unwrap();
        }
        let offered = conversation.take_offers().into_iter();
        let offer = |(count, offered)| PendingOffer { id: OfferId::new(7, count), offered };
        (0..).zip(offered).map(offer).collect()
    }

    fn open(folder: &Path, process: u64, memory: &UnifiedMemory) -> (Journal, Vec<PendingOffer>) {
        Journal::open(folder, process, memory).unwrap()
    }

    #[test]
    fn what_was_not_settled_is_found_by_the_next_process_and_only_by_it() {
        let folder = tempfile::tempdir().unwrap();
        let memory = memory(b"space");
        let offers = offers(&memory, 3);
        let (mut first, left) = open(folder.path(), 1, &memory);
        assert!(left.is_empty());
        first.append(offers.iter()).unwrap();
        first.settle(&[offers[1].id], false).unwrap();
        // It runs: its offers are its own.
        assert!(open(folder.path(), 2, &memory).1.is_empty());
        drop(first);
        let (third, left) = open(folder.path(), 3, &memory);
        assert_eq!(left, [offers[0].clone(), offers[2].clone()]);
        drop(third);
        let (mut fourth, left) = open(folder.path(), 4, &memory);
        assert_eq!(left.len(), 2);
        fourth.settle(&[offers[0].id, offers[2].id], true).unwrap();
        drop(fourth);
        assert!(open(folder.path(), 5, &memory).1.is_empty());
    }

    #[test]
    fn another_space_has_another_journal() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (memory(b"one"), memory(b"other"));
        open(folder.path(), 1, &one).0.append(offers(&one, 2).iter()).unwrap();
        assert!(open(folder.path(), 2, &other).1.is_empty());
        assert_eq!(open(folder.path(), 3, &one).1.len(), 2);
    }

    #[test]
    fn what_can_t_be_read_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let memory = memory(b"space");
        let (mut journal, _) = open(folder.path(), 1, &memory);
        let mut bytes = Vec::new();
        frame(&mut bytes, &[9, 9, 9]);
        journal.file.write_all(&bytes).unwrap();
        drop(journal);
        assert!(open(folder.path(), 2, &memory).1.is_empty());
        let prefix = &memory.space().hex()[..16];
        assert!(folder.path().join(format!("{prefix}-{:016x}.unread", 1)).exists());
    }

    #[test]
    fn a_journal_cut_at_any_byte_opens_to_its_last_whole_record() {
        let memory = memory(b"space");
        let offers = offers(&memory, 2);
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for offer in &offers {
            frame(&mut bytes, &payload::offered(memory.space().as_bytes(), offer));
            ends.push(bytes.len());
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut");
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let whole = ends.iter().filter(|&&end| end <= cut).count();
            let (read, is_whole) = unsettled(File::open(&path).unwrap(), &memory).unwrap();
            assert_eq!(read, offers[..whole]);
            assert!(is_whole);
        }
        // A flipped byte ends it there.
        bytes[ends[0] + 40] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(unsettled(File::open(&path).unwrap(), &memory).unwrap().0, offers[..1]);
    }
}
