//! A Hugging Face model folder: which files are weights, which are kept beside them, and which not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cart_format::json;
use cart_format::limits::{FILES, HEADER_BYTES};
use serde_json::Value;

use crate::file_error::At as _;
use crate::import::error::ImportError;
use crate::import::model_file::OpenFile;
use crate::import::python_json;

/// Largest file that is kept beside the weights. Large vocabularies make documents of 35 MB.
const KEPT_BYTES: u64 = 64 << 20;
/// Largest file of a kind that usually holds weights in another form.
const FOREIGN_BYTES: u64 = 1 << 20;
/// Endings of weights in other forms.
const FOREIGN: &[&str] = &[
    "bin",
    "pt",
    "pth",
    "ckpt",
    "onnx",
    "msgpack",
    "h5",
    "ot",
    "tflite",
    "gguf",
    "pb",
    "safetensors",
];
/// The table of shards.
const INDEX: &str = "model.safetensors.index.json";
/// The weights where there is one file.
const SINGLE: &str = "model.safetensors";

/// What is in a folder.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Files with tensors, sorted by name.
    pub(crate) shards: BTreeMap<String, OpenFile>,
    /// Files beside them, sorted by name.
    pub(crate) kept: BTreeMap<String, OpenFile>,
    /// What was left out, and why.
    pub(crate) warnings: Vec<String>,
    /// Where the index says each tensor is.
    index: Option<BTreeMap<String, String>>,
}

impl Folder {
    pub(crate) fn open(path: &Path) -> Result<Self, ImportError> {
        let mut files = Listing::of(path)?;
        let index = match files.found.get(INDEX) {
            Some(_) => Some(read_index(&path.join(INDEX))?),
            None => None,
        };
        let mut shards = BTreeMap::new();
        for name in shard_names(path, &files.found, index.as_ref())? {
            if !files.found.contains(&name) {
                return Err(ImportError::MissingShard { shard: name, folder: path.to_path_buf() });
            }
            files.found.remove(&name);
            shards.insert(name.clone(), OpenFile::open(&path.join(&name))?);
        }
        let mut folder = Self {
            path: path.to_path_buf(),
            shards,
            kept: BTreeMap::new(),
            warnings: files.warnings,
            index,
        };
        for name in files.found {
            folder.keep(name)?;
        }
        Ok(folder)
    }

    /// Where a file of the folder is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A document of the folder, if it is there.
    pub(crate) fn document(&self, name: &str) -> Result<Option<Value>, ImportError> {
        let Some(file) = self.kept.get(name) else { return Ok(None) };
        let bytes = file.read(HEADER_BYTES)?;
        let parsed = json::from_strict(&python_json::to_json(&bytes), HEADER_BYTES);
        parsed.map(Some).map_err(|source| ImportError::Json { path: self.path(name), source })
    }

    /// Compares the index, if there is one, with where the tensors are.
    pub(crate) fn check_index(
        &self,
        found: &BTreeMap<String, String>,
    ) -> Result<Option<String>, ImportError> {
        let Some(index) = &self.index else { return Ok(None) };
        for (tensor, shard) in index {
            let found_in = found.get(tensor);
            if found_in != Some(shard) {
                let (tensor, shard) = (tensor.clone(), shard.clone());
                return Err(ImportError::IndexTensor {
                    tensor,
                    shard,
                    found_in: found_in.cloned(),
                });
            }
        }
        let unlisted = found.keys().filter(|tensor| !index.contains_key(*tensor)).count();
        Ok((unlisted > 0).then(|| format!("{unlisted} tensors of the shards are not in {INDEX}")))
    }

    fn keep(&mut self, name: String) -> Result<(), ImportError> {
        let file = OpenFile::open(&self.path.join(&name))?;
        let ending = Path::new(&name).extension().and_then(|ending| ending.to_str());
        let foreign = ending.is_some_and(|ending| FOREIGN.contains(&ending));
        let allowed = if foreign { FOREIGN_BYTES } else { KEPT_BYTES };
        if file.len() > allowed {
            let bytes = file.len();
            self.warnings.push(format!(
                "`{name}` is not kept: it has {bytes} bytes and is not part of the weights"
            ));
            return Ok(());
        }
        self.kept.insert(name, file);
        Ok(())
    }
}

/// The names in a folder.
struct Listing {
    /// Regular files, through symbolic links.
    found: BTreeSet<String>,
    warnings: Vec<String>,
}

impl Listing {
    fn of(path: &Path) -> Result<Self, ImportError> {
        let mut listing = Self { found: BTreeSet::new(), warnings: Vec::new() };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path).at("list", path)? {
            names.push(entry.at("list", path)?.file_name());
            if names.len() > FILES {
                return Err(ImportError::TooManyFiles { path: path.to_path_buf(), allowed: FILES });
            }
        }
        names.sort();
        for name in names {
            let Some(name) = name.to_str().filter(|name| is_plain(name)) else {
                listing.leave_out(&name.to_string_lossy(), "its name can't be written down");
                continue;
            };
            if name.starts_with('.') {
                listing.leave_out(name, "it is hidden");
                continue;
            }
            // Follows links, as the caches of Hugging Face are made of them.
            match std::fs::metadata(path.join(name)) {
                Ok(found) if found.is_file() => drop(listing.found.insert(name.to_owned())),
                Ok(found) if found.is_dir() => listing.leave_out(name, "it is a folder"),
                Ok(_) => listing.leave_out(name, "it is no regular file"),
                Err(error) => listing.leave_out(name, &error.to_string()),
            }
        }
        Ok(listing)
    }

    fn leave_out(&mut self, name: &str, reason: &str) {
        self.warnings.push(format!("{name:?} is not kept: {reason}"));
    }
}

/// Which files hold the weights: those of the index, else the one file of that name, else all.
fn shard_names(
    folder: &Path,
    found: &BTreeSet<String>,
    index: Option<&BTreeMap<String, String>>,
) -> Result<BTreeSet<String>, ImportError> {
    if let Some(index) = index {
        return Ok(index.values().cloned().collect());
    }
    if found.contains(SINGLE) {
        return Ok(BTreeSet::from([SINGLE.to_owned()]));
    }
    let is_weights = |name: &&String| name.ends_with(".safetensors");
    let mut names: BTreeSet<String> = found.iter().filter(is_weights).cloned().collect();
    if names.is_empty() {
        return Err(ImportError::NoWeights { path: folder.to_path_buf() });
    }
    let siblings: Vec<String> = names.iter().flat_map(|name| siblings(name)).collect();
    names.extend(siblings);
    Ok(names)
}

/// All shards that a name such as `model-00001-of-00002.safetensors` speaks of.
fn siblings(name: &str) -> Vec<String> {
    let parts = || {
        let (stem, last) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
        let (stem, number) = stem.rsplit_once('-')?;
        let digits = number.len();
        number.parse::<usize>().ok()?;
        let count = last.parse::<usize>().ok().filter(|&count| count <= FILES)?;
        Some((stem, digits, last, count))
    };
    let Some((stem, digits, last, count)) = parts() else { return Vec::new() };
    (1..=count).map(|at| format!("{stem}-{at:0digits$}-of-{last}.safetensors")).collect()
}

fn read_index(path: &Path) -> Result<BTreeMap<String, String>, ImportError> {
    let bytes = OpenFile::open(path)?.read(HEADER_BYTES)?;
    let index = json::from_strict(&bytes, HEADER_BYTES)
        .map_err(|source| ImportError::Json { path: path.to_path_buf(), source })?;
    let form = || ImportError::IndexForm { path: path.to_path_buf() };
    let map = index.get("weight_map").and_then(Value::as_object).ok_or_else(form)?;
    let mut shards = BTreeMap::new();
    for (tensor, shard) in map {
        let shard = shard.as_str().ok_or_else(form)?;
        if !is_plain(shard) || shard.starts_with('.') {
            return Err(ImportError::IndexPath { found: shard.chars().take(80).collect() });
        }
        shards.insert(tensor.clone(), shard.to_owned());
    }
    if shards.is_empty() {
        return Err(form());
    }
    Ok(shards)
}

/// A name that stays in its folder and in a manifest.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\']) && !name.chars().any(char::is_control)
}
