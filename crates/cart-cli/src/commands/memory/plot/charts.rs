//! The charts, each on an area of its own.

use std::collections::BTreeSet;
use std::f64::consts::TAU;

use cart_memory::StoreKind;
use cart_memory::log::Curve;
use plotters::chart::SeriesLabelPosition;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::figure::Figure;
use super::life::Life;
use super::{LinkRow, Material, NodeRow};
use crate::drawing::{Area, Axes, Done, GREY, legend, line};

const STM: RGBColor = RGBColor(31, 102, 173);
const LTM: RGBColor = RGBColor(201, 92, 12);
const STORES: [(StoreKind, &str); 2] =
    [(StoreKind::Stm, "short-term"), (StoreKind::Ltm, "long-term")];
/// How far an axis goes beyond 1, so that the legend hides nothing.
const ROOM: f64 = 1.25;
/// Bars of the histogram of cosines, over −1 to 1.
pub(super) const BARS: usize = 50;
/// Shades of what a slot is worth.
const SHADES: f32 = 32.0;
/// Most links that are drawn, the strongest.
pub(super) const MOST_LINKS: usize = 120;
/// Most slots that they are between.
const MOST_NODES: usize = 40;
/// Characters of a text beside a slot.
const LABEL: usize = 22;
/// Pixels from one such text to the next.
const LINE: i32 = 17;

/// Draws a figure of which there is something to draw.
pub(super) fn draw<DB: DrawingBackend>(area: &Area<DB>, figure: Figure, of: &Material) -> Done<DB> {
    match (figure, &of.life) {
        (Figure::Slots, Some(life)) => slots(area, life),
        (Figure::Survival, Some(life)) => survival(area, life),
        (Figure::Energy, Some(life)) => energy(area, life),
        (Figure::Goal, Some(life)) => goal(area, life),
        (Figure::Cosines, _) => cosines(area, of),
        (Figure::Graph, _) => graph(area, of),
        (_, None) => Ok(()),
    }
}

pub(super) fn ticks(life: &Life) -> (f64, f64) {
    let (first, last) = life.statistics.ticks;
    (first as f64, last as f64)
}

/// What each slot was worth: a row a slot, darker where it was worth more.
fn slots<DB: DrawingBackend>(area: &Area<DB>, life: &Life) -> Done<DB> {
    let most = life.most();
    let older = match life.older {
        0 => String::new(),
        older => format!("; {older} older ones not shown"),
    };
    let title = format!("Slots over time: σ(A) · energy · decay, 0 (white) to {most:.2}{older}");
    let (first, last) = ticks(life);
    let y = ("a row each slot, the youngest of a store on top", 0.0, life.rows.len() as f64 * ROOM);
    let mut chart = Axes { title: &title, x: ("tick", first, last + 1.0), y }.on(area)?;
    let starts: Vec<u64> = life.columns.keys().copied().collect();
    for (row, at) in life.rows.iter().enumerate() {
        let shade = |start: &u64| {
            let worth = life.columns[start].get(at)?;
            Some((worth / most.max(f32::MIN_POSITIVE) * SHADES).ceil() as u8)
        };
        let shades: Vec<Option<u8>> = starts.iter().map(shade).collect();
        let mut column = 0;
        for run in shades.chunk_by(|a, b| a == b) {
            let end = starts.get(column + run.len()).map_or(last + 1.0, |&next| next as f64);
            if let Some(shade) = run[0] {
                let corners = [(starts[column] as f64, row as f64), (end, row as f64 + 1.0)];
                let style = hue(at.store).mix(0.04 + 0.96 * f64::from(shade) / f64::from(SHADES));
                chart.draw_series(std::iter::once(Rectangle::new(corners, style.filled())))?;
            }
            column += run.len();
        }
    }
    for (store, name) in STORES {
        chart.draw_series(std::iter::empty::<Rectangle<(f64, f64)>>())?.label(name).legend(
            move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], hue(store).filled()),
        );
    }
    legend(&mut chart, SeriesLabelPosition::UpperLeft)
}

fn hue(store: StoreKind) -> RGBColor {
    match store {
        StoreKind::Stm => STM,
        StoreKind::Ltm => LTM,
    }
}

/// Kaplan and Meier's estimate for both stores.
fn survival<DB: DrawingBackend>(area: &Area<DB>, life: &Life) -> Done<DB> {
    let curves =
        [("short-term", STM, &life.statistics.stm), ("long-term", LTM, &life.statistics.ltm)];
    let most = curves.iter().filter_map(|(_, _, curve)| oldest(curve)).max().unwrap_or(1) as f64;
    let axes = Axes {
        title: "How long slots live (Kaplan and Meier)",
        x: ("ticks", 0.0, most),
        y: ("share that lives longer", 0.0, 1.02),
    };
    let mut chart = axes.on(area)?;
    for (name, colour, curve) in curves {
        if let Some(end) = oldest(curve) {
            line(&mut chart, name, colour, steps(&curve.survival, end as f64))?;
        }
    }
    legend(&mut chart, SeriesLabelPosition::LowerLeft)
}

/// Ticks that the slot lived that lived longest; none without slots.
pub(super) fn oldest(curve: &Curve) -> Option<u64> {
    curve.lifetimes.iter().chain(&curve.ages).copied().max()
}

/// A curve that is level between its points, from 1 at 0 to where it ends.
pub(super) fn steps(curve: &[(u64, f64)], end: f64) -> Vec<(f64, f64)> {
    let (mut points, mut share) = (vec![(0.0, 1.0)], 1.0);
    for &(at, next) in curve {
        points.extend([(at as f64, share), (at as f64, next)]);
        share = next;
    }
    points.push((end, share));
    points
}

fn energy<DB: DrawingBackend>(area: &Area<DB>, life: &Life) -> Done<DB> {
    let (first, last) = ticks(life);
    let axes = Axes {
        title: "Energy of the slot that each observation went into",
        x: ("tick", first, last),
        y: ("energy", 0.0, ROOM),
    };
    let mut chart = axes.on(area)?;
    let curve = &life.statistics.energy_curve;
    let points: Vec<(f64, f64)> =
        curve.iter().map(|&(at, energy)| (at as f64, f64::from(energy))).collect();
    chart.draw_series(points.iter().map(|&at| Circle::new(at, 3, STM.mix(0.6).filled())))?;
    line(&mut chart, "each", STM, points.clone())?;
    line(&mut chart, "running mean (α 0.1)", LTM, smooth(&points))?;
    legend(&mut chart, SeriesLabelPosition::UpperRight)
}

/// Exponential running mean with rate 0.1, begun at the first point.
pub(super) fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut mean = points.first().map_or(0.0, |&(_, value)| value);
    let next = |&(at, value): &(f64, f64)| {
        mean += 0.1 * (value - mean);
        (at, mean)
    };
    points.iter().map(next).collect()
}

/// The goal's length, and its cosine with the step before, over ticks.
pub(super) fn way(life: &Life) -> [Vec<(f64, f64)>; 2] {
    let steps = &life.statistics.goal;
    let length: Vec<(f64, f64)> =
        steps.iter().map(|&(at, _, norm, _)| (at as f64, f64::from(norm))).collect();
    let turned: Vec<(f64, f64)> = (steps.iter())
        .filter_map(|&(at, _, _, drift)| Some((at as f64, f64::from(drift?))))
        .collect();
    [length, turned]
}

fn goal<DB: DrawingBackend>(area: &Area<DB>, life: &Life) -> Done<DB> {
    let [length, turned] = way(life);
    let least = turned.iter().map(|&(_, cosine)| cosine).fold(0.0, f64::min);
    let (first, last) = ticks(life);
    let axes = Axes {
        title: "The goal, step by step",
        x: ("tick", first, last),
        y: ("length, cosine", least, ROOM),
    };
    let mut chart = axes.on(area)?;
    line(&mut chart, "length", STM, length)?;
    line(&mut chart, "cosine with the step before", LTM, turned)?;
    legend(&mut chart, SeriesLabelPosition::UpperRight)
}

/// Histograms of all pairs of slots, a store each.
fn cosines<DB: DrawingBackend>(area: &Area<DB>, of: &Material) -> Done<DB> {
    let counts = of.cosines.each_ref().map(|cosines| counted(cosines));
    let most = counts.iter().flatten().copied().max().unwrap_or(1).max(1);
    // From 0, or from what is less, in fifths.
    let all = of.cosines.iter().flatten().copied();
    let least = f64::from((all.fold(0.0, f32::min) * 5.0).floor().max(-5.0)) / 5.0;
    let axes = Axes {
        title: "How alike slots are: cosines of all pairs",
        x: ("cosine", least, 1.0),
        y: ("pairs", 0.0, most as f64 * ROOM),
    };
    let mut chart = axes.on(area)?;
    let width = 2.0 / BARS as f64;
    for (counts, (name, colour)) in counts.iter().zip([("short-term", STM), ("long-term", LTM)]) {
        let bar = |(index, &count): (usize, &usize)| {
            let left = width.mul_add(index as f64, -1.0);
            let corners = [(left.max(least), 0.0), (left + width, count as f64)];
            Rectangle::new(corners, colour.mix(0.5).filled())
        };
        chart
            .draw_series(counts.iter().enumerate().filter(|(_, count)| **count > 0).map(bar))?
            .label(name)
            .legend(move |(x, y)| {
                Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.mix(0.5).filled())
            });
    }
    legend(&mut chart, SeriesLabelPosition::UpperRight)
}

pub(super) fn counted(cosines: &[f32]) -> [usize; BARS] {
    let mut counts = [0; BARS];
    for cosine in cosines {
        let place = ((cosine + 1.0) / 2.0 * BARS as f32).max(0.0) as usize;
        counts[place.min(BARS - 1)] += 1;
    }
    counts
}

/// The strongest links, at most [`MOST_LINKS`] between [`MOST_NODES`] slots.
fn strongest(links: &[LinkRow]) -> &[LinkRow] {
    let mut nodes = BTreeSet::new();
    let few = |link: &&LinkRow| {
        nodes.extend([link.from, link.to]);
        nodes.len() <= MOST_NODES
    };
    &links[..links.iter().take(MOST_LINKS).take_while(few).count()]
}

/// The slots in a circle, links as lines that are thick at their end.
fn graph<DB: DrawingBackend>(area: &Area<DB>, of: &Material) -> Done<DB> {
    let links = strongest(&of.links);
    let linked =
        |node: &&NodeRow| links.iter().any(|link| link.from == node.slot || link.to == node.slot);
    let nodes: Vec<&NodeRow> = of.nodes.iter().filter(linked).collect();
    let shown = match of.links.len() - links.len() {
        0 => String::new(),
        weaker => format!("; {weaker} weaker ones not shown"),
    };
    let title =
        format!("Which memory leads to which: {} links, towards the dot{shown}", links.len());
    let area = area.margin(10, 10, 10, 10);
    let area = area.titled(&title, ("sans-serif", 20))?;
    let (width, height) = area.dim_in_pixel();
    let place = |slot: u64| {
        let index = nodes.iter().position(|node| node.slot == slot).unwrap_or(0);
        let angle = TAU * (index as f64 + 0.5) / nodes.len() as f64;
        let x = (f64::from(width) * 0.22).mul_add(angle.cos(), f64::from(width) * 0.5);
        let y = (f64::from(height) * 0.41).mul_add(angle.sin(), f64::from(height) * 0.53);
        (x as i32, y as i32)
    };
    for link in links.iter().rev() {
        let (from, to) = (place(link.from), place(link.to));
        // The end is beside the slot.
        let (x, y) = (f64::from(from.0 - to.0), f64::from(from.1 - to.1));
        let back = 12.0 / x.hypot(y).max(12.0);
        let end = (to.0 + (x * back) as i32, to.1 + (y * back) as i32);
        let colour = GREY.mix(f64::from(link.strength).mul_add(0.7, 0.3).min(1.0));
        let thick = 1 + (link.strength * 4.0) as u32;
        area.draw(&PathElement::new([from, end], colour.stroke_width(thick)))?;
        area.draw(&Circle::new(end, 3 + thick as i32 / 2, colour.filled()))?;
    }
    let named: Vec<((i32, i32), &NodeRow)> =
        nodes.iter().map(|node| (place(node.slot), *node)).collect();
    names(&area, &named)?;
    stores(&area)
}

/// The slots' dots, and their texts in a column on each side, a line from the one to the other.
fn names<DB: DrawingBackend>(area: &Area<DB>, nodes: &[((i32, i32), &NodeRow)]) -> Done<DB> {
    let (width, height) = area.dim_in_pixel();
    let (width, height) = (width as i32, height as i32);
    for left in [true, false] {
        let mut side: Vec<_> =
            nodes.iter().filter(|((x, _), _)| (*x < width / 2) == left).collect();
        side.sort_by_key(|((_, y), _)| *y);
        let wanted: Vec<i32> = side.iter().map(|((_, y), _)| *y).collect();
        let x = if left { width / 4 } else { width * 3 / 4 };
        let (h, near) = if left { (HPos::Right, 3) } else { (HPos::Left, -3) };
        for ((at, node), y) in side.into_iter().zip(apart(&wanted, LINE, height - LINE / 2)) {
            let style = ("sans-serif", 13).into_text_style(area).pos(Pos::new(h, VPos::Center));
            area.draw(&PathElement::new([(x + near, y), *at], GREY.mix(0.3)))?;
            area.draw(&Text::new(label(node), (x, y), style))?;
        }
    }
    for (at, node) in nodes {
        area.draw(&Circle::new(*at, 6, hue(node.kind()).filled()))?;
    }
    Ok(())
}

/// Places in the order of those that are wanted, near them, `step` apart and up to `most`.
fn apart(wanted: &[i32], step: i32, most: i32) -> Vec<i32> {
    let mut places = wanted.to_vec();
    for index in 1..places.len() {
        places[index] = places[index].max(places[index - 1] + step);
    }
    let mut most = most;
    for place in places.iter_mut().rev() {
        *place = (*place).min(most);
        most = *place - step;
    }
    places
}

/// Which colour is which store, in the corner.
fn stores<DB: DrawingBackend>(area: &Area<DB>) -> Done<DB> {
    let style = ("sans-serif", 14).into_text_style(area).pos(Pos::new(HPos::Left, VPos::Center));
    for (row, (store, name)) in STORES.into_iter().enumerate() {
        let y = 8 + 18 * row as i32;
        area.draw(&Circle::new((8, y), 6, hue(store).filled()))?;
        area.draw(&Text::new(name, (20, y), style.clone()))?;
    }
    Ok(())
}

fn label(node: &NodeRow) -> String {
    let text: String = node
        .text
        .trim()
        .chars()
        .take(LABEL)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let cut = if node.text.trim().chars().count() > LABEL { "…" } else { "" };
    format!("{} {text}{cut}", node.slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_are_counted_from_minus_one_to_one() {
        let counts = counted(&[-1.0, -0.999, 0.0, 0.99, 1.0, 1.000_001]);
        assert_eq!((counts[0], counts[BARS / 2], counts[BARS - 1]), (2, 1, 3));
        assert_eq!(counts.iter().sum::<usize>(), 6);
    }

    #[test]
    fn texts_stay_apart_near_where_they_are_wanted() {
        assert_eq!(apart(&[10, 40, 41, 42], 17, 400), [10, 40, 57, 74]);
        assert_eq!(apart(&[80, 90, 95], 10, 100), [80, 90, 100]);
        assert_eq!(apart(&[98, 99, 100], 10, 100), [80, 90, 100]);
    }

    #[test]
    fn links_are_drawn_while_their_slots_have_room() {
        let chain = |n: u64| LinkRow { from: n, to: n + 1, strength: 1.0 };
        let links: Vec<LinkRow> = (0..200).map(chain).collect();
        assert_eq!(strongest(&links).len(), MOST_NODES - 1);
        assert_eq!(strongest(&links[..7]).len(), 7);
    }

    #[test]
    fn survival_is_level_between_its_steps() {
        assert_eq!(steps(&[], 5.0), [(0.0, 1.0), (5.0, 1.0)]);
        let drawn = steps(&[(2, 0.5)], 4.0);
        assert_eq!(drawn, [(0.0, 1.0), (2.0, 1.0), (2.0, 0.5), (4.0, 0.5)]);
    }
}
