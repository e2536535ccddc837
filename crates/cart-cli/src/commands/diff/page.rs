//! What differs, as one page for a browser: no network, no data beside it.

mod answers;
mod facts;
mod html;
mod memory;
mod tokenizer;
mod weights;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::findings::DiffReport;
use super::words::verdict;
use crate::bytes::human;
use crate::failure::Failure;
use html::Html;

const STYLE: &str = include_str!("../../../assets/diff.css");
const SCRIPT: &str = include_str!("../../../assets/diff.js");

/// Entries of a list on the page.
const MOST: usize = 500;

/// The page was not written.
#[derive(Debug, Error)]
#[error("{} can't be written: {source}", path.display())]
struct PageError {
    path: PathBuf,
    source: std::io::Error,
}

/// Writes the page, whole or not at all; gives its bytes.
pub(super) fn write(
    path: &Path,
    report: &DiffReport,
    labels: (&str, &str),
) -> Result<u64, Failure> {
    let page = render(report, labels);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let written = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(".cart-diff-")
            .tempfile_in(folder.unwrap_or_else(|| Path::new(".")))?;
        file.write_all(page.as_bytes())?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        }
        file.persist(path)?;
        Ok(())
    };
    written().map_err(|source| Failure::refused(PageError { path: path.to_owned(), source }))?;
    Ok(page.len() as u64)
}

fn render(report: &DiffReport, (a, b): (&str, &str)) -> String {
    let mut page = Html::default();
    page.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    page.raw("<meta name=\"color-scheme\" content=\"light dark\">\n");
    page.raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n");
    page.element("title", &[], format_args!("{a} → {b}: what differs"));
    page.raw("\n<style>\n").raw(STYLE).raw("</style>\n</head>\n<body>\n");
    page.raw("<a class=\"skip\" href=\"#main\">To the findings</a>\n");
    head(&mut page, report, (a, b));
    page.raw("<main id=\"main\">\n");
    if !report.identical {
        weights::section(&mut page, report);
        answers::section(&mut page, report, (a, b));
        memory::section(&mut page, report, (a, b));
        tokenizer::section(&mut page, report, (a, b));
        facts::section(&mut page, report, (a, b));
    }
    facts::definitions(&mut page);
    page.raw("</main>\n<script>\n").raw(SCRIPT).raw("</script>\n</body>\n</html>\n");
    page.finish()
}

/// Names, ids, the answer in short, and where to go.
fn head(page: &mut Html, report: &DiffReport, (a, b): (&str, &str)) {
    page.raw("<header>\n<p class=\"kind\">cart diff</p>\n<h1>");
    page.element("span", &[], a).raw(" <span class=\"arrow\" aria-label=\"to\">→</span> ");
    page.element("span", &[], b).raw("</h1>\n");
    page.raw("<button type=\"button\" id=\"theme\" hidden>Theme: as the system</button>\n");
    page.raw("<ul class=\"verdict\">\n");
    if report.identical {
        page.element("li", &[], "Identical: the same content under one id.");
    } else {
        for finding in verdict(report) {
            page.element("li", &[], finding).raw("\n");
        }
    }
    page.raw("</ul>\n<dl class=\"ids\">\n");
    for (label, id) in [(a, &report.a), (b, &report.b)] {
        page.raw("<div>").element("dt", &[], label).raw("<dd><code>");
        page.text(format_args!("sha256:{id}")).raw("</code></dd></div>\n");
    }
    page.raw("<div><dt>Bytes</dt>");
    page.element(
        "dd",
        &[],
        format_args!(
            "{} shared, {} only in {a}, {} only in {b}",
            human(report.shared_bytes),
            human(report.only_a_bytes),
            human(report.only_b_bytes)
        ),
    );
    page.raw("</div>\n</dl>\n");
    if !report.identical {
        page.raw("<nav aria-label=\"Sections\"><ul>\n");
        let mut sections = vec![("#weights", "Weights")];
        if report.behaviour.is_some() {
            sections.push(("#behaviour", "Behaviour"));
        }
        sections.extend([
            ("#memory", "Memory"),
            ("#tokenizer", "Tokenizer"),
            ("#facts", "Architecture and metadata"),
        ]);
        for (place, title) in sections {
            page.raw("<li>").element("a", &[("href", &place)], title).raw("</li>\n");
        }
        page.raw("</ul></nav>\n");
    }
    page.raw("</header>\n");
}
