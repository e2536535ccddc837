//! What both answer.

use cart_engine::PromptBehaviour;

use super::html::Html;
use crate::commands::diff::answers::PromptsFrom;
use crate::commands::diff::findings::DiffReport;
use crate::commands::diff::words::{figure, of_answers, percent};

pub(super) fn section(page: &mut Html, report: &DiffReport, labels: (&str, &str)) {
    let Some(answers) = &report.behaviour else { return };
    let all = &answers.report;
    page.raw("<section id=\"behaviour\" aria-labelledby=\"behaviour-title\">\n<h2 id=\"behaviour-title\">Behaviour</h2>\n");
    let from = match answers.prompts_from {
        PromptsFrom::File => "of a file",
        PromptsFrom::Probes => "of the cartridges' probes",
        PromptsFrom::BuiltIn => "that cart brings along",
    };
    page.element(
        "p",
        &[],
        format_args!(
            "On {} prompts {from}: {}. The best next token is the same for {} of {} predictions. KL divergence {} nats (of B from A; {} of A from B; at most {}).",
            all.prompts.len(),
            of_answers(all),
            percent(all.top1),
            all.predictions,
            figure(all.kl),
            figure(all.kl_reverse),
            figure(all.kl_max)
        ),
    );
    page.raw("<div class=\"scroll\" role=\"region\" aria-labelledby=\"behaviour-title\" tabindex=\"0\">\n<table class=\"answers\">\n<caption>Prompt by prompt; what differs in a text is marked.</caption>\n<thead><tr><th scope=\"col\">Prompt</th><th scope=\"col\">KL, nats</th><th scope=\"col\">Best token same</th>");
    page.element("th", &[("scope", &"col")], format_args!("{} goes on", labels.0));
    page.element("th", &[("scope", &"col")], format_args!("{} goes on", labels.1));
    page.raw("</tr></thead>\n<tbody>\n");
    let largest = all.prompts.iter().map(|one| one.kl).fold(0.0, f64::max);
    for one in &all.prompts {
        row(page, one, largest);
    }
    page.raw("</tbody>\n</table>\n</div>\n</section>\n");
}

fn row(page: &mut Html, one: &PromptBehaviour, largest: f64) {
    page.raw("<tr>").element("th", &[("scope", &"row"), ("class", &"text")], &one.prompt);
    let share = if largest > 0.0 { one.kl / largest } else { 0.0 };
    page.element(
        "td",
        &[("class", &"meter"), ("style", &format!("--v:{share:.3}"))],
        figure(one.kl),
    );
    page.element("td", &[], percent(one.top1_agrees as f64 / one.tokens as f64));
    let common: usize = one
        .text_a
        .chars()
        .zip(one.text_b.chars())
        .take_while(|(a, b)| a == b)
        .map(|(letter, _)| letter.len_utf8())
        .sum();
    for text in [&one.text_a, &one.text_b] {
        let (same, other) = text.split_at(common);
        page.raw("<td class=\"text\">").text(same);
        if !other.is_empty() {
            page.element("mark", &[], other);
        }
        page.raw("</td>");
    }
    page.raw("</tr>\n");
}
