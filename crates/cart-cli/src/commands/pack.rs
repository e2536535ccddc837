//! `cart pack`.

use std::path::PathBuf;
use std::time::Instant;

use cart_format::{CommitId, Manifest, ManifestId, Recipe};
use cart_store::import::{self, ImportOptions};
use cart_store::{PackedFile, RefName, Store};
use clap::{Args, ValueHint};
use serde::Serialize;

use crate::bytes::{counted, human, seconds};
use crate::context::Context;
use crate::failure::Failure;
use crate::history::{self, NewCommit};
use crate::packed;
use crate::progress::Bar;
use crate::report;

/// Put a model into the store as a cartridge.
///
/// MODEL is a Hugging Face folder, a .safetensors, a .gguf or a .cart file, packed ones included; a delta finds its base in the store.
/// Every tensor becomes a
/// blob under its SHA-256; what the store has already is not written again. The same model gives
/// the same id on every machine. Without -t the cartridge has no name and `cart gc` will collect
/// it.
#[derive(Args)]
#[command(after_help = "Examples:
  cart pack ./SmolLM2-135M-Instruct.gguf -t smol
  cart pack ./my-model/ -t mine:v2 -m 'after the second fine-tune'
  cart pack ./my-model/ -o mine.cart
  cart pack mine.cart -t mine:copy")]
pub(crate) struct PackArgs {
    /// A model folder or file
    #[arg(value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    model: PathBuf,
    /// A tokenizer.json, for files that have none or one that cannot be read
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    tokenizer: Option<PathBuf>,
    /// Why, in words
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
    /// The cartridge's name
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: Option<RefName>,
    /// Also write a .cart file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Overwrite the .cart file
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct PackReport {
    manifest: String,
    commit: String,
    #[serde(skip)]
    id: CommitId,
    name: Option<String>,
    tensors: u64,
    blobs: u64,
    bytes: u64,
    new_blobs: u64,
    new_bytes: u64,
    runnable: bool,
    seconds: f64,
    warnings: Vec<String>,
    output: Option<String>,
    output_bytes: Option<u64>,
}

pub(crate) fn run(context: &Context, args: &PackArgs) -> Result<(), Failure> {
    let start = Instant::now();
    if let Some(output) = &args.output {
        history::refuse_existing(output, args.force)?;
    }
    let store = context.store_or_new()?;
    let held = store.hold().map_err(Failure::refused)?;
    let bar = Bar::new(context, "packing");
    let mut report = if let Some(file) = packed_file(args)? {
        unpack(context, args, &store, &file)?
    } else if history::is_cart_file(&args.model) {
        pack_cart_file(args, &store, &bar)?
    } else {
        pack_model(args, &store, &bar)?
    };
    drop(bar);
    drop(held);
    if let Some(output) = &args.output {
        let bytes = history::write_cart_file(context, &store, report.id, output)?;
        report.output = Some(output.display().to_string());
        report.output_bytes = Some(bytes);
    }
    report.seconds = start.elapsed().as_secs_f64();
    if context.json {
        return report::print("pack", &report);
    }
    for warning in &report.warnings {
        context.remark(&format!("note: {warning}"));
    }
    if args.tag.is_none() && args.output.is_none() {
        context.remark(&format!(
            "note: without a name `cart gc` collects it; `cart tag {} NAME` gives it one",
            &report.manifest[..12]
        ));
    }
    render(&report)
}

fn pack_model(args: &PackArgs, store: &Store, bar: &Bar) -> Result<PackReport, Failure> {
    let options = ImportOptions { tokenizer: args.tokenizer.clone(), ..ImportOptions::default() };
    let imported = import::import(store, &args.model, &options, bar).map_err(Failure::refused)?;
    let commit = begin_history(args, store, imported.manifest_id)?;
    let new = (imported.new_blobs, imported.new_bytes);
    let mut report = PackReport::new(args, commit, imported.manifest_id, &imported.manifest, new);
    report.warnings = imported.warnings;
    Ok(report)
}

fn pack_cart_file(args: &PackArgs, store: &Store, bar: &Bar) -> Result<PackReport, Failure> {
    if args.tokenizer.is_some() {
        return Err(Failure::arguments("--tokenizer goes with a model, not with a .cart file"));
    }
    let imported = store.import_cart(&args.model, bar).map_err(Failure::refused)?;
    let commit = match imported.commit {
        Some(commit) => {
            history::name_commit(store, commit, args.tag.as_ref(), &args.message)?;
            commit
        }
        // A file without a commit is content alone.
        None => begin_history(args, store, imported.manifest)?,
    };
    let manifest = store.manifest(&imported.manifest).map_err(Failure::refused)?;
    let new = (imported.new_blobs, imported.new_bytes);
    Ok(PackReport::new(args, commit, imported.manifest, &manifest, new))
}

/// The packed file that is to be taken in, if it is one.
fn packed_file(args: &PackArgs) -> Result<Option<PackedFile>, Failure> {
    let file = if args.model.is_file() { packed::open(&args.model)? } else { None };
    if file.is_some() && args.tokenizer.is_some() {
        return Err(Failure::arguments("--tokenizer goes with a model, not with a .cart file"));
    }
    Ok(file)
}

/// Takes a packed file in, with its base from the store if it needs one.
fn unpack(
    context: &Context,
    args: &PackArgs,
    store: &Store,
    file: &PackedFile,
) -> Result<PackReport, Failure> {
    let unpacked = packed::unpack(context, store, file)?;
    let commit = match unpacked.commit {
        Some(commit) => {
            history::name_commit(store, commit, args.tag.as_ref(), &args.message)?;
            commit
        }
        None => begin_history(args, store, unpacked.manifest)?,
    };
    let new = (unpacked.new_blobs, unpacked.new_bytes);
    Ok(PackReport::new(args, commit, unpacked.manifest, &file.packed().manifest, new))
}

/// The commit of an import, on top of what the name pointed to.
fn begin_history(
    args: &PackArgs,
    store: &Store,
    manifest: ManifestId,
) -> Result<CommitId, Failure> {
    let new = NewCommit {
        manifest,
        parents: Vec::new(),
        recipe: Recipe::new("import").with("tool", history::tool()),
        message: args.message.clone(),
        probes: Vec::new(),
    };
    history::commit(store, new, args.tag.as_ref())
}

impl PackReport {
    /// * `new`: blobs that the store did not have, and their bytes
    fn new(
        args: &PackArgs,
        commit: CommitId,
        id: ManifestId,
        manifest: &Manifest,
        new: (u64, u64),
    ) -> Self {
        Self {
            manifest: id.hex(),
            commit: commit.hex(),
            id: commit,
            name: args.tag.as_ref().map(ToString::to_string),
            tensors: manifest.model.tensors.len() as u64,
            blobs: manifest.blobs.len() as u64,
            bytes: manifest.total_bytes(),
            new_blobs: new.0,
            new_bytes: new.1,
            runnable: manifest.model.architecture.is_some() && manifest.tokenizer.is_some(),
            seconds: 0.0,
            warnings: Vec::new(),
            output: None,
            output_bytes: None,
        }
    }
}

fn render(report: &PackReport) -> Result<(), Failure> {
    let name = report.name.as_deref().unwrap_or("(no name)");
    report::line(&format!("packed {name}  sha256:{}", report.manifest))?;
    report::line(&format!(
        "  {} in {}, {}; new: {}, {}; {}",
        counted(report.tensors, "tensor"),
        counted(report.blobs, "blob"),
        human(report.bytes),
        counted(report.new_blobs, "blob"),
        human(report.new_bytes),
        seconds(report.seconds),
    ))?;
    if let (Some(output), Some(bytes)) = (&report.output, report.output_bytes) {
        report::line(&format!("  wrote {output}, {}", human(bytes)))?;
    }
    Ok(())
}
