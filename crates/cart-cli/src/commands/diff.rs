//! `cart diff`.

use std::collections::{BTreeMap, BTreeSet};

use cart_engine::SavedSessionReport;
use cart_format::{BlobId, Manifest};
use cart_memory::UnifiedMemory;
use cart_store::Cartridge;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::inspect::session_line;
use crate::bytes::{counted, human};
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;

/// Show what differs between two cartridges.
///
/// Tensors are compared by digest (a renamed tensor is found by it), memory slot by slot, the rest
/// field by field. Exit code 0 whether they differ or not; --json says which.
#[derive(Args)]
#[command(after_help = "Examples:
  cart diff smol smol:told
  cart diff a.cart b.cart --all")]
pub(crate) struct DiffArgs {
    /// A cartridge
    #[arg(value_name = "A")]
    a: String,
    /// Another
    #[arg(value_name = "B")]
    b: String,
    /// List everything, not the first ten of a kind
    #[arg(long)]
    all: bool,
}

/// What differs from A to B.
#[derive(Serialize)]
pub(crate) struct DiffReport {
    a: String,
    b: String,
    pub(crate) identical: bool,
    tensors: TensorDiff,
    architecture_changed: bool,
    tokenizer_changed: bool,
    metadata: Vec<FieldChange>,
    pub(crate) memory: MemoryDiff,
    session: SessionDiff,
    shared_bytes: u64,
    only_a_bytes: u64,
    only_b_bytes: u64,
}

#[derive(Default, Serialize)]
struct TensorDiff {
    same: usize,
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<TensorChange>,
    renamed: Vec<Renamed>,
}

#[derive(Serialize)]
struct TensorChange {
    name: String,
    a: String,
    b: String,
}

#[derive(Serialize)]
struct Renamed {
    a: String,
    b: String,
}

#[derive(Serialize)]
struct FieldChange {
    field: String,
    a: Option<Value>,
    b: Option<Value>,
}

/// The saved sessions of both, and whether they differ in anything.
#[derive(Serialize)]
struct SessionDiff {
    changed: bool,
    a: Option<SavedSessionReport>,
    b: Option<SavedSessionReport>,
}

/// Slots that one memory has and the other has not, or has with other numbers.
#[derive(Default, Serialize)]
pub(crate) struct MemoryDiff {
    same: usize,
    pub(crate) added: Vec<SlotLine>,
    removed: Vec<SlotLine>,
    changed: Vec<SlotChange>,
    goal_cosine: Option<f32>,
    foreign_space: bool,
}

/// A slot that one side has.
#[derive(Serialize)]
pub(crate) struct SlotLine {
    store: String,
    pub(crate) text: String,
    energy: f32,
}

#[derive(Serialize)]
struct SlotChange {
    store: String,
    text: String,
    energy_a: f32,
    energy_b: f32,
    count_a: u64,
    count_b: u64,
}

pub(crate) fn run(context: &Context, args: &DiffArgs) -> Result<(), Failure> {
    let a = history::open(context, &args.a)?;
    let b = history::open(context, &args.b)?;
    let body = compare(&a, &b)?;
    if context.json {
        return report::print("diff", &body);
    }
    let limit = if args.all { usize::MAX } else { 10 };
    report::stdout(render(&body, (&args.a, &args.b), limit).as_bytes())
}

/// Compares two cartridges by what their manifests and memories say.
pub(crate) fn compare(a: &Cartridge, b: &Cartridge) -> Result<DiffReport, Failure> {
    let (left, right) = (a.manifest(), b.manifest());
    let (memory_a, memory_b) = (history::memory_of(a)?, history::memory_of(b)?);
    let bytes = |of: &Manifest, shared: bool, other: &Manifest| -> u64 {
        let entries = of.blobs.iter().filter(|(id, _)| other.blobs.contains_key(*id) == shared);
        entries.map(|(_, entry)| entry.size).sum()
    };
    Ok(DiffReport {
        a: a.manifest_id().hex(),
        b: b.manifest_id().hex(),
        identical: a.manifest_id() == b.manifest_id(),
        tensors: compare_tensors(left, right),
        architecture_changed: left.model.architecture != right.model.architecture,
        tokenizer_changed: left.tokenizer != right.tokenizer,
        metadata: compare_metadata(left, right),
        memory: compare_memories(memory_a.as_ref(), memory_b.as_ref()),
        session: compare_sessions(left, right)?,
        shared_bytes: bytes(left, true, right),
        only_a_bytes: bytes(left, false, right),
        only_b_bytes: bytes(right, false, left),
    })
}

fn compare_tensors(a: &Manifest, b: &Manifest) -> TensorDiff {
    let mut diff = TensorDiff::default();
    let mut gone: BTreeMap<BlobId, Vec<String>> = BTreeMap::new();
    for (name, tensor) in &a.model.tensors {
        match b.model.tensors.get(name) {
            Some(other) if other == tensor => diff.same += 1,
            Some(other) => diff.changed.push(TensorChange {
                name: name.to_string(),
                a: format!("{} {:?}", tensor.dtype, tensor.shape),
                b: format!("{} {:?}", other.dtype, other.shape),
            }),
            None => gone.entry(tensor.blob).or_default().push(name.to_string()),
        }
    }
    for (name, tensor) in &b.model.tensors {
        if a.model.tensors.contains_key(name) {
            continue;
        }
        match gone.get_mut(&tensor.blob).and_then(Vec::pop) {
            Some(before) => diff.renamed.push(Renamed { a: before, b: name.to_string() }),
            None => diff.added.push(name.to_string()),
        }
    }
    diff.removed = gone.into_values().flatten().collect();
    diff.removed.sort();
    diff
}

fn compare_metadata(a: &Manifest, b: &Manifest) -> Vec<FieldChange> {
    let fields: BTreeSet<&String> = a.metadata.keys().chain(b.metadata.keys()).collect();
    let change = |field: &String| FieldChange {
        field: field.clone(),
        a: a.metadata.get(field).cloned(),
        b: b.metadata.get(field).cloned(),
    };
    fields.into_iter().map(change).filter(|change| change.a != change.b).collect()
}

fn compare_memories(a: Option<&UnifiedMemory>, b: Option<&UnifiedMemory>) -> MemoryDiff {
    let mut diff = MemoryDiff::default();
    if let (Some(a), Some(b)) = (a, b) {
        diff.foreign_space = a.space() != b.space();
        diff.goal_cosine =
            (!diff.foreign_space).then(|| cosine(a.goal().vector(), b.goal().vector())).flatten();
    }
    let slots = |memory: Option<&UnifiedMemory>| -> BTreeMap<(String, String), (f32, u64)> {
        let slots = memory.into_iter().flat_map(UnifiedMemory::slots);
        slots
            .map(|(slot_ref, slot)| {
                let store = format!("{:?}", slot_ref.store).to_lowercase();
                ((store, slot.value.text.clone()), (slot.energy, slot.count))
            })
            .collect()
    };
    let (left, right) = (slots(a), slots(b));
    for ((store, text), (energy, count)) in &left {
        match right.get(&(store.clone(), text.clone())) {
            Some(other) if *other == (*energy, *count) => diff.same += 1,
            Some((energy_b, count_b)) => diff.changed.push(SlotChange {
                store: store.clone(),
                text: text.clone(),
                energy_a: *energy,
                energy_b: *energy_b,
                count_a: *count,
                count_b: *count_b,
            }),
            None => {
                let (store, text) = (store.clone(), text.clone());
                diff.removed.push(SlotLine { store, text, energy: *energy });
            }
        }
    }
    for ((store, text), (energy, _)) in right {
        if !left.contains_key(&(store.clone(), text.clone())) {
            diff.added.push(SlotLine { store, text, energy });
        }
    }
    diff
}

fn compare_sessions(a: &Manifest, b: &Manifest) -> Result<SessionDiff, Failure> {
    let report = |of| SavedSessionReport::of(of).map_err(Failure::bug);
    Ok(SessionDiff { changed: a.session != b.session, a: report(a)?, b: report(b)? })
}

/// Cosine of two vectors of one length; none where one is zero.
fn cosine(a: &[f32], b: &[f32]) -> Option<f32> {
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    (norms > 0.0).then(|| (dot(a, b) / norms) as f32)
}

fn render(body: &DiffReport, (a, b): (&str, &str), limit: usize) -> String {
    if body.identical {
        return format!("identical: {a} and {b} are sha256:{}\n", body.a);
    }
    let mut out = Lines { text: String::new(), limit };
    out.line(format!(
        "{a} → {b}: {} shared, {} only in {a}, {} only in {b}",
        human(body.shared_bytes),
        human(body.only_a_bytes),
        human(body.only_b_bytes)
    ));
    let tensors = &body.tensors;
    out.line(format!(
        "tensors    {} same, {} changed, {} added, {} removed, {} renamed",
        tensors.same,
        tensors.changed.len(),
        tensors.added.len(),
        tensors.removed.len(),
        tensors.renamed.len()
    ));
    out.list(tensors.changed.iter().map(|change| {
        let kinds = if change.a == change.b {
            change.a.clone()
        } else {
            format!("{} → {}", change.a, change.b)
        };
        format!("~ {}  {kinds}", change.name)
    }));
    out.list(tensors.added.iter().map(|name| format!("+ {name}")));
    out.list(tensors.removed.iter().map(|name| format!("- {name}")));
    out.list(tensors.renamed.iter().map(|pair| format!("> {} → {}", pair.a, pair.b)));
    for (what, changed) in
        [("architecture", body.architecture_changed), ("tokenizer", body.tokenizer_changed)]
    {
        if changed {
            out.line(format!("{what:10} changed"));
        }
    }
    out.list(body.metadata.iter().map(|change| {
        let show =
            |value: &Option<Value>| value.as_ref().map_or("absent".to_owned(), Value::to_string);
        format!("~ metadata {}: {} → {}", change.field, show(&change.a), show(&change.b))
    }));
    render_memory(&body.memory, &mut out);
    if body.session.changed {
        let [a, b] = [&body.session.a, &body.session.b].map(|side| session_line(side.as_ref()));
        out.line(format!("session    {a} → {b}"));
    }
    out.text
}

fn render_memory(memory: &MemoryDiff, out: &mut Lines) {
    out.line(format!(
        "memory     {} same, {} learned, {} forgotten, {} re-weighed",
        memory.same,
        memory.added.len(),
        memory.removed.len(),
        memory.changed.len()
    ));
    if memory.foreign_space {
        out.line("           of two spaces: their vectors can't be compared".to_owned());
    }
    out.list(memory.added.iter().map(|slot| {
        format!("+ {} {:.2}  {}", slot.store, slot.energy, slot.text.trim().replace('\n', "⏎"))
    }));
    out.list(memory.removed.iter().map(|slot| {
        format!("- {} {:.2}  {}", slot.store, slot.energy, slot.text.trim().replace('\n', "⏎"))
    }));
    out.list(memory.changed.iter().map(|slot| {
        let text = slot.text.trim().replace('\n', "⏎");
        format!("~ {} {:.2} → {:.2}  {text}", slot.store, slot.energy_a, slot.energy_b)
    }));
    if let Some(cosine) = memory.goal_cosine.filter(|cosine| *cosine < 0.9999) {
        let degrees = cosine.clamp(-1.0, 1.0).acos().to_degrees();
        out.line(format!("           the goal turned by {degrees:.1}°"));
    }
}

struct Lines {
    text: String,
    limit: usize,
}

impl Lines {
    fn line(&mut self, line: String) {
        self.text.push_str(&line);
        self.text.push('\n');
    }

    fn list(&mut self, items: impl ExactSizeIterator<Item = String>) {
        let left = items.len().saturating_sub(self.limit);
        for item in items.take(self.limit) {
            self.line(format!("  {item}"));
        }
        if left > 0 {
            self.line(format!(
                "  … and {} (--all lists them)",
                counted(left as u64, "more").replace("mores", "more")
            ));
        }
    }
}
