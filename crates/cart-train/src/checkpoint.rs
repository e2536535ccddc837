//! Everything that a run needs to go on, in one safetensors file.
//!
//! The tensors are `value.NAME`, `first.NAME` and `second.NAME` of each variable (spec 80), and
//! `state`, a JSON document as bytes. A checkpoint takes the place of the one before it in one
//! rename, when its bytes are on the disk: after a fault the folder has the old one or the new one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use cart_format::safetensors::{Head, Parsed, new_header};
use cart_format::{DType, TensorName};
use cart_nn::graph::AdamWState;
use serde_json::{Value, json};

use crate::error::TrainError;

/// The name of a run folder's checkpoint.
pub const CHECKPOINT: &str = "checkpoint.safetensors";

const STATE: &str = "state";

/// Where a run is.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// What the run does, and with what.
    pub recipe: Value,
    /// Steps made.
    pub steps: u64,
    /// Variables and their moments.
    pub variables: Vec<AdamWState>,
    /// What else the run goes on from; null where that is all.
    pub notes: Value,
}

impl Checkpoint {
    /// Reads the checkpoint of a run folder; none where there is none.
    ///
    /// # Errors
    /// It can't be read, or is damaged.
    pub fn read(folder: &Path) -> Result<Option<Self>, TrainError> {
        let path = folder.join(CHECKPOINT);
        match fs::read(&path) {
            Ok(bytes) => Self::parse(&path, &bytes).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(TrainError::File { path, action: "read", source }),
        }
    }

    /// Refuses a checkpoint of other work.
    ///
    /// # Errors
    /// A field of its recipe is another one.
    pub fn check(&self, folder: &Path, expected: &Value) -> Result<(), TrainError> {
        let mut recipe = self.recipe.clone();
        if let Some(options) = recipe.get_mut("options").and_then(Value::as_object_mut) {
            // Before there was a choice, steps multiplied in f32, and recipes said nothing of it.
            options.entry("precision").or_insert_with(|| json!("f32"));
        }
        let Some((field, found, expected)) = difference("", &recipe, expected) else {
            return Ok(());
        };
        let path = folder.join(CHECKPOINT);
        Err(TrainError::OtherRecipe { path, field, found, expected })
    }

    /// Writes it to a run folder, in place of the one before. It is durable when this returns.
    ///
    /// # Errors
    /// It can't be written; the one before is still there.
    pub fn write(&self, folder: &Path) -> Result<(), TrainError> {
        let path = folder.join(CHECKPOINT);
        let fresh = folder.join(format!("{CHECKPOINT}.new"));
        let failed = |source| TrainError::File { path: path.clone(), action: "written", source };
        let written = self.write_to(&fresh).and_then(|()| fs::rename(&fresh, &path));
        if let Err(error) = written {
            // What could not be written whole is of no use.
            let _ = fs::remove_file(&fresh);
            return Err(failed(error));
        }
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    fn write_to(&self, path: &Path) -> std::io::Result<()> {
        let mut state = json!({ "version": 1, "recipe": self.recipe, "steps": self.steps });
        if !self.notes.is_null() {
            state["notes"] = self.notes.clone();
        }
        state.sort_all_objects();
        let state = state.to_string().into_bytes();
        let mut entries = vec![(named(STATE), DType::U8, vec![state.len() as u64])];
        for variable in &self.variables {
            let shape: Vec<u64> = variable.shape.iter().map(|&dim| dim as u64).collect();
            for part in PARTS {
                let name = named(&format!("{part}.{}", variable.name));
                entries.push((name, DType::F32, shape.clone()));
            }
        }
        let entries: Vec<_> =
            entries.iter().map(|(name, dtype, shape)| (name, *dtype, &shape[..])).collect();
        let header =
            new_header(&entries).map_err(|error| std::io::Error::other(error.to_string()))?;
        let mut file = std::io::BufWriter::new(File::create(path)?);
        file.write_all(&header)?;
        file.write_all(&state)?;
        for AdamWState { values, first, second, .. } in &self.variables {
            for numbers in [values, first, second] {
                file.write_all(&little_endian(numbers))?;
            }
        }
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, TrainError> {
        let damaged = |reason: String| TrainError::Checkpoint { path: path.to_owned(), reason };
        let head = match Head::parse(bytes, bytes.len() as u64) {
            Ok(Parsed::Head(head)) => head,
            Ok(Parsed::NeedMore(_)) => return Err(damaged("it is cut off".to_owned())),
            Err(error) => return Err(damaged(error.to_string())),
        };
        let mut tensors = BTreeMap::new();
        let mut order = Vec::new();
        let mut state = None;
        for tensor in head.tensors {
            let name = tensor.name.to_string();
            let data = &bytes[tensor.range.start as usize..tensor.range.end as usize];
            if name == STATE {
                state = Some(serde_json::from_slice::<Value>(data));
                continue;
            }
            if let Some(name) = name.strip_prefix("value.") {
                let shape = tensor.shape.iter().map(|&dim| dim as usize).collect();
                order.push((name.to_owned(), shape));
            }
            tensors.insert(name, numbers(data));
        }
        let state = state.ok_or_else(|| damaged("it has no state".to_owned()))?;
        let state = state.map_err(|error| damaged(error.to_string()))?;
        let steps = state["steps"].as_u64().ok_or_else(|| damaged("it has no steps".to_owned()))?;
        let mut take = |part: &str, name: &str| {
            let name = format!("{part}.{name}");
            tensors.remove(&name).ok_or_else(|| damaged(format!("it lacks `{name}`")))
        };
        let variables = order.into_iter().map(|(name, shape)| {
            let [values, first, second] =
                [take(PARTS[0], &name)?, take(PARTS[1], &name)?, take(PARTS[2], &name)?];
            Ok(AdamWState { name, shape, values, first, second })
        });
        let variables = variables.collect::<Result<_, TrainError>>()?;
        let [recipe, notes] = ["recipe", "notes"].map(|part| state[part].clone());
        Ok(Self { recipe, steps, variables, notes })
    }

    /// Where the checkpoint of a run folder is.
    pub fn path(folder: &Path) -> PathBuf {
        folder.join(CHECKPOINT)
    }
}

/// What is kept of a variable.
const PARTS: [&str; 3] = ["value", "first", "second"];

fn named(name: &str) -> TensorName {
    TensorName::new(name).expect("names of variables are names of tensors")
}

/// `f32` as the bytes of a file.
pub(crate) fn little_endian(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|number| f32::from_le_bytes(*number)).collect()
}

/// The first field, by name, in which two documents differ, and its values.
fn difference(place: &str, found: &Value, expected: &Value) -> Option<(String, String, String)> {
    if let (Value::Object(found), Value::Object(expected)) = (found, expected) {
        let names: std::collections::BTreeSet<&String> =
            found.keys().chain(expected.keys()).collect();
        return names.into_iter().find_map(|name| {
            let place = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
            let of = |object: &serde_json::Map<String, Value>| {
                object.get(name).cloned().unwrap_or(Value::Null)
            };
            difference(&place, &of(found), &of(expected))
        });
    }
    (found != expected).then(|| (place.to_owned(), found.to_string(), expected.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        let variable = |name: &str, shape: Vec<usize>, start: f32| {
            let count = shape.iter().product::<usize>();
            let values = |by: f32| (0..count).map(|at| start + by * at as f32).collect();
            let (values, first, second) = (values(1.0), values(0.5), values(1e-9));
            AdamWState { name: name.to_owned(), shape, values, first, second }
        };
        let options = json!({ "rate": 0.1, "batch": 4, "precision": "bf16" });
        let recipe = json!({ "seed": 7, "options": options });
        let variables = vec![variable("b", vec![2, 3], 0.25), variable("a", vec![4], -3.0)];
        Checkpoint { recipe, steps: 12, variables, notes: json!({ "heard": 3 }) }
    }

    #[test]
    fn a_checkpoint_comes_back_and_takes_the_place_of_the_last() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Checkpoint::read(folder.path()).unwrap().is_none());
        let mut written = checkpoint();
        written.write(folder.path()).unwrap();
        written.steps = 13;
        written.write(folder.path()).unwrap();
        let read = Checkpoint::read(folder.path()).unwrap().unwrap();
        assert_eq!((read.steps, &read.recipe), (13, &written.recipe));
        assert_eq!(read.notes, written.notes);
        for (read, written) in read.variables.iter().zip(&written.variables) {
            assert_eq!((&read.name, &read.shape), (&written.name, &written.shape));
            assert_eq!(
                (&read.values, &read.first, &read.second),
                (&written.values, &written.first, &written.second)
            );
        }
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn a_checkpoint_of_other_work_is_refused_by_its_first_difference() {
        let checkpoint = checkpoint();
        let folder = Path::new("run");
        checkpoint.check(folder, &checkpoint.recipe).unwrap();
        let refused = |change: fn(&mut Value)| {
            let mut other = checkpoint.recipe.clone();
            change(&mut other["options"]);
            checkpoint.check(folder, &other).unwrap_err().to_string()
        };
        let batch = refused(|options| options["batch"] = json!(8));
        assert!(batch.contains("options.batch is 4 there, 8 here"), "{batch}");
        let precision = refused(|options| options["precision"] = json!("f32"));
        assert!(precision.contains("options.precision is \"bf16\" there, \"f32\" here"));
    }

    #[test]
    fn a_checkpoint_that_says_nothing_of_precision_is_of_f32() {
        let mut old = checkpoint();
        let new = |precision: &str| {
            let mut recipe = checkpoint().recipe;
            recipe["options"]["precision"] = json!(precision);
            recipe
        };
        old.recipe["options"].as_object_mut().unwrap().remove("precision");
        old.check(Path::new("run"), &new("f32")).unwrap();
        old.check(Path::new("run"), &new("bf16")).unwrap_err();
    }

    #[test]
    fn a_damaged_checkpoint_is_refused_at_every_length() {
        let folder = tempfile::tempdir().unwrap();
        checkpoint().write(folder.path()).unwrap();
        let path = Checkpoint::path(folder.path());
        let whole = fs::read(&path).unwrap();
        for len in (0..whole.len()).step_by(7) {
            fs::write(&path, &whole[..len]).unwrap();
            let refused = Checkpoint::read(folder.path()).unwrap_err();
            assert!(matches!(refused, TrainError::Checkpoint { .. }), "{len}: {refused}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_that_names_the_file() {
        let refused = checkpoint().write(Path::new("/proc/nowhere")).unwrap_err();
        assert!(matches!(refused, TrainError::File { action: "written", .. }), "{refused}");
    }
}
