//! Exporters: cartridges back into model files and folders.
//!
//! The form that a cartridge was imported from comes back byte for byte: each file is put together
//! from its pieces under a temporary name, and gets its own only after its digest was found to be that
//! of the imported file. Safetensors can also be written fresh, from the tensors as they are now.

mod error;
mod origin;

use std::path::{Path, PathBuf};

use cart_format::{
    BlobId, DType, Hasher, Origin, OriginFile, OriginKind, Piece, TensorName, safetensors,
};
use rayon::prelude::*;

pub use self::error::ExportError;
use crate::cartridge::Cartridge;
use crate::file_error::{At as _, FileError, existing_folder_of, folder_of};
use crate::hashing::{HashError, stream};
use crate::progress::Progress;
use crate::publish::{Publisher, Synced, Unpublished};

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

    /// Writes a file's pieces in `folder` under a temporary name and checks the digest of the whole.
    fn put_together(&self, file: &OriginFile, folder: &Path) -> Result<Synced, ExportError> {
        let out = Publisher::default().create(folder, ".cart-export")?;
        let mut hasher = Hasher::new();
        let mut at = 0;
        for piece in &file.pieces {
            let length = origin::length(self.cartridge, piece);
            self.copy(piece, length, &out, at, &mut hasher)?;
            at += length;
        }
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
        let mut at = header.len() as u64;
        for (name, tensor) in order {
            let piece = Piece::Blob(tensor.blob);
            let length = origin::length(self.cartridge, &piece);
            self.progress.total(length);
            let mut hasher = Hasher::new();
            self.copy(&piece, length, &out, at, &mut hasher)?;
            at += length;
            let (found, expected) = (BlobId::from_bytes(hasher.finish()), tensor.blob);
            if found != expected {
                let tensor = name.to_string();
                return Err(ExportError::Tensor { tensor, found, expected });
            }
        }
        publish(out.sync()?, to, options)?;
        Publisher::default().sync_folder(folder_of(to))?;
        Ok(Exported { files: 1, bytes: at, exact: false })
    }

    /// Writes a piece at an offset and shows its bytes to the hasher.
    fn copy(
        &self,
        piece: &Piece,
        length: u64,
        out: &Unpublished,
        at: u64,
        hasher: &mut Hasher,
    ) -> Result<(), ExportError> {
        let location = match piece {
            Piece::Blob(blob) => Some(self.cartridge.locate(blob)?),
            Piece::Zeros(_) => None,
        };
        let read = |buffer: &mut [u8], offset| {
            if let Some(location) = &location {
                return location.read_at(buffer, offset);
            }
            buffer.fill(0);
            Ok(())
        };
        let write = |bytes: &[u8], offset| {
            hasher.update(bytes);
            out.write_at(bytes, at + offset)
        };
        stream(0..length, self.progress, read, write).map_err(|error| match error {
            HashError::Cancelled => ExportError::Cancelled,
            HashError::File(error) => error.into(),
        })
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
