//! The single-file form.
#![allow(clippy::unwrap_used, reason = "parts of tests")]

mod cartridges;

use std::path::{Path, PathBuf};

use cart_format::cartfile::{CartFileError as Format, Lost};
use cart_format::limits::SEGMENT;
use cart_format::safetensors::{Head, Parsed};
use cart_format::{Commit, DType, Manifest, Recipe, TensorEntry, TensorName, TokenizerSection};
use cart_store::{
    CartFile, CartFileError, DamageKind, FsckOptions, Ingested, Silent, SourceRange, Store,
    VerifyError, VerifyOptions,
};
use cartridges::{Packed, flip, noise, pack};

/// A store with a cartridge of many kinds of tensors, and the cartridge as a file.
struct Case {
    dir: tempfile::TempDir,
    store: Store,
    packed: Packed,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(dir.path().join("store")).unwrap();
        let manifest = many_kinds(&store);
        let manifest = store.put_manifest(&manifest).unwrap();
        let mut commit = Commit::new(manifest, 12, Recipe::new("test"));
        commit.message = "many kinds".into();
        let commit = store.put_commit(&commit).unwrap();
        store.update_ref(&"many".parse().unwrap(), None, commit, 12, "").unwrap();
        let case = Self { dir, store, packed: Packed { manifest, commit, blobs: vec![] } };
        case.write("a.cart");
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str) -> u64 {
        let cartridge = self.store.cartridge(self.packed.commit).unwrap();
        let verified = cartridge.verify(&VerifyOptions::default(), &Silent).unwrap();
        verified.write_cart(&self.path(name), &Silent).unwrap()
    }

    /// A changed copy of the file, refused by open and import alike.
    fn refused(&self, change: impl FnOnce(&mut Vec<u8>)) -> Format {
        let path = self.path("changed.cart");
        let mut bytes = std::fs::read(self.path("a.cart")).unwrap();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let into = Store::open_or_create(self.path("into")).unwrap();
        assert!(into.import_cart(&path, &Silent).is_err());
        assert_eq!(std::fs::read_dir(into.root().join("blobs/sha256")).unwrap().count(), 0);
        match CartFile::open(&path) {
            Err(CartFileError::Format { source, .. }) => *source,
            other => panic!("{other:?}"),
        }
    }
}

fn many_kinds(store: &Store) -> Manifest {
    let f32s = noise(4 * 12, 1);
    let tensors: [(&str, DType, &[u64], Vec<u8>); 8] = [
        ("a.weight", DType::F32, &[3, 4], f32s.clone()),
        ("a.tied", DType::F32, &[12], f32s),
        ("b \"quoted\" ü", DType::BF16, &[5], noise(10, 2)),
        ("c.q4", DType::Q4_1, &[2, 64], noise(80, 3)),
        ("cart.pad.1", DType::U8, &[7], noise(7, 4)),
        ("empty", DType::F32, &[0, 3], vec![]),
        ("long", DType::U8, &[SEGMENT + 100], noise(SEGMENT as usize + 100, 5)),
        ("scalar", DType::I64, &[], noise(8, 6)),
    ];
    let sources: Vec<_> =
        tensors.iter().map(|tensor| SourceRange::bytes(tensor.3.clone())).collect();
    let taken = store.ingest(&sources, &Silent).unwrap();
    let mut manifest = Manifest::new();
    let mut list = |one: &Ingested| manifest.blobs.insert(one.blob, one.entry.clone());
    taken.iter().for_each(|one| drop(list(one)));
    let document = &store.ingest(&[SourceRange::bytes(*b"{}  ")], &Silent).unwrap()[0];
    list(document);
    for ((name, dtype, shape, _), one) in tensors.iter().zip(&taken) {
        let entry = TensorEntry { dtype: *dtype, shape: shape.to_vec(), blob: one.blob };
        manifest.model.tensors.insert(TensorName::new(*name).unwrap(), entry);
    }
    manifest.tokenizer = Some(TokenizerSection {
        document: document.blob,
        vocab_size: 1,
        chat_template: None,
        special: cart_format::SpecialTokens::default(),
        extra: std::collections::BTreeMap::new(),
    });
    manifest
}

fn head(path: &Path) -> Head {
    let bytes = std::fs::read(path).unwrap();
    match Head::parse(&bytes, bytes.len() as u64).unwrap() {
        Parsed::Head(head) => head,
        Parsed::NeedMore(_) => panic!("the whole file was given"),
    }
}

/// The same tensors, written by a tool that knows nothing of cart files.
fn resave(path: &Path, keep_metadata: bool, order: impl Fn(&mut Vec<usize>)) -> Vec<u8> {
    let (bytes, head) = (std::fs::read(path).unwrap(), head(path));
    let mut order_of: Vec<usize> = (0..head.tensors.len()).collect();
    order(&mut order_of);
    let (mut fields, mut data) = (serde_json::Map::new(), Vec::new());
    if keep_metadata {
        let metadata = serde_json::to_value(&head.metadata).unwrap();
        fields.insert("__metadata__".to_owned(), metadata);
    }
    for index in order_of {
        let tensor = &head.tensors[index];
        let begin = data.len();
        data.extend_from_slice(&bytes[tensor.range.start as usize..tensor.range.end as usize]);
        let entry = serde_json::json!({
            "dtype": tensor.dtype.safetensors(), "shape": tensor.shape,
            "data_offsets": [begin, data.len()],
        });
        fields.insert(tensor.name.to_string(), entry);
    }
    let json = serde_json::to_vec(&fields).unwrap();
    [&(json.len() as u64).to_le_bytes()[..], &json, &data].concat()
}

#[test]
fn the_file_is_aligned_begins_with_the_manifest_and_has_each_blob_once() {
    let case = Case::new();
    let head = head(&case.path("a.cart"));
    assert_eq!(head.data_start, 4096);
    assert_eq!(head.tensors[0].name.as_str(), "cart.manifest");
    assert_eq!(head.tensors[0].range.start, 4096);
    let names: Vec<&str> = head.tensors.iter().map(|one| one.name.as_str()).collect();
    let second = names[1..].iter().find(|name| !name.starts_with("cart.pad."));
    assert_eq!(second, Some(&"cart.commit"));
    // The tied tensor, and the one whose name is ours, are not there under their names.
    let plain: Vec<&&str> = names.iter().filter(|name| !name.starts_with("cart.")).collect();
    assert_eq!(plain, [&"a.tied", &"b \"quoted\" ü", &"c.q4", &"empty", &"long", &"scalar"]);
    assert_eq!(names.iter().filter(|name| name.starts_with("cart.blob.")).count(), 2);
    for tensor in &head.tensors {
        let padding = tensor.name.as_str().starts_with("cart.pad.");
        assert!(padding || tensor.range.start.is_multiple_of(64), "{}", tensor.name);
    }
    let quantized = head.tensors.iter().find(|one| one.name.as_str() == "c.q4").unwrap();
    assert_eq!((quantized.dtype, &quantized.shape[..]), (DType::U8, &[80][..]));
}

#[test]
fn the_same_commit_gives_the_same_bytes_from_a_store_and_from_a_file() {
    let case = Case::new();
    let len = case.write("b.cart");
    let bytes = std::fs::read(case.path("a.cart")).unwrap();
    assert_eq!(bytes.len() as u64, len);
    assert!(bytes == std::fs::read(case.path("b.cart")).unwrap());
    let opened = CartFile::open(&case.path("a.cart")).unwrap();
    assert_eq!(opened.manifest_id(), case.packed.manifest);
    assert_eq!(opened.commit().map(|(id, _)| id), Some(case.packed.commit));
    let verified = opened.verify(&VerifyOptions { threads: None, whole: true }, &Silent).unwrap();
    verified.write_cart(&case.path("c.cart"), &Silent).unwrap();
    assert!(bytes == std::fs::read(case.path("c.cart")).unwrap());
    for blob in verified.manifest().blobs.keys() {
        let stored = std::fs::read(cartridges::blob_path(&case.store, blob)).unwrap();
        assert!(verified.map(blob).unwrap().as_ref() == stored);
    }
}

#[test]
fn a_file_goes_into_another_store_and_comes_out_the_same() {
    let case = Case::new();
    let other = Store::open_or_create(case.path("other")).unwrap();
    let taken = other.import_cart(&case.path("a.cart"), &Silent).unwrap();
    assert_eq!(taken.manifest, case.packed.manifest);
    assert_eq!(taken.commit, Some(case.packed.commit));
    assert_eq!(taken.new_bytes, taken.bytes);
    let again = other.import_cart(&case.path("a.cart"), &Silent).unwrap();
    assert_eq!(again.new_bytes, 0);
    let name = "many".parse().unwrap();
    other.update_ref(&name, None, taken.commit.unwrap(), 1, "imported").unwrap();
    assert!(other.fsck(&FsckOptions::default(), &Silent).unwrap().is_clean());
}

#[test]
fn history_that_did_not_come_along_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(dir.path().join("store")).unwrap();
    pack(&store, "a", &[("t", noise(10, 1))], 1);
    let second = pack(&store, "a", &[("t", noise(10, 2))], 2);
    let cartridge = store.cartridge(second.commit).unwrap();
    let path = dir.path().join("a.cart");
    let verified = cartridge.verify(&VerifyOptions::default(), &Silent).unwrap();
    verified.write_cart(&path, &Silent).unwrap();
    let other = Store::open_or_create(dir.path().join("other")).unwrap();
    let commit = other.import_cart(&path, &Silent).unwrap().commit.unwrap();
    other.update_ref(&"a".parse().unwrap(), None, commit, 3, "").unwrap();
    assert!(other.fsck(&FsckOptions::default(), &Silent).unwrap().is_clean());
    let options = cart_store::GcOptions { now: 10, grace: 0, dry_run: false };
    assert_eq!(other.gc(&options).unwrap().kept_commits, 1);
}

#[test]
fn a_bit_flipped_anywhere_is_found() {
    let case = Case::new();
    let path = case.path("a.cart");
    let head = head(&path);
    let verify = || CartFile::open(&path).map(|it| it.verify(&VerifyOptions::default(), &Silent));
    let header_end = {
        let bytes = std::fs::read(&path).unwrap();
        bytes[..4096].iter().rposition(|&byte| byte == b'}').unwrap() as u64
    };
    let mut places: Vec<u64> = (0..4096).step_by(7).chain(header_end - 3..header_end + 3).collect();
    for tensor in &head.tensors {
        let range = &tensor.range;
        places.extend((!range.is_empty()).then_some([range.start, range.end - 1]).iter().flatten());
    }
    for at in places {
        flip_in_place(&path, at);
        assert!(!matches!(verify(), Ok(Ok(_))), "byte {at}");
        flip_in_place(&path, at);
    }
    assert!(matches!(verify(), Ok(Ok(_))));
    let long = head.tensors.iter().find(|one| one.name.as_str() == "long").unwrap();
    flip(&path, long.range.start + SEGMENT + 3);
    let Ok(Err(VerifyError::Damaged { damage, .. })) = verify() else { panic!() };
    assert_eq!(damage.len(), 1);
    assert_eq!(damage[0].uses, ["tensor `long`"]);
    assert!(matches!(damage[0].kind, DamageKind::Segment { segment: 1, .. }));
    // Nothing of it gets into a store.
    let into = Store::open_or_create(case.path("into")).unwrap();
    let error = into.import_cart(&path, &Silent).unwrap_err();
    assert!(matches!(&error, CartFileError::Damaged { damage: same, .. } if *same == damage));
    assert_eq!(std::fs::read_dir(into.root().join("blobs/sha256")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(into.root().join("tmp")).unwrap().count(), 0);
}

fn flip_in_place(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[test]
fn cut_and_lengthened_files_are_refused() {
    let case = Case::new();
    let len = std::fs::metadata(case.path("a.cart")).unwrap().len() as usize;
    for cut in [0, 4, 8, 100, 4095, 4096, 5000, len / 2, len - 1] {
        let error = case.refused(|bytes| bytes.truncate(cut));
        assert!(matches!(error, Format::Safetensors(_)), "{cut}: {error}");
    }
    let error = case.refused(|bytes| bytes.push(0));
    assert_eq!(error.code(), "safetensors");
    assert!(error.to_string().contains("goes on to"), "{error}");
}

#[test]
fn a_file_that_another_tool_saved_again_is_told_apart() {
    let case = Case::new();
    let path = case.path("a.cart");
    let error = case.refused(|bytes| *bytes = resave(&path, false, |_| ()));
    assert!(matches!(error, Format::Resaved { lost: Lost::Metadata }), "{error}");
    let error = case.refused(|bytes| *bytes = resave(&path, true, |_| ()));
    assert!(matches!(error, Format::Resaved { lost: Lost::DataStart { .. } }), "{error}");
    let without = |index: usize| {
        move |order: &mut Vec<usize>| {
            order.remove(index);
        }
    };
    let error = case.refused(|bytes| *bytes = resave(&path, true, without(4)));
    assert!(matches!(error, Format::Resaved { lost: Lost::Tensor { .. } }), "{error}");
    let error = case.refused(|bytes| *bytes = resave(&path, true, without(0)));
    let lost = Lost::Tensor { name: "cart.manifest".to_owned() };
    assert!(matches!(&error, Format::Resaved { lost: found } if *found == lost), "{error}");
    assert!(error.to_string().contains("saved it again"), "{error}");
    let error = case.refused(|bytes| {
        let neither = |order: &mut Vec<usize>| {
            order.remove(0);
        };
        *bytes = resave(&path, false, neither);
    });
    assert!(matches!(error, Format::Foreign), "{error}");
}

/// Replaces text of the header by text of the same length.
fn edit(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let at = bytes[..4096].windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
}

#[test]
fn edited_files_are_refused_by_what_was_edited() {
    let case = Case::new();
    let error = case.refused(|bytes| edit(bytes, "\"version\":\"1.0\"", "\"version\":\"2.0\""));
    assert!(matches!(error, Format::NewerMajor { .. }), "{error}");
    let error = case.refused(|bytes| edit(bytes, "\"version\":\"1.0\"", "\"version\":\"one\""));
    assert_eq!(error.code(), "metadata");
    let error =
        case.refused(|bytes| edit(bytes, "\"shape\":[12]", "\"shape\":[3,4]".split_at(12).0));
    assert_eq!(error.code(), "safetensors");
    let error = case.refused(|bytes| edit(bytes, "\"BF16\"", "\"F16\" "));
    assert!(matches!(error, Format::Tensor { .. }), "{error}");
    let manifest = case.packed.manifest.hex();
    let other = format!("{:0>64}", "1");
    let error = case.refused(|bytes| edit(bytes, &manifest, &other));
    assert!(matches!(error, Format::Digest { tensor: "cart.manifest", .. }), "{error}");
    let error = case.refused(|bytes| edit(bytes, &case.packed.commit.hex(), &other));
    assert!(matches!(error, Format::Digest { tensor: "cart.commit", .. }), "{error}");
    let error = case.refused(|bytes| edit(bytes, &manifest, &"g".repeat(64)));
    assert_eq!(error.code(), "id");
    let error = case.refused(|bytes| bytes[4096] = b'!');
    assert_eq!(error.code(), "digest");
    let error = case.refused(|bytes| bytes[4095] = b'\t');
    assert!(matches!(error, Format::Header { at: 4095 }), "{error}");
    let padding = head(&case.path("a.cart")).tensors;
    let padding = padding.iter().find(|one| one.name.as_str().starts_with("cart.pad.")).unwrap();
    let error = case.refused(|bytes| bytes[padding.range.start as usize] = 1);
    assert!(matches!(error, Format::Padding { .. }), "{error}");
}

#[test]
fn what_was_at_the_path_stays_when_writing_is_cancelled() {
    struct Never;
    impl cart_store::Progress for Never {
        fn cancelled(&self) -> bool {
            true
        }
    }
    let case = Case::new();
    let path = case.path("old.cart");
    std::fs::write(&path, b"old").unwrap();
    let cartridge = case.store.cartridge(case.packed.commit).unwrap();
    let verified = cartridge.verify(&VerifyOptions::default(), &Silent).unwrap();
    assert!(verified.write_cart(&path, &Never).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    let files = std::fs::read_dir(case.dir.path()).unwrap().count();
    assert_eq!(files, 3, "the store, the first file, and the old one");
}
