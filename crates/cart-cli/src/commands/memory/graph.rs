//! `cart memory graph`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use cart_memory::config::GraphRules;
use cart_memory::{Link, StoreKind, UnifiedMemory};
use clap::Args;
use serde::Serialize;

use super::remembered::{Remembered, one_line, say_nothing, store_name};
use crate::context::Context;
use crate::failure::Failure;
use crate::report;
use crate::table::Table;

/// Most characters of a text in a drawing.
const LABEL: usize = 40;

/// Show which memories lead to which.
///
/// Links run from what was active to what was active right after it; the strongest come first. --dot prints them for
/// Graphviz: `cart memory graph REF --dot | dot -Tsvg > graph.svg`. No model is loaded.
#[derive(Args)]
#[command(after_help = "Examples:
  cart memory graph smol:told
  cart memory graph smol:told --dot
  cart --json memory graph smol:told")]
pub(crate) struct GraphArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// Print Graphviz text
    #[arg(long)]
    dot: bool,
}

#[derive(Serialize)]
struct GraphReport {
    manifest: String,
    memory_id: Option<String>,
    /// The rules by which links are made; none where the memory keeps no graph.
    rules: Option<GraphRules>,
    /// The slots that have links, in order of id.
    slots: Vec<NodeRow>,
    /// Strongest first.
    links: Vec<LinkRow>,
}

#[derive(Serialize)]
pub(super) struct NodeRow {
    pub(super) store: &'static str,
    pub(super) slot: u64,
    energy: f32,
    pub(super) text: String,
}

impl NodeRow {
    /// Its store.
    pub(super) fn kind(&self) -> StoreKind {
        if self.store == store_name(StoreKind::Ltm) { StoreKind::Ltm } else { StoreKind::Stm }
    }
}

#[derive(Serialize)]
pub(super) struct LinkRow {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) strength: f32,
}

pub(crate) fn run(context: &Context, args: &GraphArgs) -> Result<(), Failure> {
    if args.dot && context.json {
        return Err(Failure::arguments("--dot and --json are two forms of one output; give one"));
    }
    let found = Remembered::open(context, &args.reference)?;
    let (slots, links) = found.memory.as_ref().map(parts).unwrap_or_default();
    let body = GraphReport {
        manifest: found.manifest.hex(),
        memory_id: found.id(),
        rules: found.memory.as_ref().and_then(|memory| memory.config().graph),
        slots,
        links,
    };
    if context.json {
        return report::print("memory-graph", &body);
    }
    if args.dot {
        return report::stdout(dot(&body.slots, &body.links).as_bytes());
    }
    match (found.memory, body.rules) {
        (None, _) => say_nothing(),
        (_, None) => report::line("this memory keeps no graph: `graph` is not set in its settings"),
        _ if body.links.is_empty() => report::line("no links yet"),
        _ => report::stdout(table(&body).as_bytes()),
    }
}

/// The slots that have links, in order of id, and the links, strongest first.
pub(super) fn parts(memory: &UnifiedMemory) -> (Vec<NodeRow>, Vec<LinkRow>) {
    let mut links: Vec<Link> = memory.links().collect();
    links.sort_by(|a, b| {
        b.strength.total_cmp(&a.strength).then((a.from, a.to).cmp(&(b.from, b.to)))
    });
    let linked = |id| links.iter().any(|link| link.from == id || link.to == id);
    let mut nodes: Vec<NodeRow> = memory
        .slots()
        .filter(|(at, _)| linked(at.id))
        .map(|(at, slot)| NodeRow {
            store: store_name(at.store),
            slot: at.id.number(),
            energy: slot.energy,
            text: slot.value.text.clone(),
        })
        .collect();
    nodes.sort_by_key(|node| node.slot);
    let row = |link: Link| LinkRow {
        from: link.from.number(),
        to: link.to.number(),
        strength: link.strength,
    };
    (nodes, links.into_iter().map(row).collect())
}

fn table(body: &GraphReport) -> String {
    let texts: BTreeMap<u64, &str> =
        body.slots.iter().map(|node| (node.slot, node.text.as_str())).collect();
    let text = |slot| one_line(texts.get(&slot).copied().unwrap_or_default());
    let mut table = Table::new(&[">STRENGTH", ">FROM", "TEXT", ">TO", "TEXT"]);
    for link in &body.links {
        table.row([
            format!("{:.3}", link.strength),
            link.from.to_string(),
            text(link.from),
            link.to.to_string(),
            text(link.to),
        ]);
    }
    table.render()
}

/// The graph in Graphviz's language; a stronger link is a thicker line.
fn dot(nodes: &[NodeRow], links: &[LinkRow]) -> String {
    let mut text = String::from("digraph memory {\n  node [shape=box];\n");
    for node in nodes {
        let style = if node.store == "ltm" { ", style=bold" } else { "" };
        let _ = writeln!(text, "  {} [label=\"{}\"{style}];", node.slot, label(&node.text));
    }
    for LinkRow { from, to, strength } in links {
        let width = 0.5 + 4.0 * strength;
        let _ = writeln!(
            text,
            "  {from} -> {to} [label=\"{strength:.3}\", weight={:.0}, penwidth={width:.2}];",
            (strength * 100.0).max(1.0),
        );
    }
    text + "}\n"
}

/// A text between double quotes: the first characters, with quotes, backslashes and control characters made harmless.
fn label(text: &str) -> String {
    let text = text.trim();
    let mut label = String::new();
    for char in text.chars().take(LABEL) {
        match char {
            '"' | '\\' => label.extend(['\\', char]),
            char if char.is_control() => label.push(' '),
            char => label.push(char),
        }
    }
    if text.chars().count() > LABEL {
        label.push('…');
    }
    label
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_can_be_read_by_graphviz() {
        let node =
            |store, slot, text: &str| NodeRow { store, slot, energy: 0.5, text: text.to_owned() };
        let nodes = [node("stm", 1, "he said \"no\\yes\"\nthen"), node("ltm", 2, &"x".repeat(50))];
        let links = [LinkRow { from: 1, to: 2, strength: 0.25 }];
        let drawn = dot(&nodes, &links);
        let expected = format!(
            "digraph memory {{\n  node [shape=box];\n  1 [label=\"he said \\\"no\\\\yes\\\" then\"];\n  \
             2 [label=\"{}…\", style=bold];\n  1 -> 2 [label=\"0.250\", weight=25, penwidth=1.50];\n}}\n",
            "x".repeat(40)
        );
        assert_eq!(drawn, expected);
    }
}
