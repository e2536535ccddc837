//! Finding a cartridge by what people call it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cart_format::{BlobId, CommitId, IdError, ManifestId};
use thiserror::Error;

use crate::cart_file::{CartFile, CartFileError};
use crate::cartridge::Cartridge;
use crate::file_error::{At as _, FileError};
use crate::objects::ObjectError;
use crate::ref_name::{RefName, RefNameError, names_a_cart_file};
use crate::refs::{RefError, named_files};
use crate::store::Store;

/// Fewest digits of an id's prefix.
const PREFIX_DIGITS: usize = 4;
/// How many names or ids an error lists.
const LISTED: usize = 8;

/// Why a text names no cartridge.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// Nothing is called that.
    #[error("there is no cartridge `{text}`{}", nearest_text(nearest))]
    Unknown {
        /// What was given.
        text: String,
        /// Names that are close to it.
        nearest: Vec<RefName>,
    },
    /// Several ids begin like that.
    #[error("`{text}` is ambiguous: {}; give more digits", candidates.join(", "))]
    Ambiguous {
        /// What was given.
        text: String,
        /// What it could mean: `commit …`, `manifest …`.
        candidates: Vec<String>,
    },
    /// The manifest is not in the history of that name.
    #[error(
        "manifest {manifest} is not in the history of `{name}`; `cart log {name}` shows what is"
    )]
    NotInHistory {
        /// The name.
        name: String,
        /// The manifest.
        manifest: ManifestId,
    },
    /// What follows `@sha256:` is not a digest.
    #[error("`{text}`: {source}")]
    Digest {
        /// What was given.
        text: String,
        /// The reason.
        source: IdError,
    },
    /// Not a name, an id or a file.
    #[error("`{text}` is not a name, an id, or a .cart file that exists: {source}")]
    Name {
        /// What was given.
        text: String,
        /// The reason.
        source: RefNameError,
    },
    /// The `.cart` file can't be used.
    #[error(transparent)]
    CartFile(#[from] Box<CartFileError>),
    /// A ref can't be read.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// The commit or manifest is missing or damaged.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What a text stands for.
#[derive(Clone, Debug)]
pub enum Resolved {
    /// A commit in the store, and the ref it was found by, if it was by one.
    Commit {
        /// The ref.
        name: Option<RefName>,
        /// The commit.
        commit: CommitId,
    },
    /// A manifest in the store that was given by its own id.
    Manifest(ManifestId),
    /// A `.cart` file.
    CartFile(PathBuf),
}

impl Store {
    /// Finds what a text stands for: `name` (tag `latest`), `name:tag`, `name@sha256:<manifest id>`
    /// in that name's history, a path that ends in `.cart`, a unique prefix (4 digits or more) of a
    /// commit or manifest id, or a path with a separator to a file that exists. In that order, so
    /// that a name that looks like an id is still a name, and the current folder never hides a
    /// name.
    ///
    /// # Errors
    /// Nothing is called that, or more than one thing.
    pub fn resolve(&self, text: &str) -> Result<Resolved, ResolveError> {
        if let Some((name, digest)) = text.split_once("@sha256:") {
            return self.in_history(text, name, digest);
        }
        if names_a_cart_file(text) {
            return Ok(Resolved::CartFile(PathBuf::from(text)));
        }
        let name = text.parse::<RefName>();
        if let Ok(name) = &name
            && let Some(commit) = self.read_ref(name)?
        {
            return Ok(Resolved::Commit { name: Some(name.clone()), commit });
        }
        if let Some(found) = self.by_prefix(text)? {
            return Ok(found);
        }
        let path = Path::new(text);
        if text.contains(std::path::is_separator) && path.is_file() {
            return Ok(Resolved::CartFile(path.to_path_buf()));
        }
        match name {
            Ok(name) => {
                Err(ResolveError::Unknown { text: text.to_owned(), nearest: self.near(&name)? })
            }
            Err(source) => Err(ResolveError::Name { text: text.to_owned(), source }),
        }
    }

    /// Opens what [`Store::resolve`] found.
    ///
    /// # Errors
    /// Its commit or manifest is missing or damaged, or the file is not a `.cart` file.
    pub fn open_cartridge(&self, found: &Resolved) -> Result<Cartridge, ResolveError> {
        match found {
            Resolved::Commit { commit, .. } => Ok(self.cartridge(*commit)?),
            Resolved::Manifest(id) => {
                Ok(Cartridge::new(self.manifest(id)?, *id, None, Arc::new(self.clone())))
            }
            Resolved::CartFile(path) => Ok(CartFile::open(path).map_err(Box::new)?),
        }
    }

    /// The cartridge of a commit.
    ///
    /// # Errors
    /// The commit or its manifest is missing or damaged.
    pub fn cartridge(&self, id: CommitId) -> Result<Cartridge, ObjectError> {
        let commit = self.commit(&id)?;
        let manifest = self.manifest(&commit.manifest)?;
        let manifest_id = commit.manifest;
        Ok(Cartridge::new(manifest, manifest_id, Some((id, commit)), Arc::new(self.clone())))
    }

    fn in_history(&self, text: &str, name: &str, digest: &str) -> Result<Resolved, ResolveError> {
        let manifest: ManifestId = digest
            .parse()
            .map_err(|source| ResolveError::Digest { text: text.to_owned(), source })?;
        // `name:tag@sha256:…` looks only into that tag's history.
        let asked: RefName =
            name.parse().map_err(|source| ResolveError::Name { text: text.to_owned(), source })?;
        let mut todo = Vec::new();
        for known in named_files(&self.layout.logs())? {
            if known.name() == asked.name() && (!name.contains(':') || known == asked) {
                todo.extend(self.log(&known)?.into_iter().filter_map(|entry| entry.new));
            }
        }
        let mut seen = BTreeSet::new();
        while let Some(id) = todo.pop() {
            // gc may have taken what only an old line of the log names.
            let Ok(commit) = self.commit(&id) else { continue };
            if commit.manifest == manifest {
                return Ok(Resolved::Commit { name: None, commit: id });
            }
            if seen.insert(id) {
                todo.extend(commit.parents);
            }
        }
        Err(ResolveError::NotInHistory { name: name.to_owned(), manifest })
    }

    fn by_prefix(&self, text: &str) -> Result<Option<Resolved>, ResolveError> {
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !digits || !(PREFIX_DIGITS..=64).contains(&text.len()) {
            return Ok(None);
        }
        let mut found = Vec::new();
        for hex in files_with_prefix(&self.layout.commits(), text)? {
            let commit = hex.parse().expect("only ids are listed");
            found.push((format!("commit {hex}"), Resolved::Commit { name: None, commit }));
        }
        for hex in files_with_prefix(&self.layout.blobs(), text)? {
            let id: BlobId = hex.parse().expect("only ids are listed");
            let id = ManifestId::from_bytes(*id.as_bytes());
            if self.looks_like_manifest(id) {
                found.push((format!("manifest {hex}"), Resolved::Manifest(id)));
            }
        }
        if found.len() > 1 {
            let candidates = found.into_iter().map(|(name, _)| name).take(LISTED).collect();
            return Err(ResolveError::Ambiguous { text: text.to_owned(), candidates });
        }
        Ok(found.pop().map(|(_, resolved)| resolved))
    }

    /// Tensors are blobs too; a manifest begins as canonical JSON does.
    fn looks_like_manifest(&self, id: ManifestId) -> bool {
        use std::io::Read as _;
        let mut start = Vec::new();
        let read = std::fs::File::open(self.layout.blob(&id.into()))
            .and_then(|file| file.take(2).read_to_end(&mut start));
        read.is_ok() && start == b"{\"" && self.manifest(&id).is_ok()
    }

    fn near(&self, wanted: &RefName) -> Result<Vec<RefName>, ResolveError> {
        let mut all: Vec<(usize, RefName)> = self
            .list_refs()?
            .into_iter()
            .map(|(name, _)| {
                let other_tag = usize::from(name.tag() != wanted.tag());
                (distance(name.name(), wanted.name()) * 2 + other_tag, name)
            })
            .collect();
        all.sort();
        Ok(all.into_iter().map(|(_, name)| name).take(3).collect())
    }
}

fn files_with_prefix(folder: &Path, prefix: &str) -> Result<Vec<String>, FileError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).at("list", folder)? {
        let name = entry.at("list", folder)?.file_name();
        let id = name.to_str().filter(|name| name.starts_with(prefix));
        found.extend(id.filter(|name| name.parse::<BlobId>().is_ok()).map(str::to_owned));
    }
    found.sort();
    Ok(found)
}

/// Levenshtein distance, in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replace = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn nearest_text(nearest: &[RefName]) -> String {
    if nearest.is_empty() {
        return "; the store has no names yet: `cart pack MODEL -t NAME` makes one".to_owned();
    }
    let names: Vec<String> = nearest.iter().map(ToString::to_string).collect();
    format!("; the nearest names are {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn distances_count_edits() {
        assert_eq!(distance("smol", "smol"), 0);
        assert_eq!(distance("smol", "small"), 2);
        assert_eq!(distance("", "abc"), 3);
    }

    proptest! {
        #[test]
        fn distance_is_a_metric(a in "[ab]{0,6}", b in "[ab]{0,6}", c in "[ab]{0,6}") {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert_eq!(distance(&a, &b) == 0, a == b);
            prop_assert!(distance(&a, &c) <= distance(&a, &b) + distance(&b, &c));
        }
    }
}
