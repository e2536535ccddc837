//! `cart verify`.

use std::path::Path;

use cart_store::{
    Damage, FiniteScan, PackedAudit, PackedFile, VerifyError, VerifyOptions, VerifyReport,
};
use clap::Args;
use serde::Serialize;

use crate::bytes::{counted, human, seconds};
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::packed;
use crate::progress::Bar;
use crate::report;

/// Recompute every digest of a cartridge.
///
/// Reads all bytes of every blob and compares them with the manifest; modification times and caches
/// are never evidence. Damage is named by tensor and 16 MiB segment; weights that are infinite or
/// no numbers are named too, but are no damage. Of a packed file every chunk is compared with its digest,
/// and every blob with its id, unless it is a delta whose base is not in the store. Every REF is looked at, also after one that can't
/// be opened. Exit code 1 unless all are intact.
#[derive(Args)]
#[command(after_help = "Examples:
  cart verify smol
  cart verify smol:v1 backup.cart
  cart --json verify smol@sha256:3f5a…")]
pub(crate) struct VerifyArgs {
    /// Cartridges: names, ids or .cart files
    #[arg(value_name = "REF", required = true)]
    refs: Vec<String>,
    /// Also recompute the whole digest of blobs over 16 MiB, which are otherwise checked by segment
    #[arg(long)]
    whole: bool,
}

#[derive(Serialize)]
struct Verification {
    cartridges: Vec<Outcome>,
    intact: bool,
}

#[derive(Serialize)]
struct Outcome {
    #[serde(rename = "ref")]
    reference: String,
    /// None where it could not be opened.
    manifest: Option<String>,
    intact: bool,
    blobs: u64,
    bytes: u64,
    seconds: f64,
    bytes_per_second: f64,
    damage: Vec<Damage>,
    /// Whether the weights are numbers.
    finite: FiniteScan,
    /// Of a packed file: what was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    packed: Option<PackedOutcome>,
    /// Why it could not be opened or read to its end.
    error: Option<String>,
}

#[derive(Serialize)]
struct PackedOutcome {
    /// The base that it needs.
    base: Option<String>,
    #[serde(flatten)]
    audit: PackedAudit,
}

pub(crate) fn run(context: &Context, args: &VerifyArgs) -> Result<(), Failure> {
    let options = VerifyOptions { threads: context.threads, whole: args.whole };
    let mut cartridges = Vec::new();
    for reference in &args.refs {
        let outcome = match verify_one(context, reference, &options) {
            Err(failure @ Failure::Refused { .. }) => Outcome::unread(reference, failure.say()),
            verified => verified?,
        };
        if !context.json {
            render(&outcome)?;
        }
        cartridges.push(outcome);
    }
    let intact = cartridges.iter().all(|outcome| outcome.intact);
    if context.json {
        report::print("verify", &Verification { cartridges, intact })?;
    }
    if intact { Ok(()) } else { Err(Failure::Found) }
}

fn verify_one(
    context: &Context,
    reference: &str,
    options: &VerifyOptions,
) -> Result<Outcome, Failure> {
    if let Some(file) = packed::open(Path::new(reference))? {
        return verify_packed(context, reference, &file);
    }
    let cartridge = history::open(context, reference)?;
    let manifest = cartridge.manifest_id().hex();
    let bar = Bar::new(context, "verifying");
    let verified = cartridge.verify(options, &bar);
    drop(bar);
    match verified {
        Ok(verified) => Ok(Outcome::of(reference, manifest, verified.report(), Vec::new())),
        Err(VerifyError::Damaged { damage, report, .. }) => {
            Ok(Outcome::of(reference, manifest, &report, damage))
        }
        Err(error) => Err(Failure::refused(error)),
    }
}

/// Every chunk of a packed file; and every blob, if the base that it needs is in the store.
fn verify_packed(
    context: &Context,
    reference: &str,
    file: &PackedFile,
) -> Result<Outcome, Failure> {
    let store = context.store().ok();
    let base = store.and_then(|store| packed::base(&store, file).ok().flatten());
    let base = base.map(|base| history::verify(context, base)).transpose()?;
    let bar = Bar::new(context, "verifying");
    let (damage, audit) = file.audit(base.as_ref(), &bar).map_err(Failure::refused)?;
    drop(bar);
    let report = VerifyReport {
        blobs: file.packed().blobs.len() as u64,
        bytes: audit.packed_bytes,
        seconds: audit.seconds,
        ..VerifyReport::default()
    };
    let manifest = file.packed().manifest_id.hex();
    let base = file.packed().base.map(|base| base.hex());
    let outcome = Outcome::of(reference, manifest, &report, damage);
    Ok(Outcome { packed: Some(PackedOutcome { base, audit }), ..outcome })
}

impl Outcome {
    fn of(reference: &str, manifest: String, report: &VerifyReport, damage: Vec<Damage>) -> Self {
        Self {
            reference: reference.to_owned(),
            manifest: Some(manifest),
            intact: damage.is_empty(),
            blobs: report.blobs,
            bytes: report.bytes,
            seconds: report.seconds,
            bytes_per_second: report.bytes as f64 / report.seconds.max(1e-9),
            damage,
            finite: report.finite.clone(),
            packed: None,
            error: None,
        }
    }

    fn unread(reference: &str, error: String) -> Self {
        Self {
            reference: reference.to_owned(),
            manifest: None,
            intact: false,
            blobs: 0,
            bytes: 0,
            seconds: 0.0,
            bytes_per_second: 0.0,
            damage: Vec::new(),
            finite: FiniteScan::default(),
            packed: None,
            error: Some(error),
        }
    }
}

fn render(outcome: &Outcome) -> Result<(), Failure> {
    let Some(id) = &outcome.manifest else {
        return report::line(&format!("UNREADABLE {}", outcome.reference));
    };
    if outcome.intact {
        report::line(&format!(
            "intact {}  sha256:{id}\n  {}, {} in {} ({}/s)",
            outcome.reference,
            counted(outcome.blobs, "blob"),
            human(outcome.bytes),
            seconds(outcome.seconds),
            human(outcome.bytes_per_second as u64),
        ))?;
        if let Some(PackedOutcome { base, audit }) = &outcome.packed {
            report::line(&match base {
                Some(base) if audit.unpacked_blobs == 0 && outcome.blobs > 0 => format!(
                    "  packed; its base {base} is not in the store, so that blobs could not be unpacked and compared"
                ),
                _ => format!(
                    "  packed; all of it unpacks to what it should, {}",
                    human(audit.unpacked_bytes)
                ),
            })?;
        }
        return match &outcome.finite.first {
            Some(first) => report::line(&format!("  it can't run: {first}")),
            None => Ok(()),
        };
    }
    report::line(&format!(
        "DAMAGED {}  sha256:{id}\n  {} of {} blobs",
        outcome.reference,
        outcome.damage.len(),
        outcome.blobs
    ))?;
    for damage in &outcome.damage {
        report::line(&format!("  {damage}"))?;
    }
    Ok(())
}
