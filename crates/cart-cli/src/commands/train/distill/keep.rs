//! The student as a commit.

use std::collections::BTreeMap;

use cart_engine::with_memory;
use cart_format::{ManifestId, Recipe};
use cart_store::{Store, VerifyOptions};
use cart_train::NewTokenizer;
use serde_json::{Value, json};

use super::super::keep::{self, RECIPE};
use super::Run;
use super::memory::{self, MemoryReport};
use super::report::{KeptReport, MeasureReport};
use crate::failure::Failure;
use crate::history::{self, NewCommit};
use crate::progress::Bar;

/// Largest tokenizer document and chat template, in bytes.
const TOKENIZER_BYTES: u64 = 256 << 20;

impl Run<'_> {
    /// Keeps the student, with what the teacher remembers, under the name, verified.
    pub(super) fn keep(&self, after: MeasureReport) -> Result<KeptReport, Failure> {
        let store = self.context.store_or_new()?;
        let held = store.hold().map_err(Failure::refused)?;
        let teacher = self.teacher.1.manifest.hex();
        let metadata = BTreeMap::from([("teacher".to_owned(), Value::from(teacher))]);
        let student = self.distillation.put(&store, self.tokenizer()?, metadata);
        let student = student.map_err(Failure::refused)?;
        let (manifest, memory) = self.with_memory(&store, student)?;
        let commit = match keep::of_run(&store, &self.args.tag, &self.recipe)? {
            Some((commit, found)) if found == manifest => commit,
            _ => {
                let new = NewCommit {
                    manifest,
                    parents: self.student.commit().into_iter().collect(),
                    recipe: self.said(after, memory.as_ref()),
                    message: format!("distilled, step {}", after.step),
                    probes: Vec::new(),
                };
                history::commit(&store, new, Some(&self.args.tag))?
            }
        };
        drop(held);
        let name = self.args.tag.to_string();
        history::verified(self.context, &name)?;
        Ok(KeptReport { name, manifest: manifest.hex(), commit: commit.hex(), memory })
    }

    /// The teacher's, or the student's own.
    fn tokenizer(&self) -> Result<NewTokenizer, Failure> {
        let own = self.tokens.as_ref().map(|other| &other.verified);
        let verified = own.unwrap_or(&self.teacher.1.verified);
        let section = verified.manifest().tokenizer.as_ref();
        let section = section.expect("the data was read with this tokenizer");
        let read = |blob| verified.read(blob, TOKENIZER_BYTES).map_err(Failure::refused);
        Ok(NewTokenizer {
            document: read(&section.document)?,
            chat_template: section.chat_template.as_ref().map(read).transpose()?,
            vocab_size: section.vocab_size,
            special: section.special.clone(),
        })
    }

    /// The student with what the teacher remembers.
    fn with_memory(
        &self,
        store: &Store,
        student: ManifestId,
    ) -> Result<(ManifestId, Option<MemoryReport>), Failure> {
        let teacher = self.teacher.0;
        if self.args.no_memory || teacher.memory().is_none() {
            return Ok((student, None));
        }
        let bar = Bar::new(self.context, "verifying");
        let found = store.resolve(&student.hex()).map_err(Failure::refused)?;
        let cartridge = store.open_cartridge(&found).map_err(Failure::refused)?;
        let threads = self.context.threads;
        let options = VerifyOptions { threads, ..VerifyOptions::default() };
        let verified = cartridge.verify(&options, &bar).map_err(Failure::refused)?;
        let loaded = cart_engine::Agent::load(&verified, &history::load_options(self.context));
        let loaded = loaded.map_err(Failure::refused)?;
        let Some((memory, report)) = memory::taken_along(teacher, &loaded)? else {
            return Ok((student, None));
        };
        let made = with_memory(verified.manifest(), &memory, store).map_err(Failure::refused)?;
        let manifest = store.put_manifest(&made.0).map_err(Failure::refused)?;
        Ok((manifest, Some(report)))
    }

    /// What a commit says about how it came about.
    fn said(&self, after: MeasureReport, memory: Option<&MemoryReport>) -> Recipe {
        let recipe = Recipe::new(RECIPE)
            .with("tool", history::tool())
            .with("run", self.recipe.clone())
            .with("step", after.step)
            .with("held_out", json!(after.held_out));
        match memory {
            Some(memory) => recipe.with("memory", json!(memory)),
            None => recipe,
        }
    }
}
