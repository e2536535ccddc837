//! Every way in which a file can be wrong, each with the error that it must cause.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use cart_format::cartfile::{CartFileError, CartHead};
use cart_format::gguf::{self, GgufError};
use cart_format::packed::{PackedError, PackedHead};
use cart_format::safetensors::{self, Parsed, SafetensorsError};
use cart_format::{Manifest, ManifestError};

/// Errors that no small file can cause, and the unit tests that cause them.
const WITHOUT_FIXTURE: &[(&str, &str)] = &[
    ("safetensors", "too_many_tensors"), // a_tensor_over_the_limit_is_refused_by_count
    ("cart", "too_large"), // documents_over_their_limits_are_refused_before_they_are_read
    ("cart", "header_too_large"), // a_header_over_its_limit_is_not_made
    ("packed", "foreign"), // what_is_no_packed_file_is_not_taken_for_one
    ("cart", "padding"),   // found by reading the file: a_bit_flipped_anywhere_is_found
];

/// What a case caused: code and message.
struct Refusal {
    kind: &'static str,
    code: String,
    message: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/v1/invalid")
}

/// Reads a head from a file of which ever more bytes are given, as an importer does.
fn in_parts<T, E>(bytes: &[u8], parse: impl Fn(&[u8]) -> Result<Parsed<T>, E>) -> Option<E> {
    let mut given = 0;
    loop {
        match parse(&bytes[..given]) {
            Ok(Parsed::Head(_)) => return None,
            Ok(Parsed::NeedMore(more)) => {
                assert!(more > given as u64 && more <= bytes.len() as u64, "{given} to {more}");
                given = more as usize;
            }
            Err(error) => return Some(error),
        }
    }
}

fn refusal(input: &Path) -> Option<Refusal> {
    let bytes = fs::read(input).unwrap();
    let len = bytes.len() as u64;
    match input.extension().unwrap().to_str().unwrap() {
        "safetensors" => in_parts(&bytes, |given| safetensors::Head::parse(given, len)).map(
            |error: SafetensorsError| Refusal {
                kind: "safetensors",
                code: error.code().to_owned(),
                message: error.to_string(),
            },
        ),
        "gguf" => {
            in_parts(&bytes, |given| gguf::Head::parse(given, len)).map(|error: GgufError| {
                Refusal { kind: "gguf", code: error.code().to_owned(), message: error.to_string() }
            })
        }
        "json" => Manifest::from_bytes(&bytes).err().map(|error: ManifestError| Refusal {
            kind: "manifest",
            code: error.code().to_owned(),
            message: error.to_string(),
        }),
        "cart" if PackedHead::is_likely(&bytes) => packed_error(&bytes).map(|error| Refusal {
            kind: "packed",
            code: error.code().to_owned(),
            message: error.to_string(),
        }),
        "cart" => cart_error(&bytes).map(|error| Refusal {
            kind: "cart",
            code: error.code().to_owned(),
            message: error.to_string(),
        }),
        other => panic!("no reader for `{other}`"),
    }
}

/// Opens a cart file as a reader does: the head, then the documents that it points to.
fn cart_error(bytes: &[u8]) -> Option<CartFileError> {
    let len = bytes.len() as u64;
    if let Some(error) = in_parts(bytes, |given| CartHead::parse(given, len)) {
        return Some(error);
    }
    let Ok(Parsed::Head(head)) = CartHead::parse(bytes, len) else { panic!("read before") };
    let of = |range: Range<u64>| &bytes[range.start as usize..range.end as usize];
    let manifest = of(head.manifest_range());
    head.check(of(0..head.data_start()), manifest, head.commit_range().map(of)).err()
}

/// Opens a packed file as a reader does.
fn packed_error(bytes: &[u8]) -> Option<PackedError> {
    let len = bytes.len() as u64;
    if let Some(error) = in_parts(bytes, |given| PackedHead::parse(given, len)) {
        return Some(error);
    }
    let Ok(Parsed::Head(head)) = PackedHead::parse(bytes, len) else { panic!("read before") };
    let of = |range: Range<u64>| &bytes[range.start as usize..range.end as usize];
    let layout = head.layout();
    head.check(of(layout.index()), of(layout.manifest()), layout.commit().map(of)).err()
}

#[test]
fn every_case_causes_its_error_and_every_error_has_a_case() {
    let mut seen = BTreeSet::new();
    let mut cases = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let case = entry.unwrap().path();
        let name = case.file_name().unwrap().to_str().unwrap().to_owned();
        let mut files: Vec<_> =
            fs::read_dir(&case).unwrap().map(|file| file.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files.len(), 2, "{name} should hold expected.json and input.*: {files:?}");
        assert_eq!(files[0], "expected.json", "{name}");
        let expected = fs::read(case.join("expected.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
        let refusal = refusal(&case.join(&files[1]));
        let refusal = refusal.unwrap_or_else(|| panic!("{name} is accepted"));
        assert_eq!(
            refusal.code,
            expected["error"].as_str().unwrap(),
            "{name}: {}",
            refusal.message
        );
        let words = expected["message_contains"].as_str().unwrap();
        assert!(refusal.message.contains(words), "{name}: {}", refusal.message);
        assert!(name.starts_with(refusal.kind), "{name} is a case of {}", refusal.kind);
        seen.insert((refusal.kind, refusal.code));
        cases += 1;
    }
    assert!(cases >= 25, "{cases} cases");
    let all = [
        ("safetensors", SafetensorsError::CODES),
        ("gguf", GgufError::CODES),
        ("manifest", ManifestError::CODES),
        ("cart", CartFileError::CODES),
        ("packed", PackedError::CODES),
    ];
    for (kind, codes) in all {
        for code in codes.iter().filter(|code| !WITHOUT_FIXTURE.contains(&(kind, code))) {
            assert!(seen.contains(&(kind, (*code).to_owned())), "{kind}: no case causes {code}");
        }
    }
}

#[test]
fn a_refusal_does_not_depend_on_how_much_is_given_at_once() {
    for entry in fs::read_dir(folder()).unwrap() {
        let case = entry.unwrap().path();
        for input in ["input.safetensors", "input.gguf"].map(|name| case.join(name)) {
            let Ok(bytes) = fs::read(&input) else { continue };
            let len = bytes.len() as u64;
            let at_once = if input.ends_with("input.gguf") {
                gguf::Head::parse(&bytes, len).unwrap_err().to_string()
            } else {
                safetensors::Head::parse(&bytes, len).unwrap_err().to_string()
            };
            assert_eq!(refusal(&input).unwrap().message, at_once);
        }
    }
}
