//! `cart memory plot`.

mod charts;
mod figure;
mod life;
mod terminal;

use std::path::{Path, PathBuf};

use cart_memory::{StoreKind, UnifiedMemory};
use clap::{Args, ValueHint};
use serde::Serialize;

use super::graph::{self, LinkRow, NodeRow};
use super::remembered::{Remembered, say_nothing};
use crate::bytes::human;
use crate::context::Context;
use crate::drawing::{self, Format};
use crate::failure::Failure;
use crate::history;
use crate::report;
use figure::{Figure, Sheet};
use life::Life;

/// Draw what a cartridge remembers, as SVG and PNG.
///
/// Of the memory: cosines (how alike the slots are) and graph (which leads to which). Of its log, which `cart run` and
/// `cart chat` write with --memory-log: slots (what each was worth over time), survival (how long slots live), energy (of
/// what was written) and goal (its length, and how far it turned). A folder gets each drawing as a file in both forms; a file,
/// .svg or .png, gets all on one sheet; `-` writes them as text, as wide as the terminal (or COLUMNS). What there is nothing
/// to draw of is left out, and named. No model is loaded.
#[derive(Args)]
#[command(after_help = "Examples:
  cart memory plot smol:told -o plots
  cart memory plot smol:told --log told.log -o plots --force
  cart memory plot smol:told --log told.log -o -
  cart --json memory plot smol:told --log told.log -o told.svg")]
pub(crate) struct PlotArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// A folder, a file that ends in .svg or .png, or - for text in the terminal
    #[arg(short, long, value_name = "DIR|FILE|-", value_hint = ValueHint::AnyPath)]
    output: PathBuf,
    /// The log of how the memory came to be
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    log: Option<PathBuf>,
    /// The cartridge with the memory that the log goes on from, where it does not begin with an empty one
    #[arg(long, value_name = "REF", requires = "log")]
    base: Option<String>,
    /// Overwrite files
    #[arg(short, long)]
    force: bool,
}

#[derive(Serialize)]
struct PlotReport {
    manifest: String,
    memory_id: Option<String>,
    /// Records of the log; none without one.
    records: Option<usize>,
    drawn: Vec<Drawn>,
    left_out: Vec<LeftOut>,
}

/// A file.
#[derive(Serialize)]
struct Drawn {
    figures: Vec<&'static str>,
    path: String,
    bytes: u64,
}

/// A figure that was not drawn.
#[derive(Serialize)]
struct LeftOut {
    figure: &'static str,
    why: &'static str,
}

/// What figures are made of.
struct Material {
    life: Option<Life>,
    /// Of each pair of slots: short-term, long-term.
    cosines: [Vec<f32>; 2],
    nodes: Vec<NodeRow>,
    /// Strongest first.
    links: Vec<LinkRow>,
}

impl Material {
    fn of(memory: &UnifiedMemory, life: Option<Life>) -> Self {
        let (nodes, links) = graph::parts(memory);
        let cosines = [StoreKind::Stm, StoreKind::Ltm].map(|store| memory.cosines(store));
        Self { life, cosines, nodes, links }
    }

    /// Why there is nothing to draw, where that is so.
    fn lacks(&self, figure: Figure) -> Option<&'static str> {
        let of_life = |empty: fn(&Life) -> bool, why| match &self.life {
            None => Some("no log was given"),
            Some(life) => empty(life).then_some(why),
        };
        match figure {
            Figure::Slots => of_life(|life| life.rows.is_empty(), "no slot was written"),
            Figure::Survival => of_life(Life::all_live, "no slot of the log is gone"),
            Figure::Energy => {
                of_life(|life| life.statistics.energy_curve.is_empty(), "nothing was observed")
            }
            Figure::Goal => of_life(|life| life.statistics.goal.is_empty(), "the goal never moved"),
            Figure::Cosines => {
                self.cosines.iter().all(Vec::is_empty).then_some("no store has two slots")
            }
            Figure::Graph => self.links.is_empty().then_some("the memory has no links"),
        }
    }
}

pub(crate) fn run(context: &Context, args: &PlotArgs) -> Result<(), Failure> {
    let as_text = args.output == Path::new("-");
    if as_text && context.json {
        return Err(Failure::arguments("-o - and --json are two forms of one output; give one"));
    }
    let format = Format::of(&args.output)?;
    let found = Remembered::open(context, &args.reference)?;
    let (memory_id, manifest) = (found.id(), found.manifest.hex());
    let Some(memory) = found.memory else {
        let (drawn, left_out) = (Vec::new(), Vec::new());
        let body = PlotReport { manifest, memory_id, records: None, drawn, left_out };
        return if context.json { report::print("memory-plot", &body) } else { say_nothing() };
    };
    let life = args.log.as_deref().map(|log| life(context, args, log, &memory)).transpose()?;
    let records = life.as_ref().map(|life| life.records);
    let material = Material::of(&memory, life);
    let lacks =
        |figure: Figure| material.lacks(figure).map(|why| LeftOut { figure: figure.name(), why });
    let left_out: Vec<LeftOut> = Figure::ALL.into_iter().filter_map(lacks).collect();
    let figures: Vec<Figure> =
        Figure::ALL.into_iter().filter(|&figure| material.lacks(figure).is_none()).collect();
    if figures.is_empty() {
        let message = format!("{} has nothing that could be drawn", args.reference);
        return Err(Failure::refused_with(message, "tell it more, or give --log"));
    }
    let drawn = if as_text {
        report::coloured(&terminal::text(&material, &figures, crate::panel::width()))?;
        Vec::new()
    } else {
        draw(args, format, &material, &figures)?
    };
    let body = PlotReport { manifest, memory_id, records, drawn, left_out };
    if context.json {
        return report::print("memory-plot", &body);
    }
    for file in &body.drawn {
        report::line(&format!("{}  {}", file.path, human(file.bytes)))?;
    }
    for LeftOut { figure, why } in &body.left_out {
        context.remark(&format!("{figure} left out: {why}"));
    }
    Ok(())
}

/// What the log says, if it leads to this memory.
fn life(
    context: &Context,
    args: &PlotArgs,
    path: &Path,
    memory: &UnifiedMemory,
) -> Result<Life, Failure> {
    let base = match &args.base {
        Some(reference) => history::memory_of(&history::open(context, reference)?)?,
        None => None,
    };
    let bytes = std::fs::read(path).map_err(|source| {
        Failure::refused_with(format!("{} can't be read: {source}", path.display()), "give a log")
    })?;
    let (life, end) = Life::of(&bytes, base.as_ref())
        .map_err(|error| super::replay::refused_log(path, &error))?;
    let (found, expected) = (end.snapshot().id().hex(), memory.snapshot().id().hex());
    if found != expected {
        let message = format!(
            "{} leads to memory {}, but {} has {}",
            path.display(),
            &found[..12],
            args.reference,
            &expected[..12]
        );
        return Err(Failure::refused_with(
            message,
            "give the log that was written before it was saved",
        ));
    }
    Ok(life)
}

/// Draws all on one sheet, or each into a folder.
fn draw(
    args: &PlotArgs,
    format: Option<Format>,
    material: &Material,
    figures: &[Figure],
) -> Result<Vec<Drawn>, Failure> {
    let names = |figures: &[Figure]| figures.iter().map(|figure| figure.name()).collect();
    let files: Vec<(PathBuf, Format, &[Figure])> = match format {
        Some(format) => vec![(args.output.clone(), format, figures)],
        None => figures
            .chunks(1)
            .flat_map(|one| {
                Format::ALL.map(|format| (path_in(&args.output, one[0], format), format, one))
            })
            .collect(),
    };
    for (path, ..) in &files {
        history::refuse_existing(path, args.force)?;
    }
    if format.is_none() {
        std::fs::create_dir_all(&args.output).map_err(|source| {
            let message = format!("{} can't be made: {source}", args.output.display());
            Failure::refused_with(message, "give a folder, or a file that ends in .svg or .png")
        })?;
    }
    let mut drawn = Vec::new();
    for (path, format, figures) in files {
        let bytes = drawing::write(&path, format, &Sheet { material, figures })
            .map_err(Failure::refused)?;
        drawn.push(Drawn { figures: names(figures), path: path.display().to_string(), bytes });
    }
    Ok(drawn)
}

fn path_in(folder: &Path, figure: Figure, format: Format) -> PathBuf {
    folder.join(figure.name()).with_extension(format.ending())
}
