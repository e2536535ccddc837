//! The rows as charts, one for each task.

use plotters::chart::SeriesLabelPosition;
use plotters::prelude::*;

use super::Task;
use super::outcome::{Measured, mean};
use crate::drawing::{Area, Axes, Done, Figures, legend, line};

/// Of memory, none, shuffled, in context.
const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 102, 173), RGBColor(110, 110, 110), RGBColor(201, 92, 12), RGBColor(64, 145, 80)];
/// Height of a bar, where that of a row is 1.
const BAR: f64 = 0.16;
/// Room beside the longest bar, for the legend.
const ROOM: f64 = 1.35;

/// The tasks that were run, with their rows.
pub(super) struct Sheet<'r> {
    tasks: Vec<(Chart, Vec<&'r Measured>)>,
}

/// What is drawn: a task, or the second half of one.
#[derive(Clone, Copy)]
enum Chart {
    Of(Task),
    Contradictions,
}

impl<'r> Sheet<'r> {
    pub(super) fn of(rows: &'r [Measured]) -> Self {
        let of_task = |rows: &'r [Measured]| {
            // Rows about a policy have a colon; of those, what holds is drawn, which is all but what is not said.
            let (policies, others): (Vec<&Measured>, Vec<&Measured>) =
                rows.iter().partition(|row| row.task == Task::Merging && row.row.contains(": "));
            let holds = policies.into_iter().filter(|row| row.row.ends_with("says what holds"));
            [(Chart::Of(rows[0].task), others), (Chart::Contradictions, holds.collect())]
        };
        let charts = rows.chunk_by(|a, b| a.task == b.task).flat_map(of_task);
        Self { tasks: charts.filter(|(_, rows)| !rows.is_empty()).collect() }
    }
}

impl Figures for Sheet<'_> {
    fn count(&self) -> usize {
        self.tasks.len()
    }

    fn draw<DB: DrawingBackend>(&self, index: usize, area: &Area<DB>) -> Done<DB> {
        let (chart, rows) = &self.tasks[index];
        let share = |row: &Measured, value: f64| 100.0 * value / row.of.max(1) as f64;
        let relative = |row: &Measured, value: f64| 100.0 * value / mean(&row.none);
        let title = "Contradictions of merged agents: says what holds, %";
        let Chart::Of(task) = chart else { return bars(area, title, rows, share) };
        match task {
            Task::Facts => bars(area, "Facts: right answers, %", rows, share),
            Task::Corrections => bars(area, "Corrections: answers, %", rows, share),
            Task::Unrelated => bars(area, "Unrelated text: perplexity, % of none", rows, relative),
            Task::Knn => bars(area, "Second halves: perplexity, % of none", rows, relative),
            Task::Passkey => passkey(area, rows),
            Task::Goal => goal(area, rows),
            Task::Merging => bars(area, "Merged agents: answers, %", rows, share),
            Task::Association => bars(area, "The second of a pair is found, %", rows, share),
        }
    }
}

/// A group of bars for each row, with its name over them.
fn bars<DB: DrawingBackend>(
    area: &Area<DB>,
    title: &str,
    rows: &[&Measured],
    value: impl Fn(&Measured, f64) -> f64,
) -> Done<DB> {
    let ways = |row: &Measured| {
        row.ways().map(|(_, values)| (!values.is_empty()).then(|| value(row, mean(values))))
    };
    let most = rows.iter().flat_map(|row| ways(row)).flatten().fold(100.0, f64::max);
    let axes = Axes { title, x: ("%", 0.0, most * ROOM), y: ("", 0.0, rows.len() as f64) };
    let mut chart = axes.on(area)?;
    for (index, row) in rows.iter().enumerate() {
        let top = (rows.len() - index) as f64;
        let text = ("sans-serif", 13).into_font();
        chart.draw_series([Text::new(row.row.clone(), (most * 0.005, top - 0.03), text)])?;
        for (way, value) in ways(row).into_iter().enumerate() {
            let Some(value) = value else { continue };
            let over = top - 0.26 - way as f64 * (BAR + 0.01);
            let corners = [(0.0, over), (value, over - BAR)];
            chart.draw_series([Rectangle::new(corners, COLOURS[way].filled())])?;
        }
    }
    for ((name, _), colour) in rows[0].ways().into_iter().zip(COLOURS) {
        line(&mut chart, name, colour, vec![(0.0, 0.0), (0.0, 0.0)])?;
    }
    legend(&mut chart, SeriesLabelPosition::UpperRight)
}

/// Right answers by the length of the text.
fn passkey<DB: DrawingBackend>(area: &Area<DB>, rows: &[&Measured]) -> Done<DB> {
    let length = |row: &Measured| row.row.split(' ').next().and_then(|n| n.parse::<f64>().ok());
    let x: Vec<f64> = rows.iter().filter_map(|row| Some(length(row)?.log2())).collect();
    let (first, last) = x.iter().fold((f64::INFINITY, 0.0_f64), |(a, b), &x| (a.min(x), b.max(x)));
    let axes = Axes {
        title: "Passkeys: right answers by length of the text",
        x: ("tokens, as a power of 2", first, last),
        y: ("right, %", 0.0, 100.0 * ROOM),
    };
    let mut chart = axes.on(area)?;
    for (way, colour) in COLOURS.into_iter().enumerate() {
        let point = |(row, &x): (&&Measured, &f64)| {
            let values = row.ways()[way].1;
            (!values.is_empty()).then(|| (x, 100.0 * mean(values) / row.of.max(1) as f64))
        };
        let points = rows.iter().zip(&x).filter_map(point).collect();
        line(&mut chart, rows[0].ways()[way].0, colour, points)?;
    }
    legend(&mut chart, SeriesLabelPosition::UpperRight)
}

/// Shares of related words against divergence, a line for each way of steering; rows come in pairs of these.
fn goal<DB: DrawingBackend>(area: &Area<DB>, rows: &[&Measured]) -> Done<DB> {
    let way = |row: &Measured| row.row.split(',').next().unwrap_or_default().to_owned();
    let ways: Vec<(String, &[&Measured])> =
        rows.chunk_by(|a, b| way(a) == way(b)).map(|rows| (way(rows[0]), rows)).collect();
    let (none, context) = (mean(&rows[0].none), mean(&rows[0].context));
    let curve = |rows: &[&Measured], which: usize| -> Vec<(f64, f64)> {
        let point =
            |pair: &[&Measured]| (mean(pair[1].ways()[which].1), mean(pair[0].ways()[which].1));
        let mut points: Vec<(f64, f64)> = rows.chunks_exact(2).map(point).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        [vec![(0.0, none)], points].concat()
    };
    let mut lines = Vec::new();
    for (which, name) in [(0, "memory"), (2, "shuffled")] {
        for (place, (way, rows)) in ways.iter().enumerate() {
            let RGBColor(red, green, blue) = COLOURS[which];
            // The second way is paler.
            let pale = |part: u8| if place == 0 { part } else { part / 2 + 120 };
            let colour = RGBColor(pale(red), pale(green), pale(blue));
            lines.push((format!("{name}, {way}"), colour, curve(rows, which)));
        }
    }
    let all = || lines.iter().flat_map(|(_, _, points)| points);
    let most_kl = all().map(|point| point.0).fold(0.0, f64::max);
    let most = all().map(|point| point.1).fold(none.max(context), f64::max);
    let level = |value: f64| vec![(0.0, value), (most_kl, value)];
    lines.push(("none".to_owned(), COLOURS[1], level(none)));
    lines.push(("in context".to_owned(), COLOURS[3], level(context)));
    let axes = Axes {
        title: "Goal: share of related words against divergence",
        x: ("KL, nats a token", 0.0, most_kl),
        y: ("related, %", 0.0, most * ROOM),
    };
    let mut chart = axes.on(area)?;
    for (name, colour, points) in lines {
        line(&mut chart, &name, colour, points)?;
    }
    legend(&mut chart, SeriesLabelPosition::UpperLeft)
}
