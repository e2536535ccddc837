//! Surprise and answers as charts.

use plotters::chart::SeriesLabelPosition;
use plotters::prelude::*;

use super::report::{PhaseReport, SeamReport, mean};
use crate::drawing::{Area, Axes, Done, Figures, GREY, legend, line};

const FIRST: RGBColor = RGBColor(31, 102, 173);
const SECOND: RGBColor = RGBColor(201, 92, 12);

/// The experiment's charts.
pub(super) struct Sheet<'r>(pub(super) &'r SeamReport);

impl Figures for Sheet<'_> {
    fn count(&self) -> usize {
        2
    }

    fn draw<DB: DrawingBackend>(&self, index: usize, area: &Area<DB>) -> Done<DB> {
        if index == 0 { surprise(area, self.0) } else { answers(area, self.0) }
    }
}

/// Deviations over the running mean, turn by turn, and what the store asked for.
fn surprise<DB: DrawingBackend>(area: &Area<DB>, report: &SeamReport) -> Done<DB> {
    let (mut found, mut needed) = (Vec::new(), Vec::new());
    for phase in &report.phases {
        for turn in &phase.turns {
            let at = found.len() as f64 + 1.0;
            if let (Some(z), Some(least)) =
                (mean(turn.iter(), |said| said.z), mean(turn.iter(), |said| said.needed))
            {
                found.push((at, z));
                needed.push((at, least));
            }
        }
    }
    let all = || found.iter().chain(&needed).map(|(_, z)| *z);
    let least = all().fold(0.0, f64::min) - 0.2;
    let most = all().fold(1.0, f64::max) * 1.3;
    let axes = Axes {
        title: "Surprise of each turn's most surprising sentence, mean over pairs",
        x: ("turn: introduction, repetitions, correction", 1.0, found.len() as f64),
        y: ("deviations over the running mean", least, most),
    };
    let mut chart = axes.on(area)?;
    line(&mut chart, "surprise", FIRST, found)?;
    line(&mut chart, "what the store asks for", GREY, needed)?;
    legend(&mut chart, SeriesLabelPosition::UpperLeft)
}

/// Shares of answers after each phase.
fn answers<DB: DrawingBackend>(area: &Area<DB>, report: &SeamReport) -> Done<DB> {
    let share = |count: usize| 100.0 * count as f64 / report.pairs().max(1) as f64;
    let curve = |of: fn(&PhaseReport) -> usize| {
        let points = report.phases.iter().enumerate();
        points.map(|(at, phase)| (at as f64 + 1.0, share(of(phase)))).collect::<Vec<_>>()
    };
    let axes = Axes {
        title: "Answers in a new conversation",
        x: ("after: 1 introduction, 2 repetitions, 3 correction, 4 decay", 1.0, 4.0),
        y: ("% of pairs", 0.0, 125.0),
    };
    let mut chart = axes.on(area)?;
    line(&mut chart, "the name that holds", FIRST, curve(|phase| phase.asked.right))?;
    line(&mut chart, "the other name", SECOND, curve(|phase| phase.asked.other))?;
    line(&mut chart, "right without memory", GREY, curve(|phase| phase.asked.none))?;
    legend(&mut chart, SeriesLabelPosition::UpperLeft)
}
