//! Both memories, side by side.

use cart_memory::StoreKind;
use cart_merge::diff::{MemoryDiff, SlotWeights};

use super::MOST;
use super::html::Html;
use super::{facts, weights};
use crate::commands::diff::findings::DiffReport;
use crate::commands::diff::words::{by_text, cosine, figure};

pub(super) fn section(page: &mut Html, report: &DiffReport, labels: (&str, &str)) {
    let memory = &report.memory.diff;
    page.raw("<section id=\"memory\" aria-labelledby=\"memory-title\">\n<h2 id=\"memory-title\">Memory</h2>\n");
    if !report.memory.memory_changed {
        page.element(
            "p",
            &[],
            if memory.b.is_none() { "Neither has a memory." } else { "The same on both sides." },
        );
        page.raw("</section>\n");
        return;
    }
    page.element(
        "p",
        &[],
        format_args!(
            "{} slots the same, {} things learned, {} forgotten, {} in other stores, {} re-weighed.",
            memory.same,
            by_text(&memory.added).len(),
            by_text(&memory.removed).len(),
            memory.moved.len(),
            memory.changed.len()
        ),
    );
    if memory.foreign_space {
        page.raw("<p class=\"warning\">The memories are of two spaces: their vectors can't be compared.</p>\n");
    }
    around(page, memory, labels);
    slots(page, memory, labels);
    links(page, memory, labels);
    facts::fields(page, "Settings that differ", &memory.settings, labels);
    page.raw("</section>\n");
}

/// Goal, surprise and counters.
fn around(page: &mut Html, memory: &MemoryDiff, labels: (&str, &str)) {
    let mut rows: Vec<(String, String, String)> = Vec::new();
    if let Some(goal) = memory.goal {
        let turned =
            goal.degrees.map_or_else(String::new, |angle| format!(" (turned by {angle:.1}°)"));
        rows.push((format!("Goal, length{turned}"), figure(goal.norm_a), figure(goal.norm_b)));
        rows.push((
            "Goal, entries that pulled it".into(),
            goal.steps_a.to_string(),
            goal.steps_b.to_string(),
        ));
    }
    if let (Some(a), Some(b)) = (memory.a, memory.b) {
        rows.push(("Short-term slots".into(), a.stm.to_string(), b.stm.to_string()));
        rows.push(("Long-term slots".into(), a.ltm.to_string(), b.ltm.to_string()));
        rows.push(("Links".into(), a.links.to_string(), b.links.to_string()));
    }
    if let Some(surprise) = memory.surprise {
        let said = |one: cart_memory::SurpriseStatistics| {
            format!("{} ± {} over {}", figure(one.mean), figure(one.variance.sqrt()), one.count)
        };
        rows.push(("Usual surprise, nats".into(), said(surprise.a), said(surprise.b)));
    }
    for one in &memory.counters {
        rows.push((format!("Count: {}", one.name), one.a.to_string(), one.b.to_string()));
    }
    if rows.is_empty() {
        return;
    }
    page.raw("<table class=\"fields\">\n<caption>Around the slots</caption>\n");
    facts::heading(page, "What", labels);
    for (what, a, b) in rows {
        page.raw("<tr>").element("th", &[("scope", &"row")], what);
        page.element("td", &[], a).element("td", &[], b).raw("</tr>\n");
    }
    page.raw("</tbody>\n</table>\n");
}

/// A slot on a side.
struct Side<'m> {
    stores: &'m [StoreKind],
    weights: &'m SlotWeights,
    text: &'m str,
}

fn slots(page: &mut Html, memory: &MemoryDiff, labels: (&str, &str)) {
    let (added, removed) = (by_text(&memory.added), by_text(&memory.removed));
    let mut rows: Vec<(&str, String, Option<Side<'_>>, Option<Side<'_>>)> = Vec::new();
    for (stores, one) in &added {
        let side = Side { stores, weights: &one.weights, text: &one.text };
        rows.push(("learned", String::new(), None, Some(side)));
    }
    for (stores, one) in &removed {
        let side = Side { stores, weights: &one.weights, text: &one.text };
        rows.push(("forgotten", String::new(), Some(side), None));
    }
    for one in &memory.moved {
        let a = Side { stores: &one.from, weights: &one.a, text: &one.text };
        let b = Side { stores: &one.to, weights: &one.b, text: &one.text };
        rows.push(("moved", String::new(), Some(a), Some(b)));
    }
    for one in &memory.changed {
        let a = Side { stores: std::slice::from_ref(&one.store), weights: &one.a, text: &one.text };
        let b = Side { stores: std::slice::from_ref(&one.store), weights: &one.b, text: &one.text };
        let key = one.key_cosine.filter(|cosine| *cosine < 1.0);
        let key = key.map_or_else(String::new, |value| format!("key cosine {}", cosine(value)));
        let what = if one.a == one.b { "other key" } else { "re-weighed" };
        rows.push((what, key, Some(a), Some(b)));
    }
    if rows.is_empty() {
        return;
    }
    let all = rows.len();
    page.raw("<div class=\"scroll tall\" role=\"region\" aria-labelledby=\"memory-title\" tabindex=\"0\">\n<table class=\"slots\">\n<caption>Slots that differ, side by side</caption>\n");
    facts::heading(page, "What became of it", labels);
    for (what, note, a, b) in rows.into_iter().take(MOST) {
        page.open("tr", &[("class", &what)]).raw("<th scope=\"row\"><span class=\"badge\">");
        page.text(what).raw("</span>");
        if !note.is_empty() {
            page.element("small", &[], note);
        }
        page.raw("</th>");
        for side in [a, b] {
            slot(page, side);
        }
        page.raw("</tr>\n");
    }
    page.raw("</tbody>\n</table>\n</div>\n");
    weights::more(page, all);
}

fn slot(page: &mut Html, side: Option<Side<'_>>) {
    let Some(side) = side else {
        page.raw("<td class=\"none\"><span class=\"unseen\">not there</span></td>");
        return;
    };
    let weights = side.weights;
    page.raw("<td><p class=\"text\">").text(side.text.trim()).raw("</p><p class=\"numbers\">");
    for (index, store) in side.stores.iter().enumerate() {
        page.raw(if index > 0 { " and " } else { "" });
        page.raw(match store {
            StoreKind::Stm => "short-term",
            StoreKind::Ltm => "long-term",
        });
    }
    page.text(format_args!(
        ", energy {:.2}, gate {:.2}, seen {}×",
        weights.energy, weights.gate, weights.count
    ));
    if weights.superseded {
        page.raw(", superseded");
    }
    page.raw("</p></td>");
}

fn links(page: &mut Html, memory: &MemoryDiff, (a, b): (&str, &str)) {
    if memory.links.is_empty() {
        return;
    }
    page.raw("<details><summary>");
    page.text(format_args!(
        "Links that differ: {} ({} the same)",
        memory.links.len(),
        memory.links_same
    ));
    page.raw("</summary><table class=\"fields\">\n<thead><tr><th scope=\"col\">From</th><th scope=\"col\">To</th>");
    page.element("th", &[("scope", &"col")], format_args!("Strength in {a}"));
    page.element("th", &[("scope", &"col")], format_args!("Strength in {b}"));
    page.raw("</tr></thead>\n<tbody>\n");
    for link in memory.links.iter().take(MOST) {
        page.raw("<tr>");
        page.element("td", &[("class", &"text")], link.from.trim());
        page.element("td", &[("class", &"text")], link.to.trim());
        for strength in [link.a, link.b] {
            match strength {
                Some(strength) => page.element("td", &[], figure(f64::from(strength))),
                None => page.raw("<td>–</td>"),
            };
        }
        page.raw("</tr>\n");
    }
    page.raw("</tbody>\n</table>");
    weights::more(page, memory.links.len());
    page.raw("</details>\n");
}
