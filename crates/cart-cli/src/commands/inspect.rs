//! `cart inspect`.

use std::path::Path;

use cart_engine::SavedSessionReport;
use cart_format::packed::{Packed, PackedBlob};
use cart_format::{Commit, CommitId, Manifest, ManifestId};
use cart_memory::{StoreKind, UnifiedMemory};
use cart_store::{Cartridge, PackedFile};
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::bytes::{counted, human, timestamp};
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::packed;
use crate::report;
use crate::table::Table;

/// Show what is in a cartridge.
#[derive(Args)]
#[command(after_help = "Examples:
  cart inspect smol
  cart inspect smol --tensors
  cart inspect smol:told --memory
  cart --json inspect backup.cart --tensors")]
pub(crate) struct InspectArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// List the tensors
    #[arg(long)]
    tensors: bool,
    /// List the memory's slots
    #[arg(long)]
    memory: bool,
    /// Print the manifest's own bytes and nothing else
    #[arg(long, conflicts_with_all = ["tensors", "memory"])]
    manifest: bool,
}

#[derive(Serialize)]
struct Inspection {
    manifest: String,
    commit: Option<String>,
    time: Option<u64>,
    message: Option<String>,
    recipe: Option<String>,
    probes: usize,
    format: String,
    family: Option<String>,
    layers: Option<usize>,
    hidden_size: Option<u64>,
    context_length: Option<u64>,
    vocab_size: Option<u64>,
    parameters: u64,
    tensors: usize,
    dtypes: Vec<DtypeRow>,
    blobs: usize,
    bytes: u64,
    tokenizer: bool,
    chat_template: bool,
    origin: Option<Value>,
    metadata: Value,
    memory: Option<cart_memory::MemoryReport>,
    session: Option<SavedSessionReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packed: Option<PackedSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensor_list: Option<Vec<TensorRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slots: Option<Vec<SlotRow>>,
}

/// What is known of a packed file without unpacking it.
#[derive(Serialize)]
struct PackedSummary {
    file_bytes: u64,
    base: Option<String>,
    blobs: usize,
    bytes: u64,
    packed_bytes: u64,
}

#[derive(Serialize)]
struct DtypeRow {
    dtype: String,
    tensors: usize,
    bytes: u64,
}

#[derive(Serialize)]
struct TensorRow {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    bytes: u64,
    blob: String,
}

#[derive(Serialize)]
struct SlotRow {
    store: &'static str,
    slot: u64,
    energy: f32,
    gate: f32,
    gated_energy: f32,
    count: u64,
    made: u64,
    refreshed: u64,
    read: u64,
    tokens: usize,
    source: String,
    text: String,
}

pub(crate) fn run(context: &Context, args: &InspectArgs) -> Result<(), Failure> {
    let file = packed::open(Path::new(&args.reference))?;
    let subject = match &file {
        Some(file) => Subject::packed(file),
        None => Subject::Open(history::open(context, &args.reference)?),
    };
    if args.manifest {
        return report::stdout(&subject.manifest().to_bytes().map_err(Failure::bug)?);
    }
    let memory = match (&subject, args.memory) {
        (Subject::Open(cartridge), _) => history::memory_of(cartridge)?,
        (Subject::Packed(_), false) => None,
        (Subject::Packed(_), true) => {
            history::memory_of(&history::open(context, &args.reference)?)?
        }
    };
    let session = SavedSessionReport::of(subject.manifest()).map_err(Failure::bug)?;
    let mut body = inspect(&subject, memory.as_ref(), session);
    body.packed = file.as_ref().map(PackedSummary::of);
    body.tensor_list = args.tensors.then(|| tensor_rows(subject.manifest()));
    body.slots = args.memory.then(|| memory.as_ref().map_or_else(Vec::new, slot_rows));
    if context.json {
        return report::print("inspect", &body);
    }
    report::stdout(render(&body).as_bytes())?;
    if let Some(rows) = &body.tensor_list {
        report::stdout(render_tensors(rows).as_bytes())?;
    }
    match (args.memory, &memory) {
        (true, Some(memory)) => report::stdout(memory_table(memory).as_bytes()),
        (true, None) => {
            report::line("no memory yet; `cart run REF --memory --save NAME` makes one")
        }
        _ => Ok(()),
    }
}

/// What is looked at: of a packed file, the documents alone.
enum Subject<'a> {
    Open(Cartridge),
    Packed(&'a Packed),
}

impl<'a> Subject<'a> {
    fn packed(file: &'a PackedFile) -> Self {
        Self::Packed(file.packed())
    }

    fn manifest(&self) -> &Manifest {
        match self {
            Self::Open(cartridge) => cartridge.manifest(),
            Self::Packed(packed) => &packed.manifest,
        }
    }

    fn manifest_id(&self) -> ManifestId {
        match self {
            Self::Open(cartridge) => cartridge.manifest_id(),
            Self::Packed(packed) => packed.manifest_id,
        }
    }

    fn commit(&self) -> Option<(CommitId, &Commit)> {
        match self {
            Self::Open(cartridge) => cartridge.commit(),
            Self::Packed(packed) => packed.commit.as_ref().map(|(id, commit)| (*id, commit)),
        }
    }
}

impl PackedSummary {
    fn of(file: &PackedFile) -> Self {
        let packed = file.packed();
        Self {
            file_bytes: file.len(),
            base: packed.base.map(|base| base.hex()),
            blobs: packed.blobs.len(),
            bytes: packed.blobs.iter().map(|blob| blob.size).sum(),
            packed_bytes: packed.blobs.iter().map(PackedBlob::packed).sum(),
        }
    }
}

fn inspect(
    cartridge: &Subject<'_>,
    memory: Option<&UnifiedMemory>,
    session: Option<SavedSessionReport>,
) -> Inspection {
    let manifest = cartridge.manifest();
    let commit = cartridge.commit();
    let spec = manifest.model.architecture.as_ref();
    let spec = spec.and_then(|value| cart_format::ArchSpec::from_value(value).ok());
    let mut dtypes: std::collections::BTreeMap<_, (usize, u64)> = std::collections::BTreeMap::new();
    let mut parameters = 0;
    for tensor in manifest.model.tensors.values() {
        let row = dtypes.entry(tensor.dtype).or_default();
        row.0 += 1;
        row.1 += manifest.blobs[&tensor.blob].size;
        parameters += tensor.shape.iter().product::<u64>();
    }
    let row = |(dtype, (tensors, bytes)): (cart_format::DType, (usize, u64))| DtypeRow {
        dtype: dtype.to_string(),
        tensors,
        bytes,
    };
    Inspection {
        manifest: cartridge.manifest_id().hex(),
        commit: commit.map(|(id, _)| id.hex()),
        time: commit.map(|(_, commit)| commit.time),
        message: commit.map(|(_, commit)| commit.message.clone()).filter(|text| !text.is_empty()),
        recipe: commit.map(|(_, commit)| commit.recipe.kind.clone()),
        probes: commit.map_or(0, |(_, commit)| commit.probes.len()),
        format: manifest.cart.to_string(),
        family: spec.as_ref().map(|spec| spec.family.clone()),
        layers: spec.as_ref().map(|spec| spec.layers.len()),
        hidden_size: spec.as_ref().map(|spec| spec.hidden_size),
        context_length: spec.as_ref().map(|spec| spec.context_length),
        vocab_size: spec.as_ref().map(|spec| spec.vocab_size),
        parameters,
        tensors: manifest.model.tensors.len(),
        dtypes: dtypes.into_iter().map(row).collect(),
        blobs: manifest.blobs.len(),
        bytes: manifest.total_bytes(),
        tokenizer: manifest.tokenizer.is_some(),
        chat_template: manifest.tokenizer.as_ref().is_some_and(|t| t.chat_template.is_some()),
        origin: manifest.origin.as_ref().map(|origin| {
            let files: Vec<&str> = origin.files.iter().map(|file| file.path.as_str()).collect();
            serde_json::json!({ "kind": origin.kind, "files": files })
        }),
        metadata: serde_json::json!(manifest.metadata),
        memory: memory.map(UnifiedMemory::report),
        session,
        packed: None,
        tensor_list: None,
        slots: None,
    }
}

fn tensor_rows(manifest: &Manifest) -> Vec<TensorRow> {
    let row = |(name, tensor): (&cart_format::TensorName, &cart_format::TensorEntry)| TensorRow {
        name: name.to_string(),
        dtype: tensor.dtype.to_string(),
        shape: tensor.shape.clone(),
        bytes: manifest.blobs[&tensor.blob].size,
        blob: tensor.blob.hex(),
    };
    manifest.model.tensors.iter().map(row).collect()
}

fn slot_rows(memory: &UnifiedMemory) -> Vec<SlotRow> {
    let row = |(slot_ref, slot): (cart_memory::SlotRef, &cart_memory::Slot)| SlotRow {
        store: match slot_ref.store {
            StoreKind::Stm => "stm",
            StoreKind::Ltm => "ltm",
        },
        slot: slot.id.number(),
        energy: slot.energy,
        gate: slot.gate,
        gated_energy: slot.gated_energy(),
        count: slot.count,
        made: slot.made,
        refreshed: slot.refreshed,
        read: slot.read,
        tokens: slot.value.token_ids.len(),
        source: slot.source.clone(),
        text: slot.value.text.clone(),
    };
    memory.slots().map(row).collect()
}

/// The slots of a memory as a table.
pub(crate) fn memory_table(memory: &UnifiedMemory) -> String {
    let mut table =
        Table::new(&["STORE", ">SLOT", ">ENERGY", ">GATED", ">COUNT", ">MADE", ">READ", "TEXT"]);
    for row in slot_rows(memory) {
        table.row([
            row.store.to_owned(),
            row.slot.to_string(),
            format!("{:.3}", row.energy),
            format!("{:.3}", row.gated_energy),
            row.count.to_string(),
            row.made.to_string(),
            row.read.to_string(),
            row.text.trim().replace('\n', "⏎"),
        ]);
    }
    table.render()
}

fn render(body: &Inspection) -> String {
    let mut lines = vec![format!("cartridge  sha256:{}", body.manifest)];
    if let (Some(commit), Some(time), Some(recipe)) = (&body.commit, body.time, &body.recipe) {
        lines.push(format!("commit     {}  {}  {recipe}", &commit[..12], timestamp(time)));
    }
    lines.extend(body.message.iter().map(|message| format!("           {message}")));
    let model = match (&body.family, body.layers, body.hidden_size, body.vocab_size) {
        (Some(family), Some(layers), Some(hidden), Some(vocab)) => {
            format!("{family}, {layers} layers, hidden {hidden}, vocabulary {vocab}")
        }
        _ => "architecture not known: can be stored and exported, not run".to_owned(),
    };
    lines.push(format!("model      {model}"));
    lines.push(format!(
        "weights    {} parameters in {}, {}",
        crate::bytes::grouped(body.parameters),
        counted(body.tensors as u64, "tensor"),
        human(body.bytes)
    ));
    for row in &body.dtypes {
        let count = counted(row.tensors as u64, "tensor");
        lines.push(format!("           {:8} {count}, {}", row.dtype, human(row.bytes)));
    }
    let tokenizer = match (body.tokenizer, body.chat_template) {
        (true, true) => "yes, with a chat template",
        (true, false) => "yes, without a chat template",
        _ => "none",
    };
    lines.push(format!("tokenizer  {tokenizer}"));
    lines.push(match &body.memory {
        Some(memory) => format!(
            "memory     {} of {} short-term and {} of {} long-term slots, dimension {}, tick {}",
            memory.stm.slots,
            memory.stm.capacity,
            memory.ltm.slots,
            memory.ltm.capacity,
            memory.dim,
            memory.now
        ),
        None if body.packed.is_some() => {
            "memory     not looked at in a packed file without --memory".to_owned()
        }
        None => "memory     none".to_owned(),
    });
    lines.push(format!("session    {}", session_line(body.session.as_ref())));
    lines.push(format!("probes     {}", body.probes));
    if let Some(packed) = &body.packed {
        let blobs = counted(packed.blobs as u64, "blob");
        let (from, to) = (human(packed.bytes), human(packed.packed_bytes));
        lines.push(format!(
            "packed     {blobs}, {from} in {to}; the file has {}",
            human(packed.file_bytes)
        ));
        lines.extend(packed.base.iter().map(|base| format!("base       sha256:{base}")));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// A saved session in a line.
pub(crate) fn session_line(session: Option<&SavedSessionReport>) -> String {
    let Some(session) = session else { return "none".to_owned() };
    let positions = counted(session.positions, "position");
    let made = if session.fits { "" } else { ", made by another model" };
    format!("{positions} in {}, {}{made}", session.kv, human(session.bytes))
}

fn render_tensors(rows: &[TensorRow]) -> String {
    let mut table = Table::new(&["TENSOR", "DTYPE", "SHAPE", ">BYTES", "BLOB"]);
    for row in rows {
        let shape: Vec<String> = row.shape.iter().map(u64::to_string).collect();
        table.row([
            row.name.clone(),
            row.dtype.clone(),
            shape.join("×"),
            row.bytes.to_string(),
            row.blob[..12].to_owned(),
        ]);
    }
    table.render()
}
