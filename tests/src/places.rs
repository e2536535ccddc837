//! Where the binary, the fixtures and the large model are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The folder of the fixtures.
pub fn fixtures() -> PathBuf {
    root().join("fixtures")
}

/// The path of a fixture, as text.
pub fn fixture(name: &str) -> String {
    let path = fixtures().join(name);
    assert!(path.exists(), "{} is missing", path.display());
    path.into_os_string().into_string().unwrap()
}

/// The `cart` binary: `$CART_BIN`, else built once for each process.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| std::env::var_os("CART_BIN").map_or_else(build, PathBuf::from))
}

fn build() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--package", "cart-cli", "--bin", "cart"]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = output.stdout.split(|&byte| byte == b'\n');
    let messages = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let mut built = messages.filter(|message| message["target"]["name"] == "cart");
    built.find_map(|message| message["executable"].as_str().map(PathBuf::from)).unwrap()
}

/// `$CART_TEST_MODEL`: SmolLM2-135M-Instruct as a GGUF file, which is too large for the repository.
/// Without it, says loudly that the calling test was skipped.
pub fn test_model() -> Option<String> {
    let model = std::env::var("CART_TEST_MODEL").ok().filter(|path| !path.is_empty());
    match &model {
        Some(path) => assert!(Path::new(path).is_file(), "CART_TEST_MODEL is {path}, no such file"),
        None => skip("$CART_TEST_MODEL is not set; `scripts/test` fetches the model and sets it"),
    }
    model
}

/// Says on stderr, past the capture of the test runner, that the calling test looked at less than
/// it could.
pub fn skip(reason: &str) {
    use std::io::Write as _;
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
}
