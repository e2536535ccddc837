//! A teacher's answers on the disk, each under the digest of what it depends on.
//!
//! One file for a sequence, `HEX.safetensors`, where `HEX` is the SHA-256 of the canonical key
//! (spec 80 §6). The teacher, its arithmetic, the temperature, the number of best tokens and the
//! sequence's own tokens are the key, and nothing else: runs with another student, loss, order or
//! seed use the same files.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use cart_format::safetensors::{Head, Parsed, new_header};
use cart_format::{BlobId, DType, TensorName, json};
use serde_json::Value;

use super::teacher::Said;
use crate::checkpoint::little_endian;
use crate::error::TrainError;

const KEY: &str = "key";
const TOKENS: &str = "tokens";
const LOGS: &str = "logs";
const LABELS: &str = "labels";
/// SHA-256 of what comes before it.
const DIGEST: &str = "digest";

/// How many numbers an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Of the student.
    pub(super) positions: usize,
    /// Tokens or groups of each that are known one by one.
    pub(super) best: usize,
    /// Positions of the teacher.
    pub(super) labels: usize,
}

/// A folder with a teacher's answers.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    damage: RefCell<Vec<String>>,
}

impl Cache {
    /// The answers in a folder, which is made when there is one to keep.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), damage: RefCell::default() }
    }

    /// What was found damaged since this was asked last, in words.
    pub fn damage(&self) -> Vec<String> {
        self.damage.take()
    }

    pub(super) fn note(&self, damage: String) {
        self.damage.borrow_mut().push(damage);
    }

    fn path(&self, key: &Value) -> PathBuf {
        self.folder.join(format!("{}.safetensors", BlobId::of(&document(key)).hex()))
    }

    /// The answer to a key, if there is one; or what is wrong with its file.
    pub(super) fn read(
        &self,
        key: &Value,
        sizes: Sizes,
    ) -> Result<Result<Option<Said>, String>, TrainError> {
        let path = self.path(key);
        match fs::read(&path) {
            Ok(bytes) => {
                let said = parse(&bytes, key, sizes);
                let damaged = |reason| format!("{} is damaged: {reason}", path.display());
                Ok(said.map(Some).map_err(damaged))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ok(None)),
            Err(source) => Err(TrainError::File { path, action: "read", source }),
        }
    }

    /// Keeps an answer. A file that a killed process had begun is never found under the name.
    pub(super) fn write(&self, key: &Value, said: &Said, sizes: Sizes) -> Result<(), TrainError> {
        let path = self.path(key);
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        let written = fs::create_dir_all(&self.folder)
            .and_then(|()| write_to(&fresh, key, said, sizes))
            .and_then(|()| fs::rename(&fresh, &path));
        written.map_err(|source| {
            // What could not be written whole is of no use.
            let _ = fs::remove_file(&fresh);
            TrainError::File { path, action: "written", source }
        })
    }
}

fn document(key: &Value) -> Vec<u8> {
    json::to_canonical(key).expect("a key has whole and finite numbers only")
}

fn write_to(path: &Path, key: &Value, said: &Said, sizes: Sizes) -> io::Result<()> {
    let document = document(key);
    let Sizes { positions, best, labels } = sizes;
    let [positions, best, labels] = [positions, best, labels].map(|count| count as u64);
    let entries = [
        (KEY, DType::U8, vec![document.len() as u64]),
        (TOKENS, DType::U32, vec![positions, best]),
        (LOGS, DType::F32, vec![positions, best + 1]),
        (LABELS, DType::F32, vec![labels]),
        (DIGEST, DType::U8, vec![32]),
    ];
    let entries = entries.map(|(name, dtype, shape)| (named(name), dtype, shape));
    let entries: Vec<_> =
        entries.iter().map(|(name, dtype, shape)| (name, *dtype, &shape[..])).collect();
    let header = new_header(&entries).map_err(|error| io::Error::other(error.to_string()))?;
    let mut data = document;
    data.extend(said.tokens.iter().flat_map(|token| token.to_le_bytes()));
    data.extend(little_endian(&said.logs));
    data.extend(little_endian(&said.labels));
    let digest = BlobId::of(&data);
    let mut file = File::create(path)?;
    file.write_all(&header)?;
    file.write_all(&data)?;
    file.write_all(digest.as_bytes())?;
    file.sync_all()
}

fn parse(bytes: &[u8], key: &Value, sizes: Sizes) -> Result<Said, String> {
    let Sizes { positions, best, labels } = sizes;
    let head = match Head::parse(bytes, bytes.len() as u64) {
        Ok(Parsed::Head(head)) => head,
        Ok(Parsed::NeedMore(_)) => return Err("it is cut off".to_owned()),
        Err(error) => return Err(error.to_string()),
    };
    let part = |name: &str, size: usize| {
        let found = head.tensors.iter().find(|tensor| tensor.name.as_str() == name);
        let range = found.map(|tensor| tensor.range.start as usize..tensor.range.end as usize);
        let range = range.filter(|range| range.len() == size);
        range.ok_or_else(|| format!("it lacks `{name}`, or has another number of them"))
    };
    let document = document(key);
    let keys = part(KEY, document.len())?;
    let digest = part(DIGEST, 32)?;
    if bytes[keys.clone()] != document {
        return Err("it answers something else".to_owned());
    }
    let whole = bytes.get(keys.start..digest.start);
    if whole.is_none_or(|whole| BlobId::of(whole).as_bytes()[..] != bytes[digest]) {
        return Err("its digest is another one".to_owned());
    }
    let numbers = |name, count: usize| -> Result<Vec<[u8; 4]>, String> {
        Ok(bytes[part(name, 4 * count)?].as_chunks().0.to_vec())
    };
    let floats = |of: Vec<[u8; 4]>| of.into_iter().map(f32::from_le_bytes).collect();
    Ok(Said {
        tokens: numbers(TOKENS, positions * best)?.into_iter().map(u32::from_le_bytes).collect(),
        logs: floats(numbers(LOGS, positions * (best + 1))?),
        labels: floats(numbers(LABELS, labels)?),
    })
}

fn named(name: &str) -> TensorName {
    TensorName::new(name).expect("these are names of tensors")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SIZES: Sizes = Sizes { positions: 3, best: 2, labels: 3 };

    fn said() -> Said {
        let logs = (0..9).map(|at| -(at as f32) / 3.0).collect();
        Said { tokens: vec![5, 1, 2, 0, 9, 4], logs, labels: vec![-1.0, -2.0, -0.25] }
    }

    #[test]
    fn an_answer_comes_back_and_only_for_its_own_key() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(&folder.path().join("teacher"));
        let key = json!({ "teacher": "a", "temperature": 1.5 });
        assert_eq!(cache.read(&key, SIZES).unwrap(), Ok(None));
        cache.write(&key, &said(), SIZES).unwrap();
        assert_eq!(cache.read(&key, SIZES).unwrap(), Ok(Some(said())));
        let other = json!({ "teacher": "b", "temperature": 1.5 });
        assert_eq!(cache.read(&other, SIZES).unwrap(), Ok(None));
        fs::copy(cache.path(&key), cache.path(&other)).unwrap();
        let refused = cache.read(&other, SIZES).unwrap().unwrap_err();
        assert!(refused.contains("it answers something else"), "{refused}");
        // A teacher may have another number of positions.
        let (aligned, sizes) = (json!({ "version": 2 }), Sizes { labels: 1, ..SIZES });
        let of_one = Said { labels: vec![-0.5], ..said() };
        cache.write(&aligned, &of_one, sizes).unwrap();
        assert_eq!(cache.read(&aligned, sizes).unwrap(), Ok(Some(of_one)));
        assert!(cache.read(&aligned, SIZES).unwrap().unwrap_err().contains("`labels`"));
    }

    #[test]
    fn damage_anywhere_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        let key = json!({ "teacher": "a" });
        cache.write(&key, &said(), SIZES).unwrap();
        let path = cache.path(&key);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 4;
            fs::write(&path, &broken).unwrap();
            // In the padding of the header a flipped bit changes nothing that is read.
            let found = cache.read(&key, SIZES).unwrap();
            assert!(found.is_err() || found == Ok(Some(said())), "{at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(cache.read(&key, SIZES).unwrap().is_err(), "{at}");
        }
    }
}
