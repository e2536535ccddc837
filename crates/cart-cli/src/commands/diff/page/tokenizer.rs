//! Both tokenizers.

use cart_merge::diff::LineKind;

use super::MOST;
use super::html::Html;
use super::{facts, weights};
use crate::commands::diff::findings::DiffReport;
use crate::commands::diff::words::of_tokenizer;

pub(super) fn section(page: &mut Html, report: &DiffReport, labels: (&str, &str)) {
    let tokenizer = &report.tokenizer;
    page.raw("<section id=\"tokenizer\" aria-labelledby=\"tokenizer-title\">\n<h2 id=\"tokenizer-title\">Tokenizer</h2>\n");
    if !report.tokenizer_changed {
        if tokenizer.present[0] {
            page.element(
                "p",
                &[],
                format_args!("The same on both sides, {} tokens.", tokenizer.tokens_a),
            );
        } else {
            page.raw("<p>Neither has one.</p>");
        }
        page.raw("</section>\n");
        return;
    }
    page.element(
        "p",
        &[],
        format_args!(
            "Differs: {}. {} tokens in A, {} in B.",
            of_tokenizer(report),
            tokenizer.tokens_a,
            tokenizer.tokens_b
        ),
    );
    for (title, tokens) in
        [("Tokens added", &tokenizer.added), ("Tokens removed", &tokenizer.removed)]
    {
        let items = tokens.iter().map(|one| (format!("{:?}", one.token), one.id.to_string()));
        list(page, title, items);
    }
    let renumbered = tokenizer.renumbered.iter();
    list(
        page,
        "Tokens with another number",
        renumbered.map(|one| (format!("{:?}", one.token), format!("{} → {}", one.a, one.b))),
    );
    for (title, rules) in
        [("Merges added", &tokenizer.merges.added), ("Merges removed", &tokenizer.merges.removed)]
    {
        list(page, title, rules.iter().map(|rule| (rule.clone(), String::new())));
    }
    if tokenizer.merges.reordered {
        page.raw("<p>Merges that both have come in another order.</p>\n");
    }
    if !tokenizer.template.is_empty() {
        page.raw(
            "<details open><summary>Chat template, line by line</summary><pre class=\"lines\">",
        );
        for line in &tokenizer.template {
            match line.kind {
                LineKind::Same => page.element("span", &[], format_args!("  {}", line.text)),
                LineKind::Added => page.element("ins", &[], format_args!("+ {}", line.text)),
                LineKind::Removed => page.element("del", &[], format_args!("- {}", line.text)),
            };
            page.raw("\n");
        }
        page.raw("</pre></details>\n");
    }
    facts::fields(page, "Rules that differ", &tokenizer.fields, labels);
    page.raw("</section>\n");
}

fn list(
    page: &mut Html,
    title: &'static str,
    items: impl ExactSizeIterator<Item = (String, String)>,
) {
    let all = items.len();
    if all == 0 {
        return;
    }
    page.raw("<details><summary>").text(format_args!("{title}: {all}"));
    page.raw("</summary><ul class=\"tokens\">\n");
    for (item, number) in items.take(MOST) {
        page.raw("<li><code>").text(item).raw("</code> ").text(number).raw("</li>\n");
    }
    page.raw("</ul>");
    weights::more(page, all);
    page.raw("</details>\n");
}
