//! Exporters: cartridges back into model files and folders.
//!
//! The form that a cartridge was imported from comes back byte for byte: each file is put together
//! from its pieces under a temporary name, and gets its own only after its digest was found to be
//! that of the imported file. Safetensors can also be written fresh, from the tensors as they are
//! now.

mod error;
mod origin;

use std::path::{Path, PathBuf};

use cart_format::{
    BlobId, DType, Hasher, Origin, OriginFile, OriginKind, Piece, TensorName, safetensors,
};
use rayon::prelude::*;

pub use self::error::ExportError;
use crate::cartridge::Cartridge;
use crate::copying::{Part, copy_and_see};
use crate::file_error::{At as _, FileError, existing_folder_of, folder_of};
use crate::progress::Progress;
use crate::publish::{Publisher, Synced};

/// What to export as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportForm {
    /// A Hugging Face model folder.
    Hf,
    /// One GGUF file.
    Gguf,
    /// One safetensors file.
    Safetensors,
}

/// How to export.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExportOptions {
    /// Replace what is at the destination. Other files of a folder stay.
    pub force: bool,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether they are the imported files, byte for byte.
    pub exact: bool,
}

impl ExportForm {
    const fn of(kind: OriginKind) -> Self {
        match kind {
            OriginKind::Hf => Self::Hf,
            OriginKind::Gguf => Self::Gguf,
            OriginKind::Safetensors => Self::Safetensors,
        }
    }

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hf => "hf",
            Self::Gguf => "gguf",
            Self::Safetensors => "safetensors",
        }
    }
}

/// Writes a cartridge to `to`: a folder for [`ExportForm::Hf`], else a file.
///
/// # Errors
/// The cartridge does not have that form, is damaged, something is at the destination, or it can't
/// be written. Nothing is left there then.
pub fn export(
    cartridge: &Cartridge,
    to: &Path,
    form: ExportForm,
    options: &ExportOptions,
    progress: &dyn Progress,
) -> Result<Exported, ExportError> {
    check_destination(to, form, *options)?;
    let origin = cartridge.manifest().origin.as_ref();
    let original = match origin.filter(|origin| ExportForm::of(origin.kind) == form) {
        Some(origin) => match origin::check_tensors(cartridge, origin) {
            Ok(()) => Some(origin),
            Err(ExportError::TensorsChanged { .. }) if form == ExportForm::Safetensors => None,
            Err(error) => return Err(error),
        },
        None if form == ExportForm::Safetensors => None,
        None => {
            let origin = origin.map(|origin| ExportForm::of(origin.kind).name());
            return Err(ExportError::Form { wanted: form.name(), origin });
        }
    };
    let export = Export { cartridge, progress };
    match original {
        Some(origin) if form == ExportForm::Hf => export.folder(origin, to),
        Some(origin) => export.original(&origin.files, to, *options),
        None => export.fresh(to, *options),
    }
}

/// One export under way.
struct Export<'a> {
    cartridge: &'a Cartridge,
    progress: &'a dyn Progress,
}

impl Export<'_> {
    /// The one file of a lone origin.
    fn original(
        &self,
        files: &[OriginFile],
        to: &Path,
        options: ExportOptions,
    ) -> Result<Exported, ExportError> {
        let mut bytes = 0;
        for file in files {
            self.progress.total(file.size);
            let written = self.put_together(file, folder_of(to))?;
            publish(written, to, options)?;
            bytes += file.size;
        }
        Publisher::default().sync_folder(folder_of(to))?;
        Ok(Exported { files: files.len() as u64, bytes, exact: true })
    }

    /// All files of a folder, which gets its name when they are complete.
    fn folder(&self, origin: &Origin, to: &Path) -> Result<Exported, ExportError> {
        let bytes = origin.files.iter().map(|file| file.size).sum();
        self.progress.total(bytes);
        let parent = folder_of(to);
        let scratch = tempfile::Builder::new()
            .prefix(".cart-export-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(parent)
            .at("make folder", parent)?;
        let publisher = Publisher::default();
        origin.files.par_iter().try_for_each(|file| {
            let path = scratch.path().join(&file.path);
            let folder = folder_of(&path);
            publisher.make_folder(folder)?;
            let written = self.put_together(file, folder)?;
            publish(written, &path, ExportOptions::default())
        })?;
        publisher.sync_folder(scratch.path())?;
        if is_free(to)? {
            std::fs::rename(scratch.path(), to).at("rename", to)?;
            // Renamed away, it can't be removed any more.
            let _ = scratch.keep();
        } else {
            for file in &origin.files {
                let path = to.join(&file.path);
                publisher.make_folder(folder_of(&path))?;
                publisher.rename(&scratch.path().join(&file.path), &path)?;
            }
            publisher.sync_folder(to)?;
        }
        publisher.sync_folder(parent)?;
        Ok(Exported { files: origin.files.len() as u64, bytes, exact: true })
    }

    /// Writes a file's pieces in `folder` under a temporary name and checks the digest of the
    /// whole.
    fn put_together(&self, file: &OriginFile, folder: &Path) -> Result<Synced, ExportError> {
        let out = Publisher::default().create(folder, ".cart-export")?;
        let parts: Vec<Part> =
            file.pieces.iter().map(|piece| self.part(piece)).collect::<Result<_, _>>()?;
        let mut hasher = Hasher::new();
        copy_and_see(&parts, &out, 0, self.progress, |bytes, _| {
            hasher.update(bytes);
            Ok(())
        })?;
        let found = BlobId::from_bytes(hasher.finish());
        if found != file.sha256 {
            let (file, expected) = (file.path.clone(), file.sha256);
            return Err(ExportError::Digest { file, found, expected });
        }
        Ok(out.sync()?)
    }

    /// The tensors as they are now, the widest elements first, so that all are aligned.
    fn fresh(&self, to: &Path, options: ExportOptions) -> Result<Exported, ExportError> {
        let tensors = &self.cartridge.manifest().model.tensors;
        let mut order: Vec<_> = tensors.iter().collect();
        order.sort_by_key(|(name, tensor)| (std::cmp::Reverse(tensor.dtype.block_bytes()), *name));
        if let Some((name, tensor)) =
            order.iter().find(|(_, tensor)| tensor.dtype.safetensors().is_none())
        {
            let (tensor, dtype) = (name.to_string(), tensor.dtype);
            return Err(ExportError::Quantized { tensor, dtype });
        }
        let listed: Vec<(&TensorName, DType, &[u64])> = order
            .iter()
            .map(|(name, tensor)| (*name, tensor.dtype, tensor.shape.as_slice()))
            .collect();
        let header = safetensors::new_header(&listed)?;
        let out = Publisher::default().create(folder_of(to), ".cart-export")?;
        out.write_at(&header, 0)?;
        let start = header.len() as u64;
        let blobs: Vec<Part> = order
            .iter()
            .map(|(_, tensor)| self.part(&Piece::Blob(tensor.blob)))
            .collect::<Result<_, _>>()?;
        let bytes = blobs.iter().map(Part::len).sum();
        self.progress.total(bytes);
        let mut digests = Digests::of(&blobs, start);
        copy_and_see(&blobs, &out, start, self.progress, |bytes, at| {
            digests.update(bytes, at);
            Ok(())
        })?;
        for ((name, tensor), found) in order.iter().zip(digests.finish()) {
            let expected = tensor.blob;
            if found != expected {
                let tensor = name.to_string();
                return Err(ExportError::Tensor { tensor, found, expected });
            }
        }
        publish(out.sync()?, to, options)?;
        Publisher::default().sync_folder(folder_of(to))?;
        Ok(Exported { files: 1, bytes: start + bytes, exact: false })
    }

    fn part(&self, piece: &Piece) -> Result<Part, ExportError> {
        Ok(match piece {
            Piece::Blob(blob) => Part::Blob(self.cartridge.locate(blob)?),
            Piece::Zeros(zeros) => Part::Zeros(*zeros),
        })
    }
}

/// The digests of parts that are seen one after the other.
struct Digests {
    /// Where each part that is not complete ends, the next one last.
    ends: Vec<u64>,
    hasher: Hasher,
    done: Vec<BlobId>,
}

impl Digests {
    fn of(parts: &[Part], start: u64) -> Self {
        let ends = parts.iter().scan(start, |at, part| {
            *at += part.len();
            Some(*at)
        });
        let mut ends: Vec<u64> = ends.collect();
        ends.reverse();
        Self { ends, hasher: Hasher::new(), done: Vec::new() }
    }

    fn update(&mut self, mut bytes: &[u8], mut at: u64) {
        while let Some(&end) = self.ends.last() {
            let (now, rest) = bytes.split_at(bytes.len().min((end - at) as usize));
            self.hasher.update(now);
            at += now.len() as u64;
            bytes = rest;
            if at < end {
                return;
            }
            self.end_part();
        }
    }

    fn end_part(&mut self) {
        self.ends.pop();
        self.done.push(BlobId::from_bytes(std::mem::take(&mut self.hasher).finish()));
    }

    /// The digest of each part; empty parts at the end were never seen.
    fn finish(mut self) -> Vec<BlobId> {
        while !self.ends.is_empty() {
            self.end_part();
        }
        self.done
    }
}

fn check_destination(
    to: &Path,
    form: ExportForm,
    options: ExportOptions,
) -> Result<(), ExportError> {
    existing_folder_of(to)?;
    let path = || PathBuf::from(to);
    if is_free(to)? && (form == ExportForm::Hf || !to.is_dir()) {
        return Ok(());
    }
    let (is_folder, wants_folder) = (to.is_dir(), form == ExportForm::Hf);
    if is_folder != wants_folder {
        let name = |folder| if folder { "a folder" } else { "a file" };
        let (found, allowed) = (name(is_folder), name(wants_folder));
        return Err(ExportError::DestinationKind { path: path(), found, allowed });
    }
    if options.force { Ok(()) } else { Err(ExportError::Exists { path: path() }) }
}

/// Whether there is nothing, or an empty folder.
fn is_free(path: &Path) -> Result<bool, FileError> {
    match std::fs::symlink_metadata(path).at("read", path) {
        Err(error) if error.is_missing() => Ok(true),
        Err(error) => Err(error),
        Ok(found) if found.is_dir() => {
            Ok(std::fs::read_dir(path).at("list", path)?.next().is_none())
        }
        Ok(_) => Ok(false),
    }
}

/// Gives a file its name. Something that came there meanwhile stays, unless `force`.
fn publish(file: Synced, to: &Path, options: ExportOptions) -> Result<(), ExportError> {
    if options.force {
        return Ok(file.replace(to)?);
    }
    if !is_free(to)? || !file.publish(to)? {
        return Err(ExportError::Exists { path: to.to_path_buf() });
    }
    Ok(())
}
