//! Collecting what nothing names any more.
//!
//! First everything is planned, with nobody else writing; then unreachable objects are moved to
//! `trash/`, and what has lain there for the grace period is deleted. A commit that a log names
//! counts as named until its line is older than the grace period. If anything that is named can't
//! be read, nothing is moved: what it names can't be known.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use cart_format::{BlobId, CommitId};
use serde::Serialize;
use thiserror::Error;

use crate::file_error::{At as _, FileError};
use crate::lock::Lock;
use crate::objects::ObjectError;
use crate::reach::Reach;
use crate::ref_name::RefName;
use crate::refs::{RefError, named_files};
use crate::store::Store;

/// How to collect.
#[derive(Clone, Copy, Debug)]
pub struct GcOptions {
    /// Seconds since 1970-01-01 UTC.
    pub now: u64,
    /// Seconds that garbage lies in the trash, and that a log keeps what it names.
    pub grace: u64,
    /// Whether only to say what would be done.
    pub dry_run: bool,
}

/// Why nothing was collected, or not all.
#[derive(Debug, Error)]
pub enum GcError {
    /// A commit that is named, or something that it needs, can't be read.
    #[error("nothing was collected: {name} can't be read: {source}; `cart fsck` shows all damage")]
    Root {
        /// The name.
        name: RefName,
        /// What is wrong.
        source: Box<ObjectError>,
    },
    /// A ref or a log can't be read.
    #[error("nothing was collected: {0}")]
    Ref(#[from] RefError),
    /// A log has a line that can't be read.
    #[error("nothing was collected: line {line} of the log of {name} can't be read")]
    Log {
        /// The log's ref.
        name: RefName,
        /// The line, from 1.
        line: usize,
    },
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What was collected, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Whether nothing was really done.
    pub dry_run: bool,
    /// Commits that are kept.
    pub kept_commits: u64,
    /// Blobs and manifests that are kept.
    pub kept_blobs: u64,
    /// Commits moved to the trash.
    pub trashed_commits: u64,
    /// Blobs and manifests moved to the trash.
    pub trashed_blobs: u64,
    /// Bytes moved to the trash.
    pub trashed_bytes: u64,
    /// Files deleted from the trash.
    pub deleted_files: u64,
    /// Bytes that this freed.
    pub deleted_bytes: u64,
    /// Files that dead processes left.
    pub temporary_files: u64,
    /// Bytes that this freed.
    pub temporary_bytes: u64,
}

/// A file with its length.
struct Sized {
    path: PathBuf,
    bytes: u64,
}

/// What is to be done.
struct Plan {
    trash: Vec<(Sized, PathBuf)>,
    delete: Vec<Sized>,
    temporary: Vec<Sized>,
    report: GcReport,
}

impl Store {
    /// Collects what nothing names. Waits until nobody writes to the store.
    ///
    /// # Errors
    /// Something that is named can't be read (then nothing was done), or the store can't be
    /// written.
    pub fn gc(&self, options: &GcOptions) -> Result<GcReport, GcError> {
        let _lock = Lock::exclusive(&self.layout.store_lock())?;
        let plan = self.plan_gc(options)?;
        if !options.dry_run {
            self.apply_gc(&plan)?;
        }
        Ok(plan.report)
    }

    fn plan_gc(&self, options: &GcOptions) -> Result<Plan, GcError> {
        let reach = self.reach(options)?;
        let mut report = GcReport { dry_run: options.dry_run, ..GcReport::default() };
        let mut trash = Vec::new();
        for file in files(&self.layout.commits())? {
            let Some(id) = id_of::<CommitId>(&file.path) else { continue };
            if reach.commits.contains(&id) {
                report.kept_commits += 1;
            } else {
                report.trashed_commits += 1;
                trash.push((file, format!("{}.commit.{id}", options.now)));
            }
        }
        for file in files(&self.layout.blobs())? {
            let Some(id) = id_of::<BlobId>(&file.path) else { continue };
            if reach.has_blob(&id) {
                report.kept_blobs += 1;
            } else {
                report.trashed_blobs += 1;
                trash.push((file, format!("{}.blob.{id}", options.now)));
            }
        }
        report.trashed_bytes = trash.iter().map(|(file, _)| file.bytes).sum();
        let folder = self.layout.trash();
        let trash: Vec<_> =
            trash.into_iter().map(|(file, name)| (file, folder.join(name))).collect();
        let expired = |since: u64| since.saturating_add(options.grace) <= options.now;
        let mut delete = files(&folder)?;
        delete.retain(|file| trashed_at(&file.path).is_some_and(expired));
        if expired(options.now) {
            let moved =
                |(file, to): &(Sized, PathBuf)| Sized { path: to.clone(), bytes: file.bytes };
            delete.extend(trash.iter().map(moved));
        }
        report.deleted_files = delete.len() as u64;
        report.deleted_bytes = delete.iter().map(|file| file.bytes).sum();
        // Nobody writes while the lock is held, so every temporary file is a dead process's.
        let temporary = files(&self.layout.tmp())?;
        report.temporary_files = temporary.len() as u64;
        report.temporary_bytes = temporary.iter().map(|file| file.bytes).sum();
        Ok(Plan { trash, delete, temporary, report })
    }

    fn reach(&self, options: &GcOptions) -> Result<Reach, GcError> {
        let mut reach = Reach::default();
        for (name, commit) in self.list_refs()? {
            reach
                .add(self, commit, &mut |_, _| ())
                .map_err(|source| GcError::Root { name, source: source.into() })?;
        }
        for name in named_files(&self.layout.logs())? {
            let log = self.raw_log(&name)?;
            if let Some(&line) = log.damaged.first() {
                return Err(GcError::Log { name, line });
            }
            let young =
                log.entries.iter().filter(|e| e.time.saturating_add(options.grace) > options.now);
            for commit in young.flat_map(|entry| [entry.old, entry.new]).flatten() {
                // An earlier run with a shorter grace period may have taken it.
                if self.layout.commit(&commit).is_file() {
                    reach.add(self, commit, &mut |_, _| ()).map_err(|source| GcError::Root {
                        name: name.clone(),
                        source: source.into(),
                    })?;
                }
            }
        }
        Ok(reach)
    }

    /// Commits go first: a crash between leaves blobs without commits, not commits without blobs.
    fn apply_gc(&self, plan: &Plan) -> Result<(), FileError> {
        for (file, to) in &plan.trash {
            self.publisher.rename(&file.path, to)?;
        }
        if !plan.trash.is_empty() {
            self.publisher.sync_folder(&self.layout.trash())?;
            self.publisher.sync_folder(&self.layout.commits())?;
            self.publisher.sync_folder(&self.layout.blobs())?;
        }
        for file in plan.delete.iter().chain(&plan.temporary) {
            self.publisher.remove(&file.path)?;
        }
        Ok(())
    }
}

fn files(folder: &Path) -> Result<Vec<Sized>, FileError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).at("list", folder)? {
        let path = entry.at("list", folder)?.path();
        let data = std::fs::symlink_metadata(&path).at("read", &path)?;
        if data.is_file() {
            found.push(Sized { path, bytes: data.len() });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The id that is a file's name; files with other names are left alone.
fn id_of<T: std::str::FromStr>(path: &Path) -> Option<T> {
    path.file_name().and_then(OsStr::to_str)?.parse().ok()
}

/// When a file in the trash was put there.
fn trashed_at(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.split_once('.')?.0.parse().ok()
}
