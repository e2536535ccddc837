//! Writing the single-file form.

use std::path::{Path, PathBuf};

use cart_format::cartfile::{self, CartPlan, Content};
use cart_format::{CommitError, ManifestError};
use thiserror::Error;

use crate::blob_source::BlobError;
use crate::copying::copy;
use crate::file_error::{FileError, existing_folder_of};
use crate::hashing::HashError;
use crate::progress::Progress;
use crate::publish::Publisher;
use crate::verify::Verified;

/// Why no `.cart` file was written. What was at its path is as before.
#[derive(Debug, Error)]
pub enum CartWriteError {
    /// [`Progress::cancelled`] said so.
    #[error("cancelled; {} was not written", path.display())]
    Cancelled {
        /// The file.
        path: PathBuf,
    },
    /// The cartridge has no single-file form.
    #[error(transparent)]
    Layout(#[from] cartfile::CartFileError),
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

impl Verified {
    /// Writes the cartridge as a `.cart` file, durably, in place of what is at `path`. The same
    /// commit gives the same bytes. Returns the file's length.
    ///
    /// # Errors
    /// The file can't be written, or `progress` cancelled; `path` is then as it was.
    pub fn write_cart(&self, path: &Path, progress: &dyn Progress) -> Result<u64, CartWriteError> {
        let manifest = self.manifest().to_bytes()?;
        let commit = self.cartridge().commit();
        let commit = commit.map(|(_, commit)| commit.to_bytes()).transpose()?;
        let plan = CartPlan::new(self.manifest(), &manifest, commit.as_deref())?;
        progress.total(plan.len());
        let folder = existing_folder_of(path)?;
        let publisher = Publisher::default();
        let file = publisher.create(folder, ".cart")?;
        file.write_at(&plan.header, 0)?;
        progress.add(plan.header.len() as u64);
        for part in &plan.parts {
            let start = part.range.start;
            match part.content {
                Content::Manifest => file.write_at(&manifest, start)?,
                Content::Commit => file.write_at(commit.as_deref().unwrap_or_default(), start)?,
                Content::Padding => {
                    file.write_at(&vec![0; (part.range.end - start) as usize], start)?;
                }
                Content::Blob(blob) => {
                    let from = self.cartridge().locate(&blob)?;
                    copy(&from, &file, start, progress, &mut |_| {}).map_err(
                        |error| match error {
                            HashError::File(error) => error.into(),
                            HashError::Cancelled => CartWriteError::Cancelled { path: path.into() },
                        },
                    )?;
                    continue;
                }
            }
            progress.add(part.range.end - start);
        }
        file.sync()?.replace(path)?;
        publisher.sync_folder(folder)?;
        Ok(plan.len())
    }
}
