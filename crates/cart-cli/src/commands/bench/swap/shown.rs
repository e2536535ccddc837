//! The report, for people.

use std::fmt::Write as _;

use super::SwapBenchReport;
use crate::bytes::{counted, human};
use crate::table::Table;

pub(super) fn render(report: &SwapBenchReport) -> String {
    let (streams, swaps) = (&report.streams, &report.swaps);
    let mut text = String::new();
    for row in &report.cartridges {
        let family = row.family.as_deref().unwrap_or("no architecture");
        let _ = writeln!(text, "{}  {family}, sha256:{}", row.name, row.manifest.short());
    }
    let _ = writeln!(
        text,
        "{} in {:.1} s, {} at once, {}",
        counted(streams.asked as u64, "stream"),
        report.seconds,
        report.at_once,
        counted(report.tokens_generated, "token"),
    );
    let _ = writeln!(
        text,
        "streams  {} finished ({} of them moved), {} ended as asked, {} whose client went away",
        streams.finished, streams.moved, streams.aborted, streams.vanished,
    );
    let _ = writeln!(
        text,
        "         {} dropped, {} garbled, {} stale",
        streams.dropped, streams.garbled, streams.stale,
    );
    let _ = writeln!(
        text,
        "swaps    {} of {} done ({} rolled back), {} refused as they had to be, {} wrong",
        swaps.done, swaps.asked, swaps.rolled_back, swaps.refused, swaps.wrong,
    );
    let mut table = Table::new(&["MODE", ">SWAPS", ">PAUSE P50", ">P99", ">MOST"]);
    for row in &report.modes {
        let ms = |value: f64| format!("{value:.3} ms");
        table.row([
            row.mode.to_owned(),
            row.swaps.to_string(),
            ms(row.pause_p50_ms),
            ms(row.pause_p99_ms),
            ms(row.pause_max_ms),
        ]);
    }
    text += &table.render();
    let peak =
        report.peak_rss_bytes.map_or_else(String::new, |peak| format!("; peak {}", human(peak)));
    let _ =
        writeln!(text, "memory at the end: {}{peak}", counted(report.memory_slots as u64, "slot"));
    for wrong in &report.wrong {
        let _ = writeln!(text, "wrong: {wrong}");
    }
    text
}
