//! `cart memory dream`.

use cart_format::Recipe;
use cart_memory::{DreamCheck, DreamOptions, DreamReport, Merged};
use cart_store::RefName;
use clap::{ArgGroup, Args};
use serde::Serialize;

use super::remembered::one_line;
use crate::bytes::counted;
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;
use crate::saved::{self, Kept, Saved};
use crate::table::Table;

/// Tidy up long-term memory, and take it back if anything got worse.
///
/// Entries that say the same become one, keys move a little towards what is like them, and links are rehearsed and found.
/// Then every old key asks again, as it is and with noise: the dream stands only if no fewer answers are right and keys are
/// reconstructed no worse than the tolerance allows. One that does not stand saves nothing and ends with exit code 1. The
/// same seed gives the same dream. No model is loaded.
#[derive(Args)]
#[command(group = ArgGroup::new("end").args(["save", "dry_run"]).required(true))]
#[command(after_help = "Examples:
  cart memory dream smol:told --dry-run
  cart memory dream smol:told --save smol:rested
  cart --json memory dream smol:told --save smol:rested --overlap 0.8 --seed 3")]
pub(crate) struct DreamArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// The name of the new commit; that of REF moves REF on
    #[arg(long, value_name = "NAME[:TAG]")]
    save: Option<RefName>,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    /// Which dream
    #[arg(long, value_name = "N", default_value_t = DreamOptions::default().seed)]
    #[arg(value_parser = clap::value_parser!(u64).range(..1 << 53))]
    seed: u64,
    /// Cosine from which two entries that say the same become one, -1 to 1
    #[arg(long, value_name = "C", default_value_t = DreamOptions::default().redundancy)]
    #[arg(allow_negative_numbers = true)]
    redundancy: f32,
    /// Share of common words from which two entries say the same, 0 to 1; at 1 all, in the same order
    #[arg(long, value_name = "S", default_value_t = DreamOptions::default().overlap)]
    overlap: f32,
    /// Share of a key that what it attends to replaces, 0 to 1
    #[arg(long, value_name = "S", default_value_t = DreamOptions::default().refine)]
    refine: f32,
    /// Temperature of the attention between entries, 0.001 to 1000
    #[arg(long, value_name = "T", default_value_t = DreamOptions::default().temperature)]
    temperature: f32,
    /// Attention from which two entries are linked, 0 to 1
    #[arg(long, value_name = "S", default_value_t = DreamOptions::default().link)]
    link: f32,
    /// Paths of links that are rehearsed
    #[arg(long, value_name = "N", default_value_t = DreamOptions::default().rehearsals)]
    rehearsals: u32,
    /// By how much the mean reconstruction error may rise, 0 to 2
    #[arg(long, value_name = "E", default_value_t = DreamOptions::default().tolerance)]
    tolerance: f32,
}

#[derive(Serialize)]
struct Report {
    manifest: String,
    /// The memory before.
    memory_id: String,
    options: DreamOptions,
    dream: DreamReport,
    /// The memory after, which is the one before where the dream was taken back.
    memory_id_after: String,
    /// None of a dry run and where the dream was taken back.
    saved: Option<Saved>,
}

pub(crate) fn run(context: &Context, args: &DreamArgs) -> Result<(), Failure> {
    let origin = history::verified_origin(context, &args.reference)?;
    let memory = history::memory_of(origin.verified.cartridge())?.ok_or_else(|| {
        let message =
            format!("{} remembers nothing, so there is nothing to dream of", args.reference);
        Failure::refused_with(
            message,
            "`cart run` with --memory and --save, and `cart memory import`, make a memory",
        )
    })?;
    let options = args.options();
    let dreaming = memory.dream(&options);
    let (dreamed, dream) = dreaming.map_err(|error| Failure::arguments(error.to_string()))?;
    let name = args.save.as_ref().filter(|_| dream.accepted);
    let kept = Kept { memory: Some(&dreamed), session: None };
    let saved = name.map(|name| saved::save(context, &origin, kept, name, recipe(&options)?));
    let body = Report {
        manifest: origin.manifest.hex(),
        memory_id: memory.snapshot().id().hex(),
        options,
        memory_id_after: dreamed.snapshot().id().hex(),
        dream,
        saved: saved.transpose()?,
    };
    if context.json {
        report::print("memory-dream", &body)?;
    } else {
        report::stdout(render(&body).as_bytes())?;
    }
    if body.dream.accepted { Ok(()) } else { Err(Failure::Found) }
}

/// All that is needed to dream it again.
fn recipe(options: &DreamOptions) -> Result<Recipe, Failure> {
    let options = serde_json::to_value(options).map_err(Failure::bug)?;
    Ok(Recipe::new("memory-dream").with("options", options))
}

impl DreamArgs {
    fn options(&self) -> DreamOptions {
        let Self { seed, redundancy, overlap, refine, temperature, link, .. } = *self;
        let Self { rehearsals, tolerance, .. } = *self;
        DreamOptions { seed, redundancy, overlap, refine, temperature, link, rehearsals, tolerance }
    }
}

fn render(body: &Report) -> String {
    let dream = &body.dream;
    if dream.slots_before == 0 {
        let end = body.saved.as_ref().map_or_else(String::new, |saved| saved.said() + "\n");
        return format!("long-term memory is empty, so nothing changed\n{end}");
    }
    let changed = format!(
        "long-term memory: {} before, {} after; {} moved, {} made and {} rehearsed\n\
         probes answered: {} before, {} after; reconstruction error {:.4} before, {:.4} after\n",
        counted(dream.slots_before as u64, "slot"),
        dream.slots_after,
        counted(dream.refined as u64, "key"),
        counted(dream.new_links as u64, "link"),
        counted(dream.rehearsed as u64, "link"),
        answered(&dream.before),
        answered(&dream.after),
        dream.before.reconstruction,
        dream.after.reconstruction,
    );
    let end = match (&body.saved, dream.accepted) {
        (Some(saved), _) => saved.said(),
        (None, true) => "it would stand; nothing was saved".to_owned(),
        (None, false) => format!("taken back: {}; nothing was saved", why(body)),
    };
    format!("{}{changed}{end}\n", table(&dream.merged))
}

/// What got worse.
fn why(body: &Report) -> String {
    let DreamReport { before, after, .. } = &body.dream;
    let mut reasons = Vec::new();
    if after.recall < before.recall {
        reasons.push("fewer probes are answered".to_owned());
    }
    let tolerance = body.options.tolerance;
    if after.reconstruction > before.reconstruction + f64::from(tolerance) {
        reasons.push(format!("keys are reconstructed worse by more than {tolerance}"));
    }
    reasons.join(", ")
}

fn answered(check: &DreamCheck) -> String {
    format!("{:.0} of {}", check.recall * check.probes as f64, check.probes)
}

fn table(merged: &[Merged]) -> String {
    if merged.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[">KEPT", ">GONE", ">COSINE", "WHAT THE ONE THAT WENT SAID"]);
    for Merged { kept, gone, cosine, text } in merged {
        table.row([
            kept.number().to_string(),
            gone.number().to_string(),
            format!("{cosine:.3}"),
            one_line(text),
        ]);
    }
    table.render()
}
