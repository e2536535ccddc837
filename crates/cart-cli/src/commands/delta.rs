//! `cart delta`.

mod low_rank;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use cart_store::PackReport;
use clap::{Args, ValueHint};
use serde::Serialize;

use crate::bytes::{counted, human, seconds};
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::progress::Bar;
use crate::report;

/// Write what turns one cartridge into another.
///
/// The file holds what A lacks of B, exactly: blobs that both have are only named; the others are packed against their counterpart in
/// A, floats as steps from the float that is there. Tokenizer, memory, session, metadata and commit go along. `cart apply A D.cart`
/// gives B's id back; so does `cart pack D.cart` where A is in the store. A whole cartridge is packed the same way by
/// `cart export REF --compress`.
///
/// With --rank the file holds, for each matrix, the two factors of at most that rank that are nearest to its change, and other tensors
/// that changed as they are; how much of the change that leaves out is said. --adapter takes a PEFT adapter (LoRA) instead of B.
#[derive(Args)]
#[command(after_help = "Examples:
  cart delta smol mine -o mine.delta.cart
  cart apply smol mine.delta.cart -t mine
  cart inspect mine.delta.cart
  cart delta smol mine --rank 16 -o mine.lora.cart
  cart delta smol --adapter my-lora/ -o mine.lora.cart")]
pub(crate) struct DeltaArgs {
    /// What the receiver has
    #[arg(value_name = "A")]
    base: String,
    /// What the receiver will have
    #[arg(value_name = "B", required_unless_present = "adapter")]
    target: Option<String>,
    /// Approximate the change of each matrix by factors of this rank
    #[arg(long, value_name = "R", requires = "target", value_parser = clap::value_parser!(u64).range(1..=4096))]
    rank: Option<u64>,
    /// A folder with adapter_config.json and adapter_model.safetensors
    #[arg(long, value_name = "FOLDER", conflicts_with = "target", value_hint = ValueHint::DirPath)]
    adapter: Option<PathBuf>,
    /// The file to write
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: PathBuf,
    /// Overwrite what is there
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct DeltaReport {
    base: String,
    manifest: String,
    commit: Option<String>,
    output: String,
    #[serde(flatten)]
    packed: Packing,
    seconds: f64,
}

/// What packing did, as reports have it.
#[derive(Serialize)]
pub(crate) struct Packing {
    blobs: u64,
    bytes: u64,
    shared_blobs: u64,
    shared_bytes: u64,
    changed_blobs: u64,
    new_blobs: u64,
    packed_from: u64,
    packed_bytes: u64,
    chunks: BTreeMap<&'static str, u64>,
    file_bytes: u64,
    /// The file by the cartridge's bytes.
    share: f64,
}

impl From<PackReport> for Packing {
    fn from(report: PackReport) -> Self {
        Self {
            blobs: report.blobs,
            bytes: report.bytes,
            shared_blobs: report.shared_blobs,
            shared_bytes: report.shared_bytes,
            changed_blobs: report.changed_blobs,
            new_blobs: report.new_blobs,
            packed_from: report.packed_from,
            packed_bytes: report.packed_bytes,
            chunks: report.chunks,
            file_bytes: report.file_bytes,
            share: report.file_bytes as f64 / report.bytes.max(1) as f64,
        }
    }
}

pub(crate) fn run(context: &Context, args: &DeltaArgs) -> Result<(), Failure> {
    let began = Instant::now();
    history::refuse_existing(&args.output, args.force)?;
    let target = match (&args.target, args.rank, &args.adapter) {
        (Some(target), Some(rank), _) => {
            return low_rank::of_difference(context, args, (target, rank));
        }
        (_, _, Some(folder)) => return low_rank::of_adapter(context, args, folder),
        (Some(target), None, None) => target,
        (None, _, None) => return Err(Failure::arguments("B or --adapter is needed")),
    };
    let base = history::verified(context, &args.base)?;
    let target = history::verified(context, target)?;
    let bar = Bar::new(context, "packing");
    let packed = target.write_packed(Some(&base), &args.output, &bar).map_err(Failure::refused)?;
    drop(bar);
    let body = DeltaReport {
        base: base.manifest_id().hex(),
        manifest: target.manifest_id().hex(),
        commit: target.cartridge().commit().map(|(id, _)| id.hex()),
        output: args.output.display().to_string(),
        packed: packed.into(),
        seconds: began.elapsed().as_secs_f64(),
    };
    if context.json {
        return report::print("delta", &body);
    }
    let packed = &body.packed;
    report::line(&format!(
        "wrote {}  {}, {:.3} % of the cartridge; {}",
        body.output,
        human(packed.file_bytes),
        packed.share * 100.0,
        seconds(body.seconds),
    ))?;
    report::line(&format!(
        "  {} shared, {} changed, {} new; {} packed to {}",
        counted(packed.shared_blobs, "blob"),
        packed.changed_blobs,
        packed.new_blobs,
        human(packed.packed_from),
        human(packed.packed_bytes),
    ))
}
