//! What an agent remembers of what it was trained on.

use cart_engine::{Agent, LoadOptions, Telling, with_memory};
use cart_format::ManifestId;
use cart_memory::{Input, UnifiedMemory};
use cart_store::{Store, VerifyOptions};
use cart_train::agent::{NOTE_TOKENS, Notebook, NotebookReport};
use serde::Serialize;

use crate::bytes::counted;
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::progress::Bar;

/// What an agent remembers of what it was trained on.
#[derive(Serialize)]
pub(super) struct MemoryReport {
    #[serde(flatten)]
    heard: NotebookReport,
    /// Sentences that the model was told again.
    notes: usize,
    stm_slots: usize,
    ltm_slots: usize,
    /// What the memory is.
    memory_id: String,
    /// Which model its vectors are of.
    space: String,
}

/// The cartridge with a memory that was told these notes, in their order, by the model that it has: what it
/// noted for an earlier model is told again, as vectors of that model mean nothing to this one.
pub(super) fn remembering(
    context: &Context,
    store: &Store,
    bare: ManifestId,
    notebook: &Notebook,
) -> Result<(ManifestId, MemoryReport), Failure> {
    let found = store.resolve(&bare.hex()).map_err(Failure::refused)?;
    let cartridge = store.open_cartridge(&found).map_err(Failure::refused)?;
    let verify = VerifyOptions { threads: context.threads, ..VerifyOptions::default() };
    let bar = Bar::new(context, "verifying");
    let verified = cartridge.verify(&verify, &bar).map_err(Failure::refused)?;
    drop(bar);
    let mut options: LoadOptions = history::load_options(context);
    options.memory.max_span_tokens = NOTE_TOKENS as u32;
    // What is told surprised enough for long-term memory already.
    options.memory.observer_interval = 1;
    options.memory.ltm_slots = options.memory.ltm_slots.max(notebook.notes().len() as u32);
    let agent = Agent::load(&verified, &options).map_err(Failure::refused)?;
    tell(&agent, notebook)?;
    let report = |slots: (usize, usize), memory_id| MemoryReport {
        heard: notebook.report(),
        notes: notebook.notes().len(),
        stm_slots: slots.0,
        ltm_slots: slots.1,
        memory_id,
        space: agent.space().hex(),
    };
    // Where nothing surprised so far, there is nothing to remember.
    let Some(memory) = agent.memory() else { return Ok((bare, report((0, 0), String::new()))) };
    let made = with_memory(verified.manifest(), &memory, store).map_err(Failure::refused)?;
    let manifest = store.put_manifest(&made.0).map_err(Failure::refused)?;
    let slots = memory.report();
    let slots = (slots.stm.slots, slots.ltm.slots);
    Ok((manifest, report(slots, memory.snapshot().id().hex())))
}

fn tell(agent: &Agent, notebook: &Notebook) -> Result<(), Failure> {
    for note in notebook.notes() {
        let source = format!("training, step {}", note.step + 1);
        let telling =
            Telling { text: &note.text, whole: true, energy: note.energy, source: &source };
        for reading in agent.observations(telling).map_err(Failure::refused)? {
            for seen in reading.map_err(Failure::refused)? {
                let observe =
                    |memory: &UnifiedMemory| Input::Observe { at: memory.now() + 1, seen };
                agent.tell_memory(observe).map_err(Failure::refused)?;
            }
        }
    }
    Ok(())
}

impl MemoryReport {
    pub(super) fn said(&self) -> String {
        let NotebookReport { heard, surprising, .. } = self.heard;
        format!(
            "memory: {} of {} surprised; {} are remembered, in {} short-term and {} long-term slots",
            surprising,
            counted(heard, "sentence"),
            self.notes,
            self.stm_slots,
            self.ltm_slots,
        )
    }
}
