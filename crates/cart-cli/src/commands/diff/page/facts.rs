//! Documents field by field, and what the figures of the page mean.

use cart_merge::diff::FieldChange;
use serde_json::Value;

use super::html::Html;
use crate::commands::diff::findings::DiffReport;
use crate::commands::inspect::session_line;

pub(super) fn section(page: &mut Html, report: &DiffReport, labels: (&str, &str)) {
    page.raw("<section id=\"facts\" aria-labelledby=\"facts-title\">\n<h2 id=\"facts-title\">Architecture and metadata</h2>\n");
    if report.architecture.is_empty() && report.metadata.is_empty() {
        page.raw("<p>The same on both sides.</p>\n");
    }
    fields(page, "Architecture", &report.architecture, labels);
    fields(page, "Metadata", &report.metadata, labels);
    if report.session.changed {
        let [a, b] = [&report.session.a, &report.session.b].map(|side| session_line(side.as_ref()));
        page.element("p", &[], format_args!("Saved session: {a} → {b}."));
    }
    page.raw("</section>\n");
}

/// The head of a table with a column for each side; its body is open afterwards.
pub(super) fn heading(page: &mut Html, what: &'static str, (a, b): (&str, &str)) {
    page.raw("<thead><tr>").element("th", &[("scope", &"col")], what);
    page.element("th", &[("scope", &"col")], a).element("th", &[("scope", &"col")], b);
    page.raw("</tr></thead>\n<tbody>\n");
}

/// A table of fields that differ, if there are any.
pub(super) fn fields(
    page: &mut Html,
    caption: &'static str,
    changes: &[FieldChange],
    labels: (&str, &str),
) {
    if changes.is_empty() {
        return;
    }
    page.raw("<table class=\"fields\">\n").element("caption", &[], caption).raw("\n");
    heading(page, "Field", labels);
    for change in changes {
        page.raw("<tr>").element("th", &[("scope", &"row")], &change.field);
        for value in [&change.a, &change.b] {
            match value {
                None => page.raw("<td class=\"none\">absent</td>"),
                Some(Value::String(text)) => page.element("td", &[("class", &"text")], text),
                Some(value) => page.element("td", &[("class", &"text")], value),
            };
        }
        page.raw("</tr>\n");
    }
    page.raw("</tbody>\n</table>\n");
}

/// What the figures mean.
pub(super) fn definitions(page: &mut Html) {
    page.raw(
        "<section id=\"terms\" aria-labelledby=\"terms-title\">\n<h2 id=\"terms-title\">What the figures mean</h2>\n<dl class=\"terms\">
<div><dt>Δ</dt><dd>B − A, element by element, of tensors whose digests differ.</dd></div>
<div><dt>‖Δ‖/‖W‖</dt><dd>The length of the change relative to that of A's weights (Frobenius). Rounding to bf16 makes 0.0017, quantizing to 8 bits about 0.005. Up to 0.002 is called as little as by rounding, up to 0.02 slight, up to 0.2 clear, more strong. Of several tensors: over those that differ.</dd></div>
<div><dt>Changed</dt><dd>The share of elements whose value is another.</dd></div>
<div><dt>Rank</dt><dd>The effective rank of Δ, (Σσ²)²/Σσ⁴ over its singular values: 1 for a change in a single direction, mn/(m+n) for noise in m rows and n columns. Estimated from 64 random combinations of rows where there are more.</dd></div>
<div><dt>KL</dt><dd>How much worse B's predictions are if A's are true, in nats a token, over all tokens of the prompts; weights alone, without memory. Up to 0.001 is called as good as the same, up to 0.03 slight, up to 0.3 clear, more strong.</dd></div>
<div><dt>Energy, gate</dt><dd>What a slot of memory is worth: σ(gate) · energy.</dd></div>
</dl>\n</section>\n",
    );
}
