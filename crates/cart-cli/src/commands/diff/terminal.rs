//! What differs, on a terminal: the answer first, then where and how much.

use anstyle::{AnsiColor, Style};
use cart_memory::StoreKind;
use cart_merge::diff::{FieldChange, LineKind, MemoryDiff, RollUp, SlotFacts, SlotWeights};
use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

use super::findings::{Changed, DiffReport, Weights};
use super::words::{by_text, cosine, figure, of_answers, of_total, one_line, percent, verdict};
use crate::bytes::human;
use crate::commands::inspect::session_line;

/// Marks from nothing to the most.
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Marks of a bar's last part.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
/// Marks of a full bar.
const BAR: f64 = 24.0;

const STRONG: Style = Style::new().bold();
const ADDED: Style = AnsiColor::Green.on_default();
const REMOVED: Style = AnsiColor::Red.on_default();
const CHANGED: Style = AnsiColor::Yellow.on_default();
const SHAPE: Style = AnsiColor::Cyan.on_default();

/// A report as lines, with colours.
///
/// * `limit`: entries of a list
pub(super) fn render(body: &DiffReport, (a, b): (&str, &str), limit: usize) -> String {
    if body.identical {
        return format!("identical: {a} and {b} are sha256:{}\n", body.a);
    }
    let mut out = Lines { text: String::new(), limit };
    out.line(format!(
        "{a} → {b}: {} shared, {} only in {a}, {} only in {b}",
        human(body.shared_bytes),
        human(body.only_a_bytes),
        human(body.only_b_bytes)
    ));
    out.line(format!("{STRONG}in short{STRONG:#}   {}", verdict(body).join("; ")));
    tensors(body, &mut out);
    if let Some(weights) = &body.weights {
        where_weights_moved(weights, &mut out);
    }
    if body.architecture_changed {
        out.line("architecture changed".to_owned());
        out.fields(&body.architecture);
    }
    tokenizer(body, &mut out);
    if !body.metadata.is_empty() {
        out.line("metadata   changed".to_owned());
        out.fields(&body.metadata);
    }
    memory(&body.memory.diff, &mut out);
    if body.session.changed {
        let [a, b] = [&body.session.a, &body.session.b].map(|side| session_line(side.as_ref()));
        out.line(format!("session    {a} → {b}"));
    }
    answers(body, &mut out);
    out.text
}

fn tensors(body: &DiffReport, out: &mut Lines) {
    let tensors = &body.tensors;
    out.line(format!(
        "tensors    {} same, {} changed, {} added, {} removed, {} renamed",
        tensors.same,
        tensors.changed.len(),
        tensors.added.len(),
        tensors.removed.len(),
        tensors.renamed.len()
    ));
    let width = tensors.changed.iter().take(out.limit).map(|one| one.name.width()).max();
    out.list(tensors.changed.iter().map(|change| changed(change, width.unwrap_or(0))));
    out.list(tensors.added.iter().map(|name| format!("{ADDED}+{ADDED:#} {name}")));
    out.list(tensors.removed.iter().map(|name| format!("{REMOVED}-{REMOVED:#} {name}")));
    out.list(tensors.renamed.iter().map(|pair| format!("> {} → {}", pair.a, pair.b)));
}

fn changed(change: &Changed, width: usize) -> String {
    let padding = " ".repeat(width.saturating_sub(change.name.width()));
    let mut said = vec![format!("{CHANGED}~{CHANGED:#} {}{padding}", change.name)];
    if change.a != change.b {
        said.push(format!("{} → {}", change.a, change.b));
    }
    let Some(numbers) = &change.numbers else {
        if change.a == change.b {
            said.push(change.a.clone());
        }
        said.extend(
            change.share().map(|share| format!("{} in blocks that differ", percent(share))),
        );
        return said.join("  ");
    };
    said.extend(numbers.relative.map(|relative| format!("‖Δ‖/‖W‖ {:<7}", figure(relative))));
    said.push(format!("max |Δ| {:<7}", figure(numbers.max_abs)));
    said.extend(change.share().map(|share| format!("{} changed", percent(share))));
    said.extend(numbers.rank.map(|rank| format!("rank {}", figure(rank))));
    said.join("  ")
}

fn where_weights_moved(weights: &Weights, out: &mut Lines) {
    let totals = &weights.totals;
    if totals.all.differing == 0 {
        return;
    }
    out.line(format!("weights    {}", of_total(&totals.all)));
    if weights.not_finite != [0, 0] {
        let [a, b] = weights.not_finite;
        out.line(format!(
            "           {REMOVED}elements that are infinite or no number: {a} in A, {b} in B{REMOVED:#}"
        ));
    }
    layers(totals, out);
    modules(totals, out);
}

/// A mark for each layer, as high as it moved.
fn layers(totals: &RollUp, out: &mut Lines) {
    let moved = |layer: &cart_merge::diff::LayerTotal| layer.total.relative.unwrap_or(0.0);
    let Some(most) = totals.layers.iter().max_by(|a, b| moved(a).total_cmp(&moved(b))) else {
        return;
    };
    let (Some(first), Some(last)) = (totals.layers.first(), totals.layers.last()) else { return };
    let largest = moved(most);
    if largest == 0.0 || first.layer == last.layer {
        return;
    }
    let mark = |layer| match moved(layer) / largest {
        0.0 => '·',
        share => LEVELS[((share * 8.0).ceil() as usize).clamp(1, 8) - 1],
    };
    let marks: String = totals.layers.iter().map(mark).collect();
    out.line(format!(
        "  layers   {} {SHAPE}{marks}{SHAPE:#} {}  most in layer {}: {}",
        first.layer,
        last.layer,
        most.layer,
        figure(largest)
    ));
}

/// A bar for each module.
fn modules(totals: &RollUp, out: &mut Lines) {
    let moved = totals.modules.iter().filter_map(|one| Some((one, one.total.relative?)));
    let mut moved: Vec<_> = moved.filter(|(_, relative)| *relative > 0.0).collect();
    if totals.modules.len() < 2 || moved.is_empty() {
        return;
    }
    moved.sort_by(|a, b| b.1.total_cmp(&a.1));
    let largest = moved[0].1;
    for (index, (one, relative)) in moved.iter().enumerate() {
        let eighths = (relative / largest * BAR * 8.0).round().max(1.0) as usize;
        let bar = format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8]);
        let title = if index == 0 { "modules" } else { "" };
        out.line(format!(
            "  {title:8} {:13} {:<8} {SHAPE}{bar}{SHAPE:#}",
            one.module.title(),
            figure(*relative)
        ));
    }
    let quiet = totals.modules.iter().filter(|one| one.total.differing == 0);
    let quiet: Vec<&str> = quiet.map(|one| one.module.title()).collect();
    if !quiet.is_empty() {
        out.line(format!("           the same: {}", quiet.join(", ")));
    }
}

fn tokenizer(body: &DiffReport, out: &mut Lines) {
    if !body.tokenizer_changed {
        return;
    }
    let tokenizer = &body.tokenizer;
    out.line(format!(
        "tokenizer  {} → {} tokens: {} added, {} removed, {} renumbered; {} merges added, {} removed",
        tokenizer.tokens_a,
        tokenizer.tokens_b,
        tokenizer.added.len(),
        tokenizer.removed.len(),
        tokenizer.renumbered.len(),
        tokenizer.merges.added.len(),
        tokenizer.merges.removed.len()
    ));
    let token = |one: &cart_merge::diff::TokenChange| format!("{:?} {}", one.token, one.id);
    out.list(tokenizer.added.iter().map(|one| format!("{ADDED}+{ADDED:#} {}", token(one))));
    out.list(tokenizer.removed.iter().map(|one| format!("{REMOVED}-{REMOVED:#} {}", token(one))));
    out.list(
        tokenizer
            .renumbered
            .iter()
            .map(|one| format!("{CHANGED}~{CHANGED:#} {:?} {} → {}", one.token, one.a, one.b)),
    );
    out.fields(&tokenizer.fields);
    let moved: Vec<_> =
        tokenizer.template.iter().filter(|line| line.kind != LineKind::Same).collect();
    if !moved.is_empty() {
        out.line("  chat template".to_owned());
    }
    out.list(moved.iter().map(|line| match line.kind {
        LineKind::Added => format!("  {ADDED}+ {}{ADDED:#}", one_line(&line.text)),
        _ => format!("  {REMOVED}- {}{REMOVED:#}", one_line(&line.text)),
    }));
}

fn memory(memory: &MemoryDiff, out: &mut Lines) {
    let (added, removed) = (by_text(&memory.added), by_text(&memory.removed));
    out.line(format!(
        "memory     {} same, {} learned, {} forgotten, {} moved, {} re-weighed",
        memory.same,
        added.len(),
        removed.len(),
        memory.moved.len(),
        memory.changed.len()
    ));
    if memory.foreign_space {
        out.line("           of two spaces: their vectors can't be compared".to_owned());
    }
    let slot = |(places, one): &(Vec<StoreKind>, &SlotFacts)| {
        format!("{} {:.2}  {}", stores(places), one.weights.energy, one_line(&one.text))
    };
    out.list(added.iter().map(|one| format!("{ADDED}+{ADDED:#} {}", slot(one))));
    out.list(removed.iter().map(|one| format!("{REMOVED}-{REMOVED:#} {}", slot(one))));
    out.list(memory.moved.iter().map(|one| {
        let (from, to) = (stores(&one.from), stores(&one.to));
        format!("> {from} → {to} {}  {}", weighed(&one.a, &one.b), one_line(&one.text))
    }));
    out.list(memory.changed.iter().map(|one| {
        let turned = one.key_cosine.filter(|cosine| *cosine < 1.0);
        let turned =
            turned.map_or_else(String::new, |value| format!(", key cosine {}", cosine(value)));
        let (store, text) = (store(one.store), one_line(&one.text));
        format!("{CHANGED}~{CHANGED:#} {store} {}{turned}  {text}", weighed(&one.a, &one.b))
    }));
    around(memory, out);
}

/// Goal, links, surprise, counters, settings.
fn around(memory: &MemoryDiff, out: &mut Lines) {
    if let Some(goal) = memory.goal {
        if let Some(degrees) = goal.degrees.filter(|degrees| *degrees > 0.05) {
            out.line(format!("           the goal turned by {degrees:.1}°"));
        } else if goal.norm_a != goal.norm_b {
            let lengths = (figure(goal.norm_a), figure(goal.norm_b));
            out.line(format!("           the goal's length {} → {}", lengths.0, lengths.1));
        }
    }
    if !memory.links.is_empty() {
        let only = |side: fn(&cart_merge::diff::LinkChange) -> bool| {
            memory.links.iter().filter(|link| side(link)).count()
        };
        let (new, gone) = (only(|link| link.a.is_none()), only(|link| link.b.is_none()));
        let moved = memory.links.len() - new - gone;
        out.line(format!(
            "           links: {} same, {new} new, {gone} gone, {moved} of other strength",
            memory.links_same
        ));
    }
    if let Some(surprise) = memory.surprise {
        let (a, b) = (surprise.a, surprise.b);
        out.line(format!(
            "           usual surprise {} → {} nats over {} → {} observations",
            figure(a.mean),
            figure(b.mean),
            a.count,
            b.count
        ));
    }
    if !memory.counters.is_empty() {
        let counters =
            memory.counters.iter().map(|one| format!("{} {} → {}", one.name, one.a, one.b));
        out.line(format!("           {}", counters.collect::<Vec<_>>().join(", ")));
    }
    out.fields(&memory.settings);
}

fn answers(body: &DiffReport, out: &mut Lines) {
    let Some(answers) = &body.behaviour else { return };
    let report = &answers.report;
    out.line(format!(
        "behaviour  KL(A‖B) {} nats (B‖A {}, at most {}) over {} predictions; best token the same at {}",
        figure(report.kl),
        figure(report.kl_reverse),
        figure(report.kl_max),
        report.predictions,
        percent(report.top1)
    ));
    out.line(format!("           {}", of_answers(report)));
    out.list(report.prompts.iter().map(|one| {
        let parted = match one.diverges_at {
            None => format!("the same {} tokens", one.steps),
            Some(at) => format!("parts after {at}"),
        };
        format!("KL {:<7} {parted:18} {:?}", figure(one.kl), one_line(&one.prompt))
    }));
}

/// Where something is remembered.
fn stores(of: &[StoreKind]) -> String {
    of.iter().map(|one| store(*one)).collect::<Vec<_>>().join(" and ")
}

/// How a store is called.
fn store(store: StoreKind) -> &'static str {
    match store {
        StoreKind::Stm => "stm",
        StoreKind::Ltm => "ltm",
    }
}

/// What moved of a slot's numbers.
fn weighed(a: &SlotWeights, b: &SlotWeights) -> String {
    let mut said = vec![if a.energy == b.energy {
        format!("{:.2}", a.energy)
    } else {
        format!("{:.2} → {:.2}", a.energy, b.energy)
    }];
    if a.gate != b.gate {
        said.push(format!("gate {:.2} → {:.2}", a.gate, b.gate));
    }
    if a.count != b.count {
        said.push(format!("count {} → {}", a.count, b.count));
    }
    if a.superseded != b.superseded {
        said.push(if b.superseded { "superseded" } else { "holds again" }.to_owned());
    }
    said.join(", ")
}

struct Lines {
    text: String,
    limit: usize,
}

impl Lines {
    fn line(&mut self, line: String) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn list(&mut self, items: impl ExactSizeIterator<Item = String>) {
        let left = items.len().saturating_sub(self.limit);
        for item in items.take(self.limit) {
            self.line(format!("  {item}"));
        }
        if left > 0 {
            self.line(format!("  … and {left} more (--all lists them)"));
        }
    }

    fn fields(&mut self, changes: &[FieldChange]) {
        let show = |value: &Option<Value>| {
            value.as_ref().map_or_else(|| "absent".to_owned(), |value| one_line(&value.to_string()))
        };
        self.list(changes.iter().map(|change| {
            let field = one_line(&change.field);
            format!("{CHANGED}~{CHANGED:#} {field}: {} → {}", show(&change.a), show(&change.b))
        }));
    }
}
