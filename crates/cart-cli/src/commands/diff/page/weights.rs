//! The weights: where they moved, and how far.

use std::collections::BTreeMap;

use cart_merge::diff::{Histogram, Module, Place, Total};

use super::MOST;
use super::html::Html;
use crate::bytes::grouped;
use crate::commands::diff::findings::{Changed, DiffReport, Weights};
use crate::commands::diff::words::{cosine, figure, of_total, percent};

pub(super) fn section(page: &mut Html, report: &DiffReport) {
    page.raw("<section id=\"weights\" aria-labelledby=\"weights-title\">\n<h2 id=\"weights-title\">Weights</h2>\n");
    let tensors = &report.tensors;
    page.element(
        "p",
        &[],
        format_args!(
            "{} tensors the same, {} changed, {} added, {} removed, {} renamed.",
            grouped(tensors.same as u64),
            grouped(tensors.changed.len() as u64),
            grouped(tensors.added.len() as u64),
            grouped(tensors.removed.len() as u64),
            grouped(tensors.renamed.len() as u64)
        ),
    );
    if let Some(weights) = report.weights.as_ref().filter(|one| one.totals.all.differing > 0) {
        page.element("p", &[], format_args!("Changed: {}.", of_total(&weights.totals.all)));
        if weights.not_finite != [0, 0] {
            let [a, b] = weights.not_finite;
            page.element(
                "p",
                &[("class", &"warning")],
                format_args!("Elements that are infinite or no number: {a} in A, {b} in B."),
            );
        }
        heatmap(page, weights);
        histogram(page, &weights.histogram);
    }
    table(page, report);
    lists(page, report);
    page.raw("</section>\n");
}

/// Layers by modules.
fn heatmap(page: &mut Html, weights: &Weights) {
    let cells: BTreeMap<Place, &Total> =
        weights.totals.cells.iter().map(|cell| (cell.place, &cell.total)).collect();
    let mut layers: Vec<Option<u64>> = cells.keys().map(|place| place.layer).collect();
    layers.dedup();
    let modules: Vec<Module> = weights.totals.modules.iter().map(|one| one.module).collect();
    let moved = |total: &&Total| total.relative.unwrap_or(0.0);
    let largest = cells.values().map(moved).fold(0.0, f64::max);
    let smallest = cells.values().map(moved).filter(|moved| *moved > 0.0).fold(largest, f64::min);
    page.raw(
        "<div class=\"scroll\" role=\"region\" aria-label=\"Layers by modules\" tabindex=\"0\">\n",
    );
    page.raw("<table class=\"heatmap\">\n<caption>How far each part moved: ‖Δ‖/‖W‖ by layer and module. Stronger is more.</caption>\n<thead><tr><th scope=\"col\">Layer</th>");
    for module in &modules {
        page.element("th", &[("scope", &"col")], module);
    }
    page.raw("</tr></thead>\n<tbody>\n");
    for layer in layers {
        page.raw("<tr>");
        match layer {
            None => page.raw("<th scope=\"row\">whole model</th>"),
            Some(layer) => page.element("th", &[("scope", &"row")], layer),
        };
        for &module in &modules {
            cell(page, cells.get(&Place { layer, module }).copied(), (smallest, largest));
        }
        page.raw("</tr>\n");
    }
    page.raw("</tbody>\n</table>\n</div>\n");
}

/// * `range`: what moved least and most of all that moved
fn cell(page: &mut Html, total: Option<&Total>, range: (f64, f64)) {
    let Some(total) = total else {
        page.raw("<td class=\"none\"><span class=\"unseen\">none</span></td>");
        return;
    };
    let Some(relative) = total.relative else {
        let said = if total.differing == 0 { "same" } else { "?" };
        page.element("td", &[("class", &"same"), ("title", &of_total(total))], said);
        return;
    };
    let share = strength(relative, range);
    let value = format!("--v:{share:.3}");
    page.element(
        "td",
        &[("class", &"heat"), ("style", &value), ("title", &of_total(total))],
        figure(relative),
    );
}

/// How strong a colour is, 0 to 1: in proportion to the logarithm, over a factor of four at least, lest small differences look large.
fn strength(value: f64, (smallest, largest): (f64, f64)) -> f64 {
    if value <= 0.0 {
        return 0.0;
    }
    let from = smallest.min(largest / 4.0);
    0.08 + 0.92 * (value / from).ln() / (largest / from).ln()
}

/// Sizes of all differences, as bars and as a table.
fn histogram(page: &mut Html, histogram: &Histogram) {
    let bins = histogram.positive.len();
    if bins == 0 {
        return;
    }
    let all: u64 = histogram.negative.iter().chain(&histogram.positive).sum();
    let (low, high) = (histogram.lowest, histogram.lowest + bins as i32);
    page.raw("<figure>\n<figcaption>How large the changes of elements are: each bar is a power of two, decreases to the left, increases to the right.</figcaption>\n");
    bars(page, histogram, (low, high), (720.0, 160.0), true);
    page.raw("<details><summary>The same as a table</summary>\n<table>\n<thead><tr><th scope=\"col\">|Δ| from</th><th scope=\"col\">to</th><th scope=\"col\">Decreased</th><th scope=\"col\">Increased</th><th scope=\"col\">Share</th></tr></thead>\n<tbody>\n");
    for (index, (down, up)) in histogram.negative.iter().zip(&histogram.positive).enumerate() {
        let exponent = low + index as i32;
        page.raw("<tr>");
        page.element("td", &[], figure(2.0_f64.powi(exponent)));
        page.element("td", &[], figure(2.0_f64.powi(exponent + 1)));
        page.element("td", &[], grouped(*down));
        page.element("td", &[], grouped(*up));
        page.element("td", &[], percent((down + up) as f64 / all as f64));
        page.raw("</tr>\n");
    }
    page.raw("</tbody>\n</table></details>\n</figure>\n");
}

/// Bars over a range of exponents; the mirror of it on the left.
fn bars(
    page: &mut Html,
    histogram: &Histogram,
    (low, high): (i32, i32),
    (width, height): (f64, f64),
    labelled: bool,
) {
    let bins = (high - low).max(1) as usize;
    let gap = if labelled { 16.0 } else { 2.0 };
    let step = (width - gap) / 2.0 / bins as f64;
    let foot = if labelled { 22.0 } else { 0.0 };
    let most = histogram.negative.iter().chain(&histogram.positive).copied().max().unwrap_or(1);
    let view = format!("0 0 {width} {}", height + foot);
    if labelled {
        let said = format!(
            "Bars of the number of elements by the size of their change, from {} to {}",
            figure(2.0_f64.powi(low)),
            figure(2.0_f64.powi(high))
        );
        page.open(
            "svg",
            &[("viewBox", &view), ("class", &"bars"), ("role", &"img"), ("aria-label", &said)],
        );
    } else {
        page.open(
            "svg",
            &[
                ("viewBox", &view),
                ("class", &"spark"),
                ("aria-hidden", &"true"),
                ("preserveAspectRatio", &"none"),
            ],
        );
    }
    let mut bar = |x: f64, count: u64, class: &str| {
        let tall = (count as f64 / most as f64 * height).max(if count > 0 { 1.0 } else { 0.0 });
        if tall > 0.0 {
            let wide = step - if labelled { 1.0 } else { 0.3 };
            let place = [x, height - tall, wide, tall].map(|number| format!("{number:.2}"));
            let [x, y, wide, tall] = &place;
            page.open(
                "rect",
                &[("x", x), ("y", y), ("width", wide), ("height", tall), ("class", &class)],
            );
            page.close("rect");
        }
    };
    let middle = width / 2.0;
    for (index, (down, up)) in histogram.negative.iter().zip(&histogram.positive).enumerate() {
        let at = f64::from(histogram.lowest - low) + index as f64;
        bar(middle + gap / 2.0 + at * step, *up, "up");
        bar(middle - gap / 2.0 - (at + 1.0) * step, *down, "down");
    }
    if labelled {
        labels(page, (low, high), (width, height), (gap, step));
    }
    page.close("svg").raw("\n");
}

/// What powers of two the bars begin at.
fn labels(
    page: &mut Html,
    (low, high): (i32, i32),
    (width, height): (f64, f64),
    (gap, step): (f64, f64),
) {
    let every = ((high - low) / 4).max(1);
    let base = format!("{:.1}", height + 16.0);
    let mut label = |x: f64, text: &str| {
        let x = format!("{x:.1}");
        page.element("text", &[("x", &x), ("y", &base), ("text-anchor", &"middle")], text);
    };
    label(width / 2.0, "0");
    for exponent in (low..high).filter(|exponent| (exponent - low) % every == every - 1) {
        let at = f64::from(exponent - low) + 0.5;
        let size = figure(2.0_f64.powi(exponent));
        label(width / 2.0 + gap / 2.0 + at * step, &size);
        label(width / 2.0 - gap / 2.0 - at * step, &format!("−{size}"));
    }
}

/// Tensor by tensor.
fn table(page: &mut Html, report: &DiffReport) {
    let changed = &report.tensors.changed;
    if changed.is_empty() {
        return;
    }
    let histograms = || changed.iter().filter_map(|one| Some(&one.numbers.as_ref()?.histogram));
    let with_bins = || histograms().filter(|one| !one.positive.is_empty());
    let low = with_bins().map(|one| one.lowest).min().unwrap_or(0);
    let high = with_bins().map(|one| one.lowest + one.positive.len() as i32).max().unwrap_or(1);
    let ranked = changed.iter().any(|one| one.numbers.as_ref().is_some_and(|n| n.rank.is_some()));
    page.raw("<h3 id=\"tensors-title\">Tensors that differ</h3>\n");
    page.raw("<p class=\"tools\" hidden><label>Only names with <input type=\"search\" id=\"filter\" autocomplete=\"off\"></label> <span id=\"found\" role=\"status\"></span></p>\n");
    page.raw("<div class=\"scroll tall\" role=\"region\" aria-labelledby=\"tensors-title\" tabindex=\"0\">\n<table class=\"tensors\" id=\"tensors\">\n<thead><tr>");
    let mut columns = vec!["Name", "‖Δ‖/‖W‖", "max |Δ|", "mean |Δ|", "Cosine", "Changed"];
    if ranked {
        columns.push("Rank");
    }
    for column in columns {
        page.element("th", &[("scope", &"col")], column);
    }
    page.raw("<th scope=\"col\" class=\"fixed\">Sizes of change</th><th scope=\"col\" class=\"fixed\">Type and shape</th></tr></thead>\n<tbody>\n");
    for one in changed.iter().take(MOST) {
        row(page, one, (low, high), ranked);
    }
    page.raw("</tbody>\n</table>\n</div>\n");
    more(page, changed.len());
}

fn row(page: &mut Html, one: &Changed, range: (i32, i32), ranked: bool) {
    page.raw("<tr>").element("th", &[("scope", &"row")], &one.name);
    let numbers = one.numbers.as_ref();
    let mut number = |value: Option<f64>, shown: &dyn Fn(f64) -> String| {
        match value {
            Some(value) => page.element("td", &[("data-value", &value)], shown(value)),
            None => page.raw("<td data-value=\"\">–</td>"),
        };
    };
    number(numbers.and_then(|one| one.relative), &figure);
    number(numbers.map(|one| one.max_abs), &figure);
    number(numbers.map(|one| one.mean_abs), &figure);
    number(numbers.and_then(|one| one.cosine), &cosine);
    number(one.share(), &percent);
    if ranked {
        number(numbers.and_then(|one| one.rank), &figure);
    }
    page.raw("<td>");
    if let Some(numbers) = numbers {
        bars(page, &numbers.histogram, range, (120.0, 22.0), false);
    }
    page.raw("</td><td class=\"kind\">").text(&one.a);
    if one.a != one.b {
        page.raw(" → ").text(&one.b);
    }
    page.raw("</td></tr>\n");
}

/// Tensors of one side only, and those with other names.
fn lists(page: &mut Html, report: &DiffReport) {
    let tensors = &report.tensors;
    for (title, names) in [("Added", &tensors.added), ("Removed", &tensors.removed)] {
        if names.is_empty() {
            continue;
        }
        page.raw("<details><summary>");
        page.text(format_args!("{title}: {}", names.len())).raw("</summary><ul class=\"names\">\n");
        for name in names.iter().take(MOST) {
            page.raw("<li><code>").text(name).raw("</code></li>\n");
        }
        page.raw("</ul>");
        more(page, names.len());
        page.raw("</details>\n");
    }
    if tensors.renamed.is_empty() {
        return;
    }
    page.raw("<details><summary>");
    page.text(format_args!("Renamed: {}", tensors.renamed.len()));
    page.raw("</summary><ul class=\"names\">\n");
    for pair in tensors.renamed.iter().take(MOST) {
        page.raw("<li><code>").text(&pair.a).raw("</code> → <code>").text(&pair.b);
        page.raw(if pair.moved { "</code> (another layer)</li>\n" } else { "</code></li>\n" });
    }
    page.raw("</ul>");
    more(page, tensors.renamed.len());
    page.raw("</details>\n");
}

/// Says that a list goes on.
pub(super) fn more(page: &mut Html, all: usize) {
    if all > MOST {
        let left = grouped((all - MOST) as u64);
        page.element("p", &[], format_args!("… and {left} more; --json has all."));
    }
}
