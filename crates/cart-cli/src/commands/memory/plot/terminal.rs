//! Figures as text, at the width of a terminal.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use cart_memory::{SlotRef, StoreKind};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::Material;
use super::charts::{BARS, MOST_LINKS, counted, oldest, smooth, steps, ticks, way};
use super::figure::Figure;
use super::graph::LinkRow;
use super::life::Life;
use crate::panel::{MARGIN, Panel, axis};

const TITLE: Style = Style::new().bold();
const STM: Style = AnsiColor::BrightBlue.on_default();
const LTM: Style = AnsiColor::Yellow.on_default();
/// Most slots of a store, the youngest.
const MOST_SLOTS: usize = 20;
/// What a slot was worth, in quarters of the most.
const SHADES: [char; 4] = ['░', '▒', '▓', '█'];
/// Parts of a character, from an eighth to all of it.
const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
/// Columns of a bar's range.
const RANGE: usize = 14;
/// Columns of a link's strength.
const STRENGTH: usize = 8;

/// Figures of which there is something to draw, one under the other.
pub(super) fn text(of: &Material, figures: &[Figure], width: usize) -> String {
    let drawn = figures.iter().map(|&figure| match (figure, &of.life) {
        (Figure::Slots, Some(life)) => slots(life, width),
        (Figure::Survival, Some(life)) => survival(life, width),
        (Figure::Energy, Some(life)) => energy(life, width),
        (Figure::Goal, Some(life)) => goal(life, width),
        (Figure::Cosines, _) => cosines(of, width),
        (Figure::Graph, _) => graph(of, width),
        (_, None) => String::new(),
    });
    drawn.collect::<Vec<String>>().join("\n")
}

fn title(words: &str) -> String {
    format!("{TITLE}{words}{TITLE:#}\n")
}

fn of_store(store: StoreKind) -> (&'static str, Style) {
    match store {
        StoreKind::Stm => ("short-term", STM),
        StoreKind::Ltm => ("long-term", LTM),
    }
}

/// A row a slot, darker where it was worth more.
fn slots(life: &Life, width: usize) -> String {
    let most = life.most();
    let quarters = SHADES.iter().enumerate();
    let shades: Vec<String> = quarters
        .map(|(index, shade)| format!("{shade} to {:.2}", most * (index + 1) as f32 / 4.0))
        .collect();
    let mut text = title("Slots over time: σ(A) · energy · decay");
    let _ = writeln!(text, "{:MARGIN$}{}", "", shades.join("  "));
    let (first, last) = ticks(life);
    let across = width - MARGIN;
    for store in [StoreKind::Stm, StoreKind::Ltm] {
        let all: Vec<&SlotRef> = life.rows.iter().filter(|at| at.store == store).collect();
        if all.is_empty() {
            continue;
        }
        let (name, style) = of_store(store);
        let shown = &all[all.len().saturating_sub(MOST_SLOTS)..];
        let _ = write!(text, "{:MARGIN$}{style}{name}{style:#}, slots by number", "");
        if let older @ 1.. = all.len() - shown.len() {
            let _ = write!(text, "; {older} older ones not shown");
        }
        text.push('\n');
        for at in shown.iter().rev() {
            let shade = |column: usize| {
                // The last tick that begins in the column.
                let end = (last + 1.0 - first) * (column + 1) as f64 / across as f64;
                let tick = first + end.ceil() - 1.0;
                let (_, slots) = life.columns.range(..=tick as u64).next_back()?;
                let quarter = (slots.get(at)? / most.max(f32::MIN_POSITIVE) * 4.0).ceil() as usize;
                Some(SHADES[quarter.clamp(1, 4) - 1])
            };
            let row: String = (0..across).map(|column| shade(column).unwrap_or(' ')).collect();
            let _ = writeln!(text, "{:>6} │{style}{}{style:#}", at.id.number(), row.trim_end());
        }
    }
    text + &axis(("tick", first, last), across)
}

fn survival(life: &Life, width: usize) -> String {
    let curves = [(StoreKind::Stm, &life.statistics.stm), (StoreKind::Ltm, &life.statistics.ltm)];
    let most = curves.iter().filter_map(|(_, curve)| oldest(curve)).max().unwrap_or(1) as f64;
    let mut text = title("How long slots live (Kaplan and Meier): share that lives longer");
    for (store, curve) in curves {
        if let Some(end) = oldest(curve) {
            let (name, style) = of_store(store);
            let points = steps(&curve.survival, end as f64);
            let (x, y) = (("ticks", 0.0, most), (0.0, 1.0));
            text += &Panel { name, style, x, y, points: &points }.text(width);
        }
    }
    text
}

fn energy(life: &Life, width: usize) -> String {
    let curve = &life.statistics.energy_curve;
    let points: Vec<(f64, f64)> =
        curve.iter().map(|&(at, energy)| (at as f64, f64::from(energy))).collect();
    let mean = smooth(&points);
    let heading = title("Energy of the slot that each observation went into");
    heading + &over_time(life, width, [("each", &points), ("running mean (α 0.1)", &mean)])
}

fn goal(life: &Life, width: usize) -> String {
    let [length, turned] = way(life);
    let curves = [("length", &*length), ("cosine with the step before", &turned)];
    title("The goal, step by step") + &over_time(life, width, curves)
}

/// Two curves over the ticks of the log, on the same axes.
fn over_time(life: &Life, width: usize, curves: [(&str, &[(f64, f64)]); 2]) -> String {
    let values = || curves.iter().flat_map(|(_, points)| points.iter()).map(|&(_, value)| value);
    let y = (values().fold(0.0, f64::min), values().fold(1.0, f64::max));
    let (first, last) = ticks(life);
    let panels = curves.into_iter().zip([STM, LTM]).filter(|((_, points), _)| !points.is_empty());
    let drawn = panels.map(|((name, points), style)| {
        Panel { name, style, x: ("tick", first, last), y, points }.text(width)
    });
    drawn.collect()
}

/// Histograms side by side, a store each, from the least cosine to the most.
fn cosines(of: &Material, width: usize) -> String {
    let stores = [StoreKind::Stm, StoreKind::Ltm].into_iter().zip(&of.cosines);
    let stores: Vec<_> = stores.filter(|(_, cosines)| !cosines.is_empty()).collect();
    let counts: Vec<[usize; BARS]> = stores.iter().map(|(_, cosines)| counted(cosines)).collect();
    let used = |bar: &usize| counts.iter().any(|counts| counts[*bar] > 0);
    let (first, last) = ((0..BARS).find(used), (0..BARS).rfind(used));
    let most = counts.iter().flatten().copied().max().unwrap_or(1);
    let digits = most.to_string().len();
    let room = (width - RANGE) / stores.len().max(1) - digits - 3;
    let mut text = title("How alike slots are: cosines of all pairs of a store");
    let _ = write!(text, "{:RANGE$}", "cosine");
    let mut gap = 0;
    for (store, _) in &stores {
        let (name, style) = of_store(*store);
        let _ = write!(text, "{:gap$}  {style}{name}{style:#}, pairs", "");
        gap = (room + digits + 1).saturating_sub(name.len() + ", pairs".len());
    }
    text.push('\n');
    for bar in first.unwrap_or(0)..=last.unwrap_or(0) {
        if !used(&bar) {
            // A row for all that are empty.
            text += if used(&(bar - 1)) { "    ⋮\n" } else { "" };
            continue;
        }
        let at = |bar: usize| 2.0 * bar as f64 / BARS as f64 - 1.0;
        let mut line = format!("{:>5.2} to {:>5.2}", at(bar), at(bar + 1));
        for ((store, _), counts) in stores.iter().zip(&counts) {
            let (_, style) = of_store(*store);
            let drawn = block(counts[bar] as f64 / most as f64, room);
            let _ = write!(line, " │{style}{drawn}{style:#}");
            let rest = room - drawn.chars().count();
            let _ = write!(line, " {:<1$}", counts[bar], rest + digits);
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// A bar of blocks whose length is a share of `room` columns; what is not nothing can be seen.
fn block(share: f64, room: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (room * 8) as f64).round() as usize;
    let eighths = if share > 0.0 { eighths.max(1) } else { 0 };
    let mut drawn = "█".repeat(eighths / 8);
    drawn.extend(EIGHTHS.get((eighths % 8).wrapping_sub(1)));
    drawn
}

/// Under each slot those that it leads to, the strongest links first.
fn graph(of: &Material, width: usize) -> String {
    let links = &of.links[..of.links.len().min(MOST_LINKS)];
    let shown = match of.links.len() - links.len() {
        0 => String::new(),
        weaker => format!("; {weaker} weaker ones not shown"),
    };
    let mut text = title(&format!("Which memory leads to which: {} links{shown}", links.len()));
    let mut sources: Vec<u64> = Vec::new();
    for LinkRow { from, .. } in links {
        if !sources.contains(from) {
            sources.push(*from);
        }
    }
    for from in sources {
        let _ = writeln!(text, "{}", slot(of, from, width));
        for link in links.iter().filter(|link| link.from == from) {
            let bar = block(f64::from(link.strength), STRENGTH);
            let start = format!("  → {:.3} {bar:<STRENGTH$} ", link.strength);
            let used = start.chars().count();
            let _ = writeln!(text, "{start}{}", slot(of, link.to, width - used));
        }
    }
    text
}

/// A slot's number, store and text, cut to `width` columns.
fn slot(of: &Material, number: u64, width: usize) -> String {
    let Some(node) = of.nodes.iter().find(|node| node.slot == number) else {
        return number.to_string();
    };
    let (name, style) = of_store(node.kind());
    let start = format!("{number} {name}: ");
    let text = cut(node.text.trim(), width - start.len());
    format!("{style}{number} {name}{style:#}: {text}")
}

/// A text in one line of at most `room` columns.
fn cut(text: &str, room: usize) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.width() <= room {
        return line;
    }
    let mut used = 1;
    let fits = |char: &char| {
        used += char.width().unwrap_or(0);
        used <= room
    };
    line.chars().take_while(fits).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        let bars = [0.0, 1e-9, 0.25, 0.5, 1.0].map(|share| block(share, 2));
        assert_eq!(bars, ["", "▏", "▌", "█", "██"]);
    }

    #[test]
    fn texts_are_cut_to_their_room_whatever_is_in_them() {
        assert_eq!(cut("four", 4), "four");
        assert_eq!(cut("fives", 4), "fiv…");
        assert_eq!(cut("a\u{1b}[1m\nb", 9), "a [1m b");
        assert_eq!(cut("記憶記憶", 5), "記憶…");
    }
}
