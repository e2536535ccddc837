//! The binary with a store of its own, and nothing of the caller's environment.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

use serde_json::Value;
use tempfile::TempDir;

use crate::places::binary;
use crate::schemas;

/// The binary, a store and a folder for files, all gone when dropped.
///
/// Whatever a command prints with `--json` is checked against its schema, and whatever manifests
/// and commits a successful command leaves in the store are checked against theirs.
pub struct Cart {
    scratch: TempDir,
    store: PathBuf,
    documents: Mutex<BTreeSet<PathBuf>>,
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    /// The exit code; none for a signal.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

impl Default for Cart {
    fn default() -> Self {
        Self::new()
    }
}

impl Cart {
    /// With a store that is not there yet.
    pub fn new() -> Self {
        let scratch = tempfile::Builder::new().prefix("cart-test-").tempdir().unwrap();
        let store = scratch.path().join("store");
        Self { scratch, store, documents: Mutex::default() }
    }

    /// The store's folder.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// A folder for files, which is there.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The path of a file in the scratch folder, as text.
    pub fn path(&self, name: &str) -> String {
        self.scratch.path().join(name).into_os_string().into_string().unwrap()
    }

    /// Writes a file into the scratch folder and returns its path.
    pub fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The command with these arguments and the store, in an empty environment.
    pub fn command<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(binary());
        command.env_clear().env("HOME", self.scratch()).env("CART_STORE", &self.store);
        command.current_dir(self.scratch()).stdin(Stdio::null()).args(arguments);
        command
    }

    /// Runs a command.
    pub fn run<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Done {
        let done = Done::of(self.command(arguments).output().unwrap());
        if done.code == Some(0) {
            self.check_documents();
        }
        done
    }

    /// Runs a command with a text on stdin.
    pub fn run_with_stdin<I: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = I>,
        text: &str,
    ) -> Done {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A command that does not read to the end is judged by what it says.
        let _ = stdin.write_all(text.as_bytes());
        drop(stdin);
        Done::of(child.wait_with_output().unwrap())
    }

    /// Runs a command that must succeed; returns what it printed.
    pub fn ok<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> String {
        self.run(arguments).expect_code(0).stdout
    }

    /// Runs a command with `--json` that must succeed; returns its report.
    pub fn json<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Value {
        self.json_with_code(0, arguments)
    }

    /// Runs a command with `--json` that must end with this code; returns its report.
    pub fn json_with_code<I: AsRef<OsStr>>(
        &self,
        code: i32,
        arguments: impl IntoIterator<Item = I>,
    ) -> Value {
        let mut all = vec![OsStr::new("--json").to_owned()];
        all.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self.run(&all).expect_code(code).report()
    }

    /// Runs a command that must refuse with exit code 1, saying why and, with `--json`, the same as
    /// a report. Returns the message.
    pub fn refused<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> String {
        self.refused_with_code(1, arguments)
    }

    /// As [`Cart::refused`], with another exit code.
    pub fn refused_with_code<I: AsRef<OsStr>>(
        &self,
        code: i32,
        arguments: impl IntoIterator<Item = I>,
    ) -> String {
        let report = self.json_with_code(code, arguments);
        if report["report"] == "cart.verify/1" {
            // It gives each REF its own outcome; here there is one.
            assert_eq!(report["cartridges"].as_array().unwrap().len(), 1, "{report}");
            return report["cartridges"][0]["error"].as_str().unwrap().to_owned();
        }
        assert_eq!(report["report"], "cart.error/1", "{report}");
        assert_eq!(report["exit_code"], code);
        let hint = report["hint"].as_str().map_or(String::new(), |hint| format!("; hint: {hint}"));
        format!("{}{hint}", report["error"].as_str().unwrap())
    }

    /// The names of the files in `blobs/`.
    pub fn blobs(&self) -> BTreeSet<String> {
        names_in(&self.store.join("blobs/sha256"))
    }

    /// The path of a blob.
    pub fn blob(&self, id: &str) -> PathBuf {
        self.store.join("blobs/sha256").join(id)
    }

    /// Everything of the store that lasts: paths and bytes. Locks and `tmp/` are no content.
    pub fn content(&self) -> BTreeSet<(PathBuf, Vec<u8>)> {
        let mut content = BTreeSet::new();
        for part in ["blobs", "commits", "refs", "logs", "trash"] {
            collect(&self.store.join(part), &mut content);
        }
        content
    }

    /// The manifest of a cartridge, as `inspect --manifest` prints it.
    pub fn manifest(&self, reference: &str) -> Value {
        serde_json::from_str(&self.ok(["inspect", "--manifest", reference])).unwrap()
    }

    fn check_documents(&self) {
        let commits = self.store.join("commits/sha256");
        for name in names_in(&commits) {
            let path = commits.join(name);
            let Some(commit) = self.new_document(&path) else { continue };
            schemas::check("commit", &commit);
            let manifest = self.blob(commit["manifest"].as_str().unwrap());
            if let Some(manifest) = self.new_document(&manifest) {
                schemas::check("manifest", &manifest);
                self.check_state("memory", &manifest);
                self.check_state("session", &manifest);
            }
        }
    }

    fn check_state(&self, section: &str, manifest: &Value) {
        if let Some(state) = manifest[section]["state"].as_str()
            && let Some(state) = self.new_document(&self.blob(state))
        {
            schemas::check(&format!("{section}-state"), &state);
        }
    }

    /// A document that was not looked at before.
    fn new_document(&self, path: &Path) -> Option<Value> {
        if !self.documents.lock().unwrap().insert(path.to_owned()) {
            return None;
        }
        let bytes =
            std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Some(
            serde_json::from_slice(&bytes)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        )
    }
}

impl Done {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Fails unless the command ended with this code.
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// The report that was printed with `--json`, checked against its schema: one line, canonical
    /// order.
    pub fn report(&self) -> Value {
        let line = self.stdout.strip_suffix('\n').unwrap_or_else(|| panic!("no report: {self:?}"));
        assert!(!line.contains('\n'), "a report is one line: {line}");
        let report: Value = serde_json::from_str(line).unwrap();
        let name = report["report"].as_str().and_then(|name| name.strip_prefix("cart."));
        let (name, _version) = name.and_then(|name| name.split_once('/')).unwrap();
        schemas::check(&format!("report-{name}"), &report);
        report
    }
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    match std::fs::read_dir(folder) {
        Ok(entries) => {
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
        Err(_) => BTreeSet::new(),
    }
}

fn collect(path: &Path, content: &mut BTreeSet<(PathBuf, Vec<u8>)>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), content);
        }
    } else if path.is_file() {
        content.insert((path.to_owned(), std::fs::read(path).unwrap()));
    }
}
