//! `cart memory migrate`.

use std::path::{Path, PathBuf};

use cart_engine::{
    MAP_THRESHOLD, MapReport, MigrateBy, MigrationOptions, MigrationReport, RecallReport, migrate,
};
use cart_format::Recipe;
use cart_store::RefName;
use clap::{ArgGroup, Args, ValueEnum, ValueHint};
use serde::Serialize;

use crate::bytes::counted;
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;
use crate::saved::{self, Kept, Saved};

/// Bring what a cartridge remembers to another model.
///
/// The result has the weights of MODEL and the memory of REF, of which every slot keeps its text, energy, gate, ticks, source,
/// validity and links. By text, MODEL reads what every slot says. By map, an affine map between the two models' vectors, fitted on
/// texts that both read, moves the vectors; it is refused with exit code 1 where recall@10 is under the threshold. Both models
/// are asked for the beginnings of what the memory says: recall@10 is how often what REF recalls first is among the ten best
/// of the result. MODEL's own memory is not part of the result.
#[derive(Args)]
#[command(group = ArgGroup::new("end").args(["save", "dry_run"]).required(true))]
#[command(after_help = "Examples:
  cart memory migrate smol:told --to gemma --save gemma:told
  cart memory migrate smol:told --to gemma --by map --dry-run
  cart --json memory migrate smol:told --to gemma --by map --anchors texts.txt --save gemma:told")]
pub(crate) struct MigrateArgs {
    /// The cartridge that remembers
    #[arg(value_name = "REF")]
    reference: String,
    /// The cartridge whose model it goes to
    #[arg(long, value_name = "MODEL")]
    to: String,
    /// The name of the new commit; that of MODEL moves MODEL on
    #[arg(long, value_name = "NAME[:TAG]")]
    save: Option<RefName>,
    /// Only say what would come of it
    #[arg(long)]
    dry_run: bool,
    /// How vectors get into the other space
    #[arg(long, value_name = "ROAD", default_value = "text")]
    by: By,
    /// Texts to fit a map on beside those of the memory, a line each; paragraphs of a licence if absent
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    anchors: Option<PathBuf>,
    /// Recall@10 under which a map is refused, 0 to 1 [default: 0.8]
    #[arg(long, value_name = "R")]
    threshold: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// MODEL reads the texts
    Text,
    /// An affine map moves the vectors
    Map,
}

#[derive(Serialize)]
struct Report {
    /// The cartridge that remembers.
    manifest: String,
    /// Its memory.
    memory_id: String,
    /// The cartridge that it goes to.
    to: String,
    migration: MigrationReport,
    /// The memory in its new space.
    memory_id_after: String,
    /// None of a dry run and where a map was refused.
    saved: Option<Saved>,
}

pub(crate) fn run(context: &Context, args: &MigrateArgs) -> Result<(), Failure> {
    let options = args.options()?;
    let (from, origin) = history::load(context, &args.reference)?;
    let memory = from.memory().ok_or_else(|| {
        let message =
            format!("{} remembers nothing, so there is nothing to migrate", args.reference);
        Failure::refused_with(
            message,
            "`cart run` with --memory and --save, and `cart memory import`, make a memory",
        )
    })?;
    let (to, target) = history::load(context, &args.to)?;
    let migrated = migrate(&from, &memory, &to, &options);
    let (moved, migration) = migrated.map_err(Failure::refused)?;
    let name = args.save.as_ref().filter(|_| migration.accepted);
    let kept = Kept { memory: Some(&moved), session: None };
    let recipe = || {
        Recipe::new("memory-migrate")
            .with("by", serde_json::to_value(migration.by).unwrap_or_default())
            .with("memory_of", origin.manifest.hex())
            .with("recall_at_10", migration.recall.at_10)
    };
    let saved = name.map(|name| saved::save(context, &target, kept, name, recipe())).transpose()?;
    let body = Report {
        manifest: origin.manifest.hex(),
        memory_id: memory.snapshot().id().hex(),
        to: target.manifest.hex(),
        memory_id_after: moved.snapshot().id().hex(),
        migration,
        saved,
    };
    if context.json {
        report::print("memory-migrate", &body)?;
    } else {
        report::stdout(render(&body).as_bytes())?;
        if to.memory().is_some() {
            context.remark(&format!("what {} remembers itself is not part of it", args.to));
        }
    }
    if body.migration.accepted { Ok(()) } else { Err(Failure::Found) }
}

impl MigrateArgs {
    fn options(&self) -> Result<MigrationOptions, Failure> {
        let by = match self.by {
            By::Text => MigrateBy::Text,
            By::Map => MigrateBy::Map,
        };
        if by == MigrateBy::Text && (self.anchors.is_some() || self.threshold.is_some()) {
            let message = "--anchors and --threshold are of a map; give --by map with them";
            return Err(Failure::arguments(message));
        }
        let threshold = self.threshold.unwrap_or(MAP_THRESHOLD);
        if !(0.0..=1.0).contains(&threshold) {
            return Err(Failure::arguments(format!("--threshold is {threshold}; allowed: 0 to 1")));
        }
        let anchors = self.anchors.as_deref().map(lines).transpose()?;
        Ok(MigrationOptions { by, anchors, threshold })
    }
}

/// The lines of a file that say something.
fn lines(path: &Path) -> Result<Vec<String>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|source| {
        let message = format!("{} can't be read: {source}", path.display());
        Failure::refused_with(message, "anchors are a text file in UTF-8, a text a line")
    })?;
    let lines: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if lines.is_empty() {
        let message = format!("{} has no texts", path.display());
        return Err(Failure::refused_with(
            message,
            "anchors are a text file in UTF-8, a text a line",
        ));
    }
    Ok(lines)
}

fn render(body: &Report) -> String {
    let migration = &body.migration;
    let mut lines = vec![format!(
        "{} of {} values, now {}; {} tokens, now {}",
        counted(migration.slots as u64, "slot"),
        migration.from_dim,
        migration.to_dim,
        migration.tokens_before,
        migration.tokens_after,
    )];
    if migration.goal_norm > 0.0 {
        lines.push(format!(
            "goal: a sum of keys with cosine {:.3} to it, as long as it was, {:.3}",
            migration.goal_explained, migration.goal_norm,
        ));
    }
    lines.extend(migration.map.as_ref().map(fitted));
    lines.push(said("recall", &migration.recall));
    lines.extend(migration.map.as_ref().map(|map| said("the same by text", &map.by_text)));
    lines.push(end(body));
    lines.join("\n") + "\n"
}

fn fitted(map: &MapReport) -> String {
    format!(
        "map: fitted on {} of {}, those of the memory counted {:.1} times, λ {}; held-out R² {:.3} on {} of {}",
        counted(map.pairs as u64, "pair"),
        counted(map.texts as u64, "text"),
        map.own_weight,
        map.lambda,
        map.r2,
        counted(map.held_out_pairs as u64, "pair"),
        counted(map.held_out_texts as u64, "text"),
    )
}

fn end(body: &Report) -> String {
    let migration = &body.migration;
    match (&body.saved, migration.map.as_ref().filter(|_| !migration.accepted)) {
        (Some(saved), _) => saved.said(),
        (None, Some(map)) => format!(
            "refused: recall@10 is {:.3}, under the threshold of {}; nothing was saved. Migrate by text, or give more --anchors",
            migration.recall.at_10, map.threshold,
        ),
        (None, None) => "it would stand; nothing was saved".to_owned(),
    }
}

fn said(what: &str, recall: &RecallReport) -> String {
    format!(
        "{what}: @10 {:.3}, @1 {:.3} of {} among {}; the text asked for is among the ten for {:.3} before and {:.3} after",
        recall.at_10,
        recall.at_1,
        counted(recall.queries as u64, "query").replace("querys", "queries"),
        counted(recall.texts as u64, "text"),
        recall.own_before,
        recall.own_after,
    )
}
