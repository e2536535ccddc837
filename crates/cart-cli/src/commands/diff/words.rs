//! Numbers and findings as people read them, on the terminal and on the page.

use std::collections::BTreeMap;

use cart_engine::BehaviourReport;
use cart_memory::StoreKind;
use cart_merge::diff::{SlotFacts, Total};

use super::findings::DiffReport;
use crate::bytes::{counted, grouped};

/// Three digits: `0.0103`, `12.3`, `4.1e-7`, `1,235`.
pub(super) fn figure(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        return "0".to_owned();
    }
    if !value.is_finite() {
        return value.to_string();
    }
    if !(0.0005..1e6).contains(&size) {
        return format!("{value:.1e}");
    }
    if size >= 999.5 {
        let whole = grouped(size.round() as u64);
        return if value < 0.0 { format!("−{whole}") } else { whole };
    }
    // Rounded first, lest 0.09999 has a digit more than 0.1.
    let rounded: f64 = format!("{size:.2e}").parse().unwrap_or(size);
    let digits = (2.0 - rounded.log10().floor()).clamp(0.0, 5.0) as usize;
    format!("{value:.digits$}")
}

/// `98.1 %`. What is not quite nothing or all does not read as that.
pub(super) fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0 %".to_owned(),
        100.0 => "100 %".to_owned(),
        ..0.05 => "under 0.1 %".to_owned(),
        99.95.. => "over 99.9 %".to_owned(),
        percent => format!("{percent:.1} %"),
    }
}

/// A cosine, with as many digits as tell it from 1.
pub(super) fn cosine(value: f64) -> String {
    let away = 1.0 - value.abs();
    let digits = if away <= 0.0 { 3.0 } else { (2.0 - away.log10().floor()).clamp(3.0, 9.0) };
    format!("{value:.0$}", digits as usize)
}

/// A text on one line.
pub(super) fn one_line(text: &str) -> String {
    let shown = |letter: char| match letter {
        '\n' => '⏎',
        letter if letter.is_control() => '\u{fffd}',
        letter => letter,
    };
    text.trim().chars().map(shown).collect()
}

/// What differs, each finding in a few words, the most important first.
pub(super) fn verdict(report: &DiffReport) -> Vec<String> {
    let mut found = Vec::new();
    if report.architecture_changed {
        found.push("another architecture".to_owned());
    }
    found.push(of_weights(report));
    found.extend(structure(report));
    if report.tokenizer_changed {
        found.push(format!("tokenizer: {}", of_tokenizer(report)));
    }
    found.push(of_memory(report));
    if let Some(answers) = &report.behaviour {
        found.push(format!(
            "{} (KL {} nats, {} same best token)",
            answers.effect,
            figure(answers.report.kl),
            percent(answers.report.top1)
        ));
    }
    found
}

fn of_weights(report: &DiffReport) -> String {
    let changed = report.tensors.changed.len() as u64;
    match &report.weights {
        _ if changed == 0 => "the same weights".to_owned(),
        None => format!("{} with other bytes", counted(changed, "tensor")),
        Some(weights) => match weights.totals.all.relative {
            Some(relative) => {
                format!("weights {} (‖Δ‖/‖W‖ {})", weights.magnitude, figure(relative))
            }
            None => format!("{} that can't be compared by value", counted(changed, "tensor")),
        },
    }
}

fn structure(report: &DiffReport) -> Option<String> {
    let tensors = &report.tensors;
    let parts = [
        (tensors.added.len(), "added"),
        (tensors.removed.len(), "removed"),
        (tensors.renamed.len(), "renamed"),
    ];
    let said: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{} {what}", counted(*count as u64, "tensor")))
        .collect();
    (!said.is_empty()).then(|| said.join(", "))
}

/// What of the tokenizer changed.
pub(super) fn of_tokenizer(report: &DiffReport) -> String {
    let tokenizer = &report.tokenizer;
    match tokenizer.present {
        [false, true] => return "a tokenizer where there was none".to_owned(),
        [true, false] => return "no tokenizer any more".to_owned(),
        _ => {}
    }
    let merges = tokenizer.merges.added.len() + tokenizer.merges.removed.len();
    let parts = [
        (tokenizer.added.len(), "token", " added"),
        (tokenizer.removed.len(), "token", " removed"),
        (tokenizer.renumbered.len(), "token", " renumbered"),
        (merges, "merge", " changed"),
        (tokenizer.fields.len(), "rule", " changed"),
    ];
    let mut said: Vec<String> = parts
        .iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, noun, what)| format!("{}{what}", counted(*count as u64, noun)))
        .collect();
    if tokenizer.merges.reordered {
        said.push("merges in another order".to_owned());
    }
    if !tokenizer.template.is_empty() {
        said.push("another chat template".to_owned());
    }
    if said.is_empty() {
        said.push("other bytes that say the same".to_owned());
    }
    said.join(", ")
}

fn of_memory(report: &DiffReport) -> String {
    let memory = &report.memory.diff;
    if !report.memory.memory_changed {
        return match memory.b {
            None => "no memory on either side".to_owned(),
            Some(_) => "the same memory".to_owned(),
        };
    }
    let parts = [
        (by_text(&memory.added).len(), "learned"),
        (by_text(&memory.removed).len(), "forgotten"),
        (memory.moved.len(), "moved"),
        (memory.changed.len(), "re-weighed"),
    ];
    let said: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{} {what}", grouped(*count as u64)))
        .collect();
    if said.is_empty() {
        "memory changed, no slot of it".to_owned()
    } else {
        format!("memory: {}", said.join(", "))
    }
}

/// Slots that say the same, as one: where they are, and the first of them.
pub(super) fn by_text(slots: &[SlotFacts]) -> Vec<(Vec<StoreKind>, &SlotFacts)> {
    let mut found: Vec<(Vec<StoreKind>, &SlotFacts)> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for slot in slots {
        // What has no text is a thing by itself.
        let known = places.get(slot.text.as_str()).filter(|_| !slot.text.is_empty());
        if let Some(&at) = known {
            found[at].0.push(slot.store);
        } else {
            places.insert(&slot.text, found.len());
            found.push((vec![slot.store], slot));
        }
    }
    found
}

/// Perplexities and where texts part.
pub(super) fn of_answers(answers: &BehaviourReport) -> String {
    let mut said = Vec::new();
    if let (Some(a), Some(b)) = (answers.perplexity_a, answers.perplexity_b) {
        said.push(format!("perplexity {} → {}", figure(a), figure(b)));
    }
    said.push(match answers.median_divergence {
        None => "all generated texts are the same".to_owned(),
        Some(after) => format!(
            "{} of {} generated texts part, after {} tokens (median)",
            answers.prompts.len() - answers.same_texts,
            answers.prompts.len(),
            // A middle between two counts may be a half.
            after
        ),
    });
    said.join("; ")
}

/// How much of something changed, for a line.
pub(super) fn of_total(total: &Total) -> String {
    let mut said =
        vec![format!("{} of {} elements", percent(total.share()), grouped(total.elements))];
    if let Some(relative) = total.relative {
        said.push(format!("‖Δ‖/‖W‖ {}", figure(relative)));
        said.push(format!("max |Δ| {}", figure(total.max_abs)));
    }
    said.extend(total.cosine.map(|value| format!("cosine {}", cosine(value))));
    said.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let of = [0.0, 0.010_34, 0.099_99, 12.34, 1234.5, 4.123e-7, -0.5, 2e9].map(figure);
        assert_eq!(of, ["0", "0.0103", "0.100", "12.3", "1,235", "4.1e-7", "-0.500", "2.0e9"]);
        assert_eq!(
            [0.0, 1e-5, 0.5, 0.99999, 1.0].map(percent),
            ["0 %", "under 0.1 %", "50.0 %", "over 99.9 %", "100 %"]
        );
        assert_eq!([1.0, 0.999_987_6, 0.5].map(cosine), ["1.000", "0.9999876", "0.500"]);
        assert_eq!(one_line(" a\nb\u{1b}[0m "), "a⏎b\u{fffd}[0m");
    }
}
