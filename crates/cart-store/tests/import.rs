//! Models taken in and given back.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use cart_format::{
    BlobId, Commit, DType, Manifest, Origin, Piece, Recipe, TensorName, safetensors,
};
use cart_store::export::{ExportError, ExportForm, ExportOptions, Exported, export};
use cart_store::import::{ImportError, ImportOptions, ImportPlan, Imported, import};
use cart_store::{Cartridge, Silent, Store};

mod cartridges;
use cartridges::{blob_path, flip, noise};

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

/// A store and a folder beside it, both removed at the end.
struct Place {
    folder: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(folder.path().join("store")).unwrap();
        Self { folder, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn import(&self, path: &Path) -> Result<Imported, ImportError> {
        let _guard = self.store.hold().unwrap();
        import(&self.store, path, &ImportOptions::default(), &Silent)
    }

    fn open(&self, manifest: &Manifest) -> Cartridge {
        let manifest = self.store.put_manifest(manifest).unwrap();
        let commit = Commit::new(manifest, 1, Recipe::new("test"));
        self.store.cartridge(self.store.put_commit(&commit).unwrap()).unwrap()
    }
}

/// Gives a cartridge out without overwriting anything.
fn give(cartridge: &Cartridge, to: &Path, form: ExportForm) -> Result<Exported, ExportError> {
    export(cartridge, to, form, &ExportOptions::default(), &Silent)
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A safetensors file of byte tensors.
fn safetensors_of(tensors: &[(&str, &[u8])]) -> Vec<u8> {
    let names: Vec<TensorName> =
        tensors.iter().map(|(name, _)| TensorName::new(*name).unwrap()).collect();
    let shapes: Vec<[u64; 1]> = tensors.iter().map(|(_, bytes)| [bytes.len() as u64]).collect();
    let listed: Vec<(&TensorName, DType, &[u64])> =
        names.iter().zip(&shapes).map(|(name, shape)| (name, DType::U8, &shape[..])).collect();
    let mut file = safetensors::new_header(&listed).unwrap();
    for (_, bytes) in tensors {
        file.extend_from_slice(bytes);
    }
    file
}

/// A GGUF file of two tensors with padding between, the second gap not zero, and bytes after the
/// end.
fn gguf() -> Vec<u8> {
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(3_u64.to_le_bytes());
    file.extend(1_u64.to_le_bytes());
    text(&mut file, "general.name");
    file.extend(8_u32.to_le_bytes());
    text(&mut file, "tiny");
    for (name, offset) in [("a", 0_u64), ("b", 64), ("c", 128)] {
        text(&mut file, name);
        file.extend(1_u32.to_le_bytes());
        file.extend(32_u64.to_le_bytes());
        file.extend(8_u32.to_le_bytes());
        file.extend(offset.to_le_bytes());
    }
    file.resize(file.len().next_multiple_of(32), 0);
    for (seed, padding) in [(1, 0), (2, 7)] {
        file.extend(noise(34, seed));
        file.extend([padding; 30]);
    }
    file.extend(noise(34, 3));
    file.extend(b"tail");
    file
}

#[test]
fn a_sharded_folder_comes_back_file_by_file() {
    let place = Place::new();
    let source = fixture("logits/llama-f32-sharded");
    let imported = place.import(&source).unwrap();
    assert_eq!(imported.tensors, 20);
    assert!(imported.manifest.model.architecture.is_some());
    let again = place.path("again");
    let cartridge = place.open(&imported.manifest);
    let done = give(&cartridge, &again, ExportForm::Hf).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(&source).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!((done.files, done.exact), (names.len() as u64, true));
    for name in &names {
        assert_eq!(fs::read(source.join(name)).unwrap(), fs::read(again.join(name)).unwrap());
    }
    assert_eq!(fs::read_dir(&again).unwrap().count(), names.len());
}

#[test]
fn every_frozen_checkpoint_is_understood_and_comes_back() {
    for entry in fs::read_dir(fixture("logits")).unwrap() {
        let source = entry.unwrap().path();
        let place = Place::new();
        let imported = place.import(&source).unwrap();
        assert!(imported.manifest.model.architecture.is_some(), "{:?}", imported.warnings);
        let again = place.path("again");
        give(&place.open(&imported.manifest), &again, ExportForm::Hf).unwrap();
        let third = place.import(&again).unwrap();
        assert_eq!((third.manifest_id, third.new_bytes), (imported.manifest_id, 0));
    }
}

#[test]
fn the_id_does_not_depend_on_path_time_or_threads() {
    let file = gguf();
    let mut ids = Vec::new();
    for (threads, name) in [(1, "x.gguf"), (2, "deep/er/other name.GGUF"), (5, "z.gguf")] {
        let place = Place::new();
        let path = place.write(name, &file);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let imported = pool.install(|| place.import(&path)).unwrap();
        ids.push(imported.manifest_id);
        let text = String::from_utf8(imported.manifest.to_bytes().unwrap()).unwrap();
        assert!(!text.contains("other") && !text.contains("deep") && !text.contains("z.gguf"));
    }
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{ids:?}");
}

#[test]
fn a_second_import_writes_nothing_and_a_changed_tensor_only_itself() {
    let place = Place::new();
    let (a, b) = (noise(1000, 1), noise(20 << 20, 2));
    let first =
        place.import(&place.write("a.safetensors", &safetensors_of(&[("a", &a), ("b", &b)])));
    let first = first.unwrap();
    assert_eq!(first.new_blobs, 3);
    assert_eq!(first.new_bytes, first.manifest.total_bytes());
    let again = place.import(&place.path("a.safetensors")).unwrap();
    assert_eq!((again.new_blobs, again.new_bytes), (0, 0));
    assert_eq!(again.manifest_id, first.manifest_id);
    let other = noise(1000, 3);
    let path = place.write("b.safetensors", &safetensors_of(&[("a", &other), ("b", &b)]));
    let changed = place.import(&path).unwrap();
    assert_eq!((changed.new_blobs, changed.new_bytes), (1, 1000));
    assert_eq!(changed.reused_bytes, changed.manifest.total_bytes() - 1000);
}

#[test]
fn gguf_padding_and_tail_come_back() {
    let place = Place::new();
    let path = place.write("tiny.gguf", &gguf());
    let imported = place.import(&path).unwrap();
    let Origin { files, .. } = imported.manifest.origin.as_ref().unwrap();
    let zeros = files[0].pieces.iter().filter(|piece| matches!(piece, Piece::Zeros(30))).count();
    assert_eq!((zeros, files[0].pieces.len()), (1, 7));
    assert_eq!(files[0].sha256, BlobId::of(&gguf()));
    let again = place.path("again.gguf");
    let cartridge = place.open(&imported.manifest);
    let done = give(&cartridge, &again, ExportForm::Gguf).unwrap();
    assert_eq!((done.files, done.bytes, done.exact), (1, gguf().len() as u64, true));
    assert_eq!(fs::read(&again).unwrap(), gguf());
}

#[test]
fn an_export_leaves_what_is_there_unless_forced() {
    let place = Place::new();
    let imported = place.import(&place.write("tiny.gguf", &gguf())).unwrap();
    let cartridge = place.open(&imported.manifest);
    let there = place.write("there.gguf", b"mine");
    let error = give(&cartridge, &there, ExportForm::Gguf).unwrap_err();
    assert!(matches!(error, ExportError::Exists { .. }), "{error}");
    assert_eq!(fs::read(&there).unwrap(), b"mine");
    let force = ExportOptions { force: true };
    export(&cartridge, &there, ExportForm::Gguf, &force, &Silent).unwrap();
    assert_eq!(fs::read(&there).unwrap(), gguf());
    let folder = place.path("folder");
    fs::create_dir(&folder).unwrap();
    let error = export(&cartridge, &folder, ExportForm::Gguf, &force, &Silent).unwrap_err();
    assert!(matches!(error, ExportError::DestinationKind { .. }), "{error}");
}

#[test]
fn a_damaged_blob_stops_the_export_and_leaves_nothing() {
    let place = Place::new();
    let imported = place.import(&place.write("tiny.gguf", &gguf())).unwrap();
    let cartridge = place.open(&imported.manifest);
    let tensor = imported.manifest.model.tensors.values().next().unwrap();
    flip(&blob_path(&place.store, &tensor.blob), 5);
    let folder = place.path("out");
    fs::create_dir(&folder).unwrap();
    let error = give(&cartridge, &folder.join("x.gguf"), ExportForm::Gguf).unwrap_err();
    assert!(matches!(error, ExportError::Digest { .. }), "{error}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn forms_that_a_cartridge_lacks_are_refused_with_the_reason() {
    let place = Place::new();
    let imported = place.import(&place.write("tiny.gguf", &gguf())).unwrap();
    let cartridge = place.open(&imported.manifest);
    let to = place.path("out");
    let error = give(&cartridge, &to, ExportForm::Hf).unwrap_err();
    assert!(matches!(error, ExportError::Form { wanted: "hf", origin: Some("gguf") }), "{error}");
    let error = give(&cartridge, &to, ExportForm::Safetensors).unwrap_err();
    assert!(matches!(error, ExportError::Quantized { dtype: DType::Q8_0, .. }), "{error}");
    assert!(!to.exists());
}

#[test]
fn changed_tensors_are_written_fresh_and_never_as_the_original() {
    let place = Place::new();
    let (a, b) = (noise(10, 1), noise(10, 2));
    let path = place.write("a.safetensors", &safetensors_of(&[("a", &a), ("b", &b)]));
    let mut manifest = place.import(&path).unwrap().manifest;
    let names: Vec<TensorName> = manifest.model.tensors.keys().cloned().collect();
    let (first, second) =
        (manifest.model.tensors[&names[0]].clone(), manifest.model.tensors[&names[1]].clone());
    manifest.model.tensors.insert(names[0].clone(), second);
    manifest.model.tensors.insert(names[1].clone(), first);
    let cartridge = place.open(&manifest);
    let to = place.path("fresh.safetensors");
    let done = give(&cartridge, &to, ExportForm::Safetensors).unwrap();
    assert!(!done.exact);
    assert_eq!(fs::read(&to).unwrap(), safetensors_of(&[("a", &b), ("b", &a)]));
}

#[test]
fn a_folder_imported_can_be_one_fresh_safetensors_file() {
    let place = Place::new();
    let imported = place.import(&fixture("logits/llama-f32-sharded")).unwrap();
    let cartridge = place.open(&imported.manifest);
    let to = place.path("one.safetensors");
    assert!(!give(&cartridge, &to, ExportForm::Safetensors).unwrap().exact);
    let one = place.import(&to).unwrap();
    assert_eq!(one.manifest.model.tensors, imported.manifest.model.tensors);
}

/// A copy of the sharded checkpoint, to be spoilt.
fn spoilt(place: &Place) -> PathBuf {
    let folder = place.path("model");
    copy_folder(&fixture("logits/llama-f32-sharded"), &folder);
    folder
}

const INDEX: &str = "model.safetensors.index.json";
const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

#[test]
fn a_missing_shard_is_named_with_and_without_an_index() {
    let place = Place::new();
    let folder = spoilt(&place);
    fs::remove_file(folder.join(SHARDS[1])).unwrap();
    for _ in 0..2 {
        let error = place.import(&folder).unwrap_err();
        let named = matches!(&error, ImportError::MissingShard { shard, .. } if shard == SHARDS[1]);
        assert!(named, "{error}");
        fs::remove_file(folder.join(INDEX)).ok();
    }
}

#[test]
fn an_index_that_is_wrong_is_refused() {
    let place = Place::new();
    let folder = spoilt(&place);
    let index = fs::read_to_string(folder.join(INDEX)).unwrap();
    let swap =
        |from: &str, to: &str| fs::write(folder.join(INDEX), index.replace(from, to)).unwrap();
    swap("\"model.norm.weight\": \"model-00002", "\"model.norm.weight\": \"model-00001");
    let error = place.import(&folder).unwrap_err();
    let elsewhere = matches!(&error, ImportError::IndexTensor { found_in: Some(file), .. } if file == SHARDS[1]);
    assert!(elsewhere, "{error}");
    swap("model.norm.weight", "model.norm.bias");
    let error = place.import(&folder).unwrap_err();
    assert!(matches!(error, ImportError::IndexTensor { found_in: None, .. }), "{error}");
    swap(SHARDS[1], "../model.safetensors");
    let error = place.import(&folder).unwrap_err();
    assert!(matches!(error, ImportError::IndexPath { .. }), "{error}");
    swap("weight_map", "weights");
    let error = place.import(&folder).unwrap_err();
    assert!(matches!(error, ImportError::IndexForm { .. }), "{error}");
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let place = Place::new();
    let folder = spoilt(&place);
    fs::remove_file(folder.join(INDEX)).unwrap();
    fs::copy(folder.join(SHARDS[0]), folder.join(SHARDS[1])).unwrap();
    let error = place.import(&folder).unwrap_err();
    assert!(matches!(error, ImportError::DuplicateTensor { .. }), "{error}");
}

#[test]
fn a_config_that_contradicts_the_tensors_is_refused() {
    let place = Place::new();
    let folder = spoilt(&place);
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let swap = |from: &str, to: &str| {
        fs::write(folder.join("config.json"), config.replace(from, to)).unwrap();
        place.import(&folder).unwrap_err()
    };
    let error = swap("\"intermediate_size\": 96", "\"intermediate_size\": 97");
    assert!(matches!(error, ImportError::TensorShape { .. }), "{error}");
    let error = swap("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    assert!(matches!(error, ImportError::MissingTensor { .. }), "{error}");
    let error = swap("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
    let head =
        matches!(&error, ImportError::MissingTensor { tensor, .. } if tensor == "lm_head.weight");
    assert!(head, "{error}");
    let error = swap("{", "{{");
    assert!(matches!(error, ImportError::Json { .. }), "{error}");
}

#[test]
fn an_unknown_architecture_is_packed_with_a_note() {
    let place = Place::new();
    let folder = spoilt(&place);
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let config = config.replace("\"model_type\": \"llama\"", "\"model_type\": \"future\"");
    fs::write(folder.join("config.json"), config).unwrap();
    let imported = place.import(&folder).unwrap();
    assert!(imported.manifest.model.architecture.is_none());
    assert!(
        imported.warnings.iter().any(|note| note.contains("future")),
        "{:?}",
        imported.warnings
    );
}

#[test]
fn a_tokenizer_goes_with_its_embedding_or_is_refused() {
    let place = Place::new();
    let folder = spoilt(&place);
    let tokenizer = |largest: u32| {
        format!(
            r#"{{"model":{{"type":"BPE","vocab":{{"a":0,"b":{largest}}},"merges":[]}},"added_tokens":[{{"id":2,"content":"<|im_end|>","special":true}}]}}"#
        )
    };
    fs::write(folder.join("tokenizer.json"), tokenizer(256)).unwrap();
    let error = place.import(&folder).unwrap_err();
    assert!(matches!(error, ImportError::TokenizerTooLarge { largest: 256, rows: 256 }), "{error}");
    fs::write(folder.join("tokenizer.json"), tokenizer(200)).unwrap();
    fs::write(folder.join("chat_template.jinja"), "{{ messages }}").unwrap();
    let imported = place.import(&folder).unwrap();
    assert!(
        imported.warnings.iter().any(|note| note.contains("201 ids")),
        "{:?}",
        imported.warnings
    );
    let section = imported.manifest.tokenizer.unwrap();
    assert_eq!(
        (section.vocab_size, section.document),
        (201, BlobId::of(tokenizer(200).as_bytes()))
    );
    assert_eq!(section.special.eos, [1, 2]);
    assert_eq!(section.chat_template, Some(BlobId::of(b"{{ messages }}")));
    fs::write(folder.join("tokenizer.json"), "{}").unwrap();
    let error = place.import(&folder).unwrap_err();
    assert!(matches!(error, ImportError::Tokenizer { .. }), "{error}");
}

#[test]
fn what_is_not_kept_is_said() {
    let place = Place::new();
    let folder = spoilt(&place);
    fs::write(folder.join(".gitattributes"), "x").unwrap();
    fs::write(folder.join("pytorch_model.bin"), vec![1; 2 << 20]).unwrap();
    fs::write(folder.join("empty.txt"), "").unwrap();
    fs::write(folder.join("README.md"), "---\nlicense: mit\n---\n").unwrap();
    fs::create_dir(folder.join("onnx")).unwrap();
    std::os::unix::fs::symlink("loop", folder.join("loop")).unwrap();
    std::os::unix::fs::symlink("README.md", folder.join("linked.md")).unwrap();
    let imported = place.import(&folder).unwrap();
    for name in [".gitattributes", "pytorch_model.bin", "onnx", "loop"] {
        assert!(imported.warnings.iter().any(|note| note.contains(name)), "{name}");
    }
    assert_eq!(imported.manifest.metadata["license"], "mit");
    let files = imported.manifest.origin.unwrap().files;
    let kept = |name: &str| files.iter().any(|file| file.path == name);
    assert!(kept("empty.txt") && kept("linked.md") && !kept("loop") && !kept(".gitattributes"));
}

#[test]
fn damaged_and_foreign_inputs_are_refused_and_leave_the_store_alone() {
    let place = Place::new();
    let empty = place.path("empty");
    fs::create_dir(&empty).unwrap();
    let error = place.import(&empty).unwrap_err();
    assert!(matches!(error, ImportError::NoWeights { .. }), "{error}");
    let error = place.import(&place.write("notes.txt", b"hello")).unwrap_err();
    assert!(matches!(error, ImportError::UnknownInput { .. }), "{error}");
    let error = place.import(&place.path("absent.gguf")).unwrap_err();
    assert!(matches!(error, ImportError::File(_)), "{error}");
    let whole = gguf();
    for cut in (0..whole.len() - 4).step_by(7) {
        let error = place.import(&place.write("cut.gguf", &whole[..cut])).unwrap_err();
        assert!(matches!(error, ImportError::Gguf { .. }), "{cut}: {error}");
    }
    let whole = safetensors_of(&[("a", &noise(100, 1))]);
    for cut in 0..whole.len() {
        let error = place.import(&place.write("cut.safetensors", &whole[..cut])).unwrap_err();
        assert!(matches!(error, ImportError::Safetensors { .. }), "{cut}: {error}");
    }
    assert_eq!(fs::read_dir(place.store.root().join("blobs/sha256")).unwrap().count(), 0);
}

#[test]
fn a_plan_says_what_it_will_do_and_writes_nothing() {
    let place = Place::new();
    let path = place.write("tiny.gguf", &gguf());
    let plan = ImportPlan::new(&path, &ImportOptions::default()).unwrap();
    let shown = plan.to_string();
    assert!(
        shown.starts_with(&format!("model.gguf: {} bytes, 3 tensors\n", gguf().len())),
        "{shown}"
    );
    assert!(shown.contains("architecture: not known"), "{shown}");
    assert_eq!(fs::read_dir(place.store.root().join("blobs/sha256")).unwrap().count(), 0);
}
