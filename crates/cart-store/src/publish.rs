//! The durable writer: nothing else writes, renames or removes files in a store.
//!
//! What survives what:
//!
//! * **A kill at any instant.** A file appears under its lasting name by one rename, complete or
//!   not at all. What a dead process leaves in `tmp/` is swept by the next gc.
//! * **A power cut at any instant.** A file's bytes are synced before its rename, and the folder is
//!   synced before anything that refers to it is renamed: blobs, then manifest, then commit, then
//!   log and ref. So whatever a ref names after the cut is complete.
//! * **A full disk.** Fills at the temporary file, which is then removed.
//! * **Not** a disk that acknowledges a sync that it has not done, nor a file system that does not
//!   keep the order of a sync and a later rename.
//!
//! Objects are named by their digests, so publishing one that exists is success, and two processes
//! that publish the same one do not disturb each other: the rename does not replace.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags};

use crate::faults::{Effect, Faults};
use crate::file_error::{At as _, FileError, folder_of};
use crate::source::{SourceRange, same_bytes};

/// Makes temporary names unique in this process.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Does every effect on a store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Publisher {
    faults: Option<Arc<Faults>>,
}

/// A file that has no lasting name yet and may not be durable. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Unpublished {
    file: Arc<File>,
    temporary: Temporary,
}

/// A durable file that has no lasting name yet. Dropped, it is removed. Only this can be given a
/// name, so no name ever stands for bytes that a power cut can take.
#[derive(Debug)]
pub(crate) struct Synced {
    temporary: Temporary,
}

/// A path that is removed when dropped, unless it was renamed away.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    publisher: Publisher,
    renamed: bool,
}

impl Publisher {
    #[cfg(test)]
    pub(crate) fn with_faults(faults: Arc<Faults>) -> Self {
        Self { faults: Some(faults) }
    }

    fn step(
        &self,
        action: &'static str,
        path: &Path,
        effect: impl FnOnce() -> Effect,
    ) -> Result<(), FileError> {
        match &self.faults {
            Some(faults) => faults.before(effect()).at(action, path),
            None => Ok(()),
        }
    }

    /// Makes a folder, its parents, and their entries durable. Nothing happens if it exists.
    pub(crate) fn make_folder(&self, path: &Path) -> Result<(), FileError> {
        if path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.make_folder(parent)?;
        }
        self.step("make folder", path, || Effect::MakeFolder(path.to_path_buf()))?;
        match std::fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.at("make folder", path),
        }?;
        parent.map_or(Ok(()), |parent| self.sync_folder(parent))
    }

    /// A new empty file in `folder`, under a name that no other process uses.
    pub(crate) fn create(&self, folder: &Path, stem: &str) -> Result<Unpublished, FileError> {
        loop {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("{stem}.{}.{count}.tmp", std::process::id()));
            self.step("create", &path, || Effect::Create(path.clone()))?;
            match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                // Left by a dead process that had our number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => {
                    let file = made.at("create a file in", folder)?;
                    let publisher = self.clone();
                    let temporary = Temporary { path, publisher, renamed: false };
                    return Ok(Unpublished { file: Arc::new(file), temporary });
                }
            }
        }
    }

    /// Publishes bytes under `path`, durably. Returns whether it was new.
    pub(crate) fn publish(&self, tmp: &Path, path: &Path, bytes: &[u8]) -> Result<bool, FileError> {
        let made = self.create(tmp, "object")?;
        made.write_at(bytes, 0)?;
        let new = made.sync()?.publish(path)?;
        self.sync_parent(path)?;
        Ok(new)
    }

    /// Publishes bytes under `path`, durably, in place of what is there.
    pub(crate) fn replace(&self, tmp: &Path, path: &Path, bytes: &[u8]) -> Result<(), FileError> {
        let made = self.create(tmp, "ref")?;
        made.write_at(bytes, 0)?;
        made.sync()?.replace(path)?;
        self.sync_parent(path)
    }

    /// Adds bytes to the end of `path`, durably, after cutting what follows its last newline (which
    /// a crash left).
    pub(crate) fn append_line(&self, path: &Path, line: &[u8]) -> Result<(), FileError> {
        let existed = path.exists();
        self.step("write", path, || Effect::Write(path.to_path_buf()))?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let file = file.at("write", path)?;
        let end = end_of_last_line(&file).at("read", path)?;
        file.set_len(end).at("write", path)?;
        if let Err(error) = file.write_all_at(line, end).at("write", path) {
            drop(file.set_len(end));
            return Err(error);
        }
        self.step("sync", path, || Effect::Sync(path.to_path_buf()))?;
        file.sync_data().at("sync", path)?;
        if existed { Ok(()) } else { self.sync_parent(path) }
    }

    /// Renames durably, in place of what is there.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), FileError> {
        self.step("rename", from, || Effect::Rename(from.to_path_buf(), to.to_path_buf()))?;
        std::fs::rename(from, to).at("rename", from)
    }

    /// Removes a file. Its absence is success.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), FileError> {
        self.step("remove", path, || Effect::Remove(path.to_path_buf()))?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.at("remove", path),
        }
    }

    /// Makes a folder's entries durable.
    pub(crate) fn sync_folder(&self, path: &Path) -> Result<(), FileError> {
        self.step("sync", path, || Effect::SyncFolder(path.to_path_buf()))?;
        File::open(path).and_then(|folder| folder.sync_all()).at("sync", path)
    }

    fn sync_parent(&self, path: &Path) -> Result<(), FileError> {
        self.sync_folder(folder_of(path))
    }
}

impl Unpublished {
    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.temporary.path
    }

    /// Writes bytes at an offset.
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), FileError> {
        self.before_write()?;
        self.file.write_all_at(bytes, offset).at("write", self.path())
    }

    /// Must be called before bytes get into [`Unpublished::file`] in another way.
    pub(crate) fn before_write(&self) -> Result<(), FileError> {
        let path = self.path();
        self.temporary.publisher.step("write", path, || Effect::Write(path.to_path_buf()))
    }

    /// Makes what was written so far durable, while more is written. The file still has to be
    /// synced.
    pub(crate) fn sync_so_far(&self) -> Result<(), FileError> {
        self.file.sync_data().at("sync", self.path())
    }

    /// Makes the bytes durable.
    pub(crate) fn sync(self) -> Result<Synced, FileError> {
        let path = self.path();
        self.temporary.publisher.step("sync", path, || Effect::Sync(path.to_path_buf()))?;
        self.file.sync_data().at("sync", path)?;
        Ok(Synced { temporary: self.temporary })
    }
}

impl Synced {
    /// Gives the file its lasting name, unless a file with the same bytes has it. (One with others
    /// is damaged, since names are digests, and is replaced.) Returns whether it was given. The
    /// folder is left to be synced by the caller.
    pub(crate) fn publish(mut self, to: &Path) -> Result<bool, FileError> {
        let from = self.temporary.path.clone();
        let effect = || Effect::Rename(from.clone(), to.to_path_buf());
        self.temporary.publisher.step("rename", &from, effect)?;
        match rename_new(&from, to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let ours = SourceRange::whole(&from)?;
                if same_bytes(&ours, &SourceRange::whole(to)?) {
                    return Ok(false);
                }
                std::fs::rename(&from, to).at("rename", &from)?;
            }
            renamed => renamed.at("rename", &from)?,
        }
        self.temporary.renamed = true;
        Ok(true)
    }

    /// Gives the file its lasting name in place of what has it.
    pub(crate) fn replace(mut self, to: &Path) -> Result<(), FileError> {
        self.temporary.publisher.rename(&self.temporary.path, to)?;
        self.temporary.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // A failure leaves a stray temporary file, which gc sweeps.
            drop(self.publisher.remove(&self.path));
        }
    }
}

/// Renames without replacing. Where the file system can't, a link fails just as well when the name
/// is taken.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        renamed => Ok(renamed?),
    }
}

/// The offset after the last newline.
fn end_of_last_line(file: &File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut buffer = [0; 512];
    while end > 0 {
        let from = end.saturating_sub(buffer.len() as u64);
        let part = &mut buffer[..(end - from) as usize];
        file.read_exact_at(part, from)?;
        if let Some(at) = part.iter().rposition(|&byte| byte == b'\n') {
            return Ok(from + at as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}
