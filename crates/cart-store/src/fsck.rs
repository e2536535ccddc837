//! A complete audit of a store.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::DirEntry;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use cart_format::{BlobEntry, BlobId, CommitId, ManifestId};
use serde::Serialize;
use thiserror::Error;

use crate::audit::{Audit, Unit, audit};
use crate::blob_source::BlobSource as _;
use crate::file_error::{At as _, FileError};
use crate::hashing::Cancelled;
use crate::progress::Progress;
use crate::reach::Reach;
use crate::ref_name::RefName;
use crate::refs::{RefError, named_files};
use crate::store::Store;
use crate::verify::{Damage, DamageKind};
use crate::witness::Nobody;

/// How to audit.
#[derive(Clone, Copy, Debug, Default)]
pub struct FsckOptions {
    /// Threads that hash; every core if absent.
    pub threads: Option<usize>,
    /// Whether blobs over 16 MiB are hashed whole even where a manifest has their segments.
    pub whole: bool,
}

/// Why the audit was not finished. What it finds is in the report, not here.
#[derive(Debug, Error)]
pub enum FsckError {
    /// [`Progress::cancelled`] said so.
    #[error("cancelled; the store was not audited")]
    Cancelled,
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Something wrong with a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum FsckProblem {
    /// A blob is damaged or missing.
    Blob(Damage),
    /// A commit, or something that it needs, is damaged or missing.
    History {
        /// The name through which it is reached; absent if none reaches it.
        name: Option<RefName>,
        /// What is wrong.
        reason: String,
    },
    /// A ref can't be read.
    Ref {
        /// What is wrong.
        reason: String,
    },
    /// A line of a log can't be read.
    Log {
        /// The log's ref.
        name: RefName,
        /// The line, from 1.
        line: usize,
    },
    /// A file that does not belong in a store.
    Stray {
        /// The file.
        path: PathBuf,
    },
}

/// What the audit saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FsckReport {
    /// Blobs and manifests hashed.
    pub blobs: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// Commits read.
    pub commits: u64,
    /// Refs read.
    pub refs: u64,
    /// Blobs and manifests that nothing names; gc collects them.
    pub unreachable_blobs: u64,
    /// Temporary files; gc sweeps those of dead processes.
    pub temporary_files: u64,
    /// Threads that hashed.
    pub threads: usize,
    /// What is wrong.
    pub problems: Vec<FsckProblem>,
}

impl FsckReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

impl Store {
    /// Reads everything: every blob is hashed, every commit, manifest, ref and log is parsed, and
    /// everything they name must be there. Changes nothing; works on a read-only store.
    ///
    /// # Errors
    /// A folder of the store can't be listed, or `progress` cancelled.
    pub fn fsck(
        &self,
        options: &FsckOptions,
        progress: &dyn Progress,
    ) -> Result<FsckReport, FsckError> {
        // Without the right to write there is no lock, and then nobody collects either.
        let _guard = self.hold().ok();
        let mut report = FsckReport::default();
        let mut uses: BTreeMap<BlobId, Vec<String>> = BTreeMap::new();
        let reach = self.fsck_names(&mut report, &mut uses)?;
        self.fsck_commits(&mut report)?;
        self.fsck_blobs(&reach, &uses, options, progress, &mut report)?;
        report.temporary_files = entries(&self.layout.tmp())?.len() as u64;
        Ok(report)
    }

    /// Refs and logs, and what is reached from the refs.
    fn fsck_names(
        &self,
        report: &mut FsckReport,
        uses: &mut BTreeMap<BlobId, Vec<String>>,
    ) -> Result<Reach, FsckError> {
        let mut reach = Reach::default();
        for name in fsck_folder(&self.layout.refs(), report) {
            report.refs += 1;
            match self.read_ref(&name) {
                Ok(Some(commit)) => {
                    let mut visit = |id: ManifestId, manifest: &cart_format::Manifest| {
                        for (what, blob) in manifest.uses() {
                            uses.entry(blob).or_default().push(format!("{what} of {}", id.short()));
                        }
                    };
                    if let Err(error) = reach.add(self, commit, &mut visit) {
                        let reason = error.to_string();
                        report.problems.push(FsckProblem::History { name: Some(name), reason });
                    }
                }
                // Deleted since.
                Ok(None) => {}
                Err(error) => {
                    report.problems.push(FsckProblem::Ref { reason: error.to_string() });
                }
            }
        }
        for name in fsck_folder(&self.layout.logs(), report) {
            for line in self.raw_log(&name)?.damaged {
                report.problems.push(FsckProblem::Log { name: name.clone(), line });
            }
        }
        Ok(reach)
    }

    fn fsck_commits(&self, report: &mut FsckReport) -> Result<(), FsckError> {
        let files = ids::<CommitId>(&self.layout.commits(), report)?;
        for (id, _) in files {
            report.commits += 1;
            if let Err(error) = self.commit(&id) {
                let reason = error.to_string();
                report.problems.push(FsckProblem::History { name: None, reason });
            }
        }
        Ok(())
    }

    fn fsck_blobs(
        &self,
        reach: &Reach,
        uses: &BTreeMap<BlobId, Vec<String>>,
        options: &FsckOptions,
        progress: &dyn Progress,
        report: &mut FsckReport,
    ) -> Result<(), FsckError> {
        let mut damage = Vec::new();
        let mut units = Vec::new();
        let present: BTreeMap<BlobId, u64> =
            ids(&self.layout.blobs(), report)?.into_iter().collect();
        for (&blob, entry) in &reach.blobs {
            match present.get(&blob) {
                None => damage.push((blob, DamageKind::Missing)),
                Some(&found) if found != entry.size => {
                    damage.push((blob, DamageKind::Size { found, expected: entry.size }));
                }
                Some(_) => {}
            }
        }
        for (&blob, &size) in &present {
            report.unreachable_blobs += u64::from(!reach.has_blob(&blob));
            match reach.blobs.get(&blob).filter(|entry| entry.size == size) {
                Some(entry) => units.extend(to_hash(blob, entry, options.whole)),
                None => units.push(Unit::whole(blob, size)),
            }
        }
        report.blobs = present.len() as u64;
        let locate = |blob: &BlobId| self.locate(blob);
        let Audit { found, bytes, threads, .. } =
            audit(units, options.threads, &locate, progress, &Nobody)
                .map_err(|Cancelled| FsckError::Cancelled)?;
        (report.bytes, report.threads) = (bytes, threads);
        damage.extend(found.into_iter().map(|(blob, _, kind)| (blob, kind)));
        let of = |blob| uses.get(&blob).cloned().unwrap_or_default();
        let problem = |(blob, kind)| FsckProblem::Blob(Damage { blob, uses: of(blob), kind });
        report.problems.extend(damage.into_iter().map(problem));
        Ok(())
    }
}

/// The names in a folder of refs or logs; a failure is a problem.
fn fsck_folder(folder: &Path, report: &mut FsckReport) -> Vec<RefName> {
    match named_files(folder) {
        Ok(names) => names,
        Err(RefError::Stray { path }) => {
            report.problems.push(FsckProblem::Stray { path });
            Vec::new()
        }
        Err(error) => {
            report.problems.push(FsckProblem::Ref { reason: error.to_string() });
            Vec::new()
        }
    }
}

fn to_hash(blob: BlobId, entry: &BlobEntry, whole: bool) -> Vec<Unit> {
    let mut units: Vec<Unit> = Unit::segments(blob, entry).collect();
    if units.is_empty() || whole {
        units.push(Unit::whole(blob, entry.size));
    }
    units
}

/// The ids that are names of files in a folder, with lengths, sorted. Others are strays.
fn ids<T: FromStr + Ord>(
    folder: &Path,
    report: &mut FsckReport,
) -> Result<Vec<(T, u64)>, FileError> {
    let mut found = Vec::new();
    for entry in entries(folder)? {
        let path = entry.path();
        let data = entry.metadata().at("read", &path)?;
        let id = path.file_name().and_then(OsStr::to_str).and_then(|name| name.parse().ok());
        match id.filter(|_| data.is_file()) {
            Some(id) => found.push((id, data.len())),
            None => report.problems.push(FsckProblem::Stray { path }),
        }
    }
    found.sort();
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<DirEntry>, FileError> {
    std::fs::read_dir(folder)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .at("list", folder)
}

impl fmt::Display for FsckProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob(damage) if damage.uses.is_empty() => {
                write!(f, "blob {}, which nothing names: {}", damage.blob, damage.kind)
            }
            Self::Blob(damage) => damage.fmt(f),
            Self::History { name: Some(name), reason } => write!(f, "{name}: {reason}"),
            Self::History { name: None, reason } | Self::Ref { reason } => f.write_str(reason),
            Self::Log { name, line } => write!(f, "line {line} of the log of {name} can't be read"),
            Self::Stray { path } => write!(f, "{} does not belong in a store", path.display()),
        }
    }
}
