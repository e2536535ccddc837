//! `cart train plot`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anstyle::{AnsiColor, Style};
use cart_train::TrainError;
use clap::{Args, ValueHint};
use plotters::chart::SeriesLabelPosition;
use plotters::prelude::*;
use serde::Serialize;
use serde_json::Value;

use super::folder::LOG;
use crate::bytes::human;
use crate::context::Context;
use crate::drawing::{self, Area, Axes, Done, Figures, Format, legend, line};
use crate::failure::Failure;
use crate::panel::{self, Panel};
use crate::report;

/// Draw how runs went: the loss, what was held out, gradients and the learning rate.
///
/// A RUN is the folder of a run. Several are drawn on the same axes.
#[derive(Args)]
#[command(after_help = "Examples:
  cart train plot train-bard-latest -o run.svg
  cart train plot run-a run-b -o both.png
  cart train plot train-bard-latest -o -")]
pub(crate) struct PlotArgs {
    /// Run folders
    #[arg(value_name = "RUN", required = true, num_args = 1.., value_hint = ValueHint::DirPath)]
    runs: Vec<PathBuf>,
    /// A file that ends in .svg or .png, or - for text in the terminal
    #[arg(short, long, value_name = "FILE|-", value_hint = ValueHint::FilePath)]
    output: PathBuf,
}

/// What is drawn over the steps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Curve {
    Loss,
    HeldOut,
    Gradient,
    Rate,
}

impl Curve {
    const ALL: [Self; 4] = [Self::Loss, Self::HeldOut, Self::Gradient, Self::Rate];

    fn title(self) -> &'static str {
        match self {
            Self::Loss => "Loss of each step, nats",
            Self::HeldOut => "Loss of held-out text, nats",
            Self::Gradient => "Norm of the gradients before they were clipped",
            Self::Rate => "Learning rate, thousandths",
        }
    }

    /// Of a line of a log.
    fn of(self, line: &Value) -> Option<f64> {
        match self {
            Self::Loss => line["loss"].as_f64(),
            Self::HeldOut => {
                let held_out = &line["held_out"];
                let perplexity = || held_out["perplexity"].as_f64().map(f64::ln);
                held_out["loss"].as_f64().or_else(perplexity)
            }
            Self::Gradient => line["gradient_norm"].as_f64(),
            Self::Rate => line["rate"].as_f64().map(|rate| rate * 1e3),
        }
    }
}

/// A run's log.
struct Run {
    name: String,
    lines: Vec<Value>,
}

impl Run {
    fn read(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(LOG);
        let text = std::fs::read_to_string(&path).map_err(|source| {
            Failure::refused(TrainError::File { path: path.clone(), action: "read", source })
        })?;
        // The last line of a run that was killed may be cut.
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(Self { name: folder.display().to_string(), lines })
    }

    fn points(&self, curve: Curve) -> Vec<(f64, f64)> {
        let point = |line: &Value| Some((line["step"].as_f64()?, curve.of(line)?));
        self.lines.iter().filter_map(point).filter(|(_, value)| value.is_finite()).collect()
    }
}

/// Runs, and the curves of which any has a point.
struct Sheet {
    runs: Vec<Run>,
    curves: Vec<Curve>,
}

impl Sheet {
    /// Least and most of steps and values.
    fn bounds(&self, curve: Curve) -> [(f64, f64); 2] {
        let points: Vec<(f64, f64)> = self.runs.iter().flat_map(|run| run.points(curve)).collect();
        let range = |of: fn(&(f64, f64)) -> f64| {
            let values = || points.iter().map(of);
            (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
        };
        let (steps, (least, most)) = (range(|point| point.0), range(|point| point.1));
        let most = if most > least { most } else { least + 1.0 };
        [steps, (least.min(0.0), most)]
    }

    fn text(&self, width: usize) -> String {
        let style = Style::new().bold();
        let colours = [AnsiColor::BrightBlue, AnsiColor::Yellow, AnsiColor::Green, AnsiColor::Red];
        let mut text = String::new();
        for &curve in &self.curves {
            let [(first, last), y] = self.bounds(curve);
            let _ = writeln!(text, "{style}{}{style:#}", curve.title());
            for (run, colour) in self.runs.iter().zip(colours.iter().cycle()) {
                let points = run.points(curve);
                if !points.is_empty() {
                    let (name, style) = (run.name.as_str(), colour.on_default());
                    let x = ("step", first, last);
                    text += &Panel { name, style, x, y, points: &points }.text(width);
                }
            }
        }
        text
    }
}

impl Figures for Sheet {
    fn count(&self) -> usize {
        self.curves.len()
    }

    fn draw<DB: DrawingBackend>(&self, index: usize, area: &Area<DB>) -> Done<DB> {
        let curve = self.curves[index];
        let [(first, last), (least, most)] = self.bounds(curve);
        // Room above, so that the legend hides nothing.
        let y = (" ", least, least + (most - least) * 1.2);
        let axes = Axes { title: curve.title(), x: ("step", first, last), y };
        let mut chart = axes.on(area)?;
        for (place, run) in self.runs.iter().enumerate() {
            let hue = HSLColor((0.58 + place as f64 * 0.37).fract(), 0.7, 0.4);
            let (red, green, blue) = hue.to_backend_color().rgb;
            line(&mut chart, &run.name, RGBColor(red, green, blue), run.points(curve))?;
        }
        legend(&mut chart, SeriesLabelPosition::UpperRight)
    }
}

/// What was drawn.
#[derive(Serialize)]
struct PlotReport {
    runs: Vec<String>,
    steps: Vec<u64>,
    curves: Vec<&'static str>,
    path: String,
    bytes: u64,
}

pub(super) fn run(context: &Context, args: &PlotArgs) -> Result<(), Failure> {
    let as_text = args.output == Path::new("-");
    if as_text && context.json {
        return Err(Failure::arguments("-o - and --json are two forms of one output; give one"));
    }
    let format = if as_text { None } else { Format::of(&args.output)? };
    let runs = args.runs.iter().map(|run| Run::read(run)).collect::<Result<Vec<_>, _>>()?;
    let has = |curve: &Curve| runs.iter().any(|run| !run.points(*curve).is_empty());
    let curves: Vec<Curve> = Curve::ALL.into_iter().filter(has).collect();
    if curves.is_empty() {
        let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
        return Err(Failure::refused_with(
            format!("{} made no step that could be drawn", names.join(", ")),
            "give the folder of a run that has begun",
        ));
    }
    let sheet = Sheet { runs, curves };
    if as_text {
        return report::coloured(&sheet.text(panel::width()));
    }
    let Some(format) = format else {
        return Err(Failure::arguments("-o names a file that ends in .svg or .png, or is -"));
    };
    let bytes = drawing::write(&args.output, format, &sheet).map_err(Failure::refused)?;
    let last = |run: &Run| run.lines.iter().filter_map(|line| line["step"].as_u64()).max();
    let body = PlotReport {
        steps: sheet.runs.iter().map(|run| last(run).unwrap_or(0)).collect(),
        runs: sheet.runs.iter().map(|run| run.name.clone()).collect(),
        curves: sheet.curves.iter().map(|curve| curve.title()).collect(),
        path: args.output.display().to_string(),
        bytes,
    };
    if context.json {
        return report::print("train-plot", &body);
    }
    report::line(&format!("{}  {}", body.path, human(body.bytes)))
}
