//! Cartridges that the tests begin from.

use std::path::{Path, PathBuf};

use cart_engine::{Agent, GenerateOptions, Generation, LoadOptions, Prompt, perplexity};
use cart_format::{Manifest, ManifestId};
use cart_store::import::{ImportOptions, import};
use cart_store::{Silent, Store, Verified, VerifyOptions};
use tempfile::TempDir;

/// A store that goes when the test ends.
pub(crate) struct Shelf {
    pub(crate) store: Store,
    _folder: TempDir,
}

pub(crate) fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

pub(crate) fn shelf() -> Shelf {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(folder.path().join("store")).unwrap();
    Shelf { store, _folder: folder }
}

impl Shelf {
    /// Imports a model.
    pub(crate) fn import(&self, path: &Path) -> ManifestId {
        import(&self.store, path, &ImportOptions::default(), &Silent).unwrap().manifest_id
    }

    /// Stores a manifest whose blobs are there.
    pub(crate) fn put(&self, manifest: &Manifest) -> Verified {
        self.verified(self.store.put_manifest(manifest).unwrap())
    }

    pub(crate) fn verified(&self, id: ManifestId) -> Verified {
        let found = self.store.resolve(&id.hex()).unwrap();
        let cartridge = self.store.open_cartridge(&found).unwrap();
        cartridge.verify(&VerifyOptions::default(), &Silent).unwrap()
    }

    pub(crate) fn agent(&self, id: ManifestId) -> Agent {
        Agent::load(&self.verified(id), &LoadOptions::default()).unwrap()
    }

    /// The tiny model.
    pub(crate) fn tiny(&self) -> Agent {
        self.agent(self.import(&fixture("tiny")))
    }

    pub(crate) fn tiny_with(&self, options: &LoadOptions) -> Agent {
        Agent::load(&self.verified(self.import(&fixture("tiny"))), options).unwrap()
    }
}

pub(crate) fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(max_tokens), ..GenerateOptions::default() }
}

pub(crate) fn raw(agent: &Agent, prompt: &str, options: &GenerateOptions) -> Generation {
    agent.generate(&Prompt::Raw(prompt.to_owned()), options, |_| {}).unwrap()
}

/// A model too large for the repository. Without it, says past the capture of the test runner that
/// the calling test was skipped.
pub(crate) fn large_model(variable: &str) -> Option<PathBuf> {
    use std::io::Write as _;
    let path = std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
    if let Some(path) = &path {
        assert!(path.is_file(), "{variable} is {}, no such file", path.display());
    } else {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let missing = format!("SKIPPED {test}: ${variable} is not set; `scripts/test` sets it");
        let _ = writeln!(std::io::stderr(), "{missing}");
    }
    path
}

/// Perplexity of a model on the first 20,000 characters of the GPL, in chunks of 512 tokens.
pub(crate) fn gpl_perplexity(model: &Path) -> f64 {
    let shelf = shelf();
    let agent = shelf.agent(shelf.import(model));
    let text = std::fs::read_to_string(fixture("text/gpl-3.txt")).unwrap();
    let text: String = text.chars().take(20_000).collect();
    perplexity(&agent, &text, 512).unwrap().perplexity
}
