//! The report as tables.

use super::figures::{EngineReport, Machine, ModelReport, Row};
use crate::bytes;
use crate::failure::Failure;
use crate::report;
use crate::table::Table;

/// Measures in tokens a second, with their headings.
const SPEEDS: [(&str, &str); 5] = [
    ("prefill", ">PREFILL"),
    ("decode", ">DECODE"),
    ("long_prefill", ">LONG PREFILL"),
    ("long_decode", ">LONG DECODE"),
    ("many_decode", ">TOGETHER"),
];

pub(crate) fn print(body: &EngineReport) -> Result<(), Failure> {
    let mut text = machine(&body.machine);
    for model in &body.models {
        text.push_str(&self::model(model));
    }
    text.push_str("\nTokens a second, best of the rounds");
    let compared = |model: &ModelReport| model.rows.iter().any(|row| row.name != "cart");
    if body.models.iter().any(compared) {
        text.push_str("; in brackets cart's advantage (over 1: cart is ahead)");
    }
    text.push_str(".\n");
    report::stdout(text.as_bytes())
}

fn machine(machine: &Machine) -> String {
    let mut text =
        format!("{}, {} cores, kernels {}\n", machine.processor, machine.cores, machine.kernels);
    for bound in &machine.bounds {
        let line = format!(
            "  {} threads: reads {:.1} GB/s, int8 products {:.2} TOP/s\n",
            bound.threads,
            bound.read_bytes_per_second / 1e9,
            bound.int8_operations_per_second / 1e12
        );
        text.push_str(&line);
    }
    text
}

fn model(model: &ModelReport) -> String {
    let mut text = format!(
        "\n{} ({}; {} a token)\n  prompt of {}, then {} tokens; long: {}; together: {} sessions\n",
        model.file,
        bytes::human(model.bytes),
        bytes::human(model.token_bytes),
        model.prefill_tokens,
        model.decode_tokens,
        model.long_tokens,
        model.sessions,
    );
    let mut headings = vec!["ENGINE", ">THREADS"];
    headings.extend(SPEEDS.map(|(_, heading)| heading));
    headings.extend([">FIRST TOKEN", ">PEAK MEMORY"]);
    let mut table = Table::new(&headings);
    for row in &model.rows {
        table.row(cells(row));
    }
    text.push_str(&table.render());
    for row in model.rows.iter().filter(|row| row.name == "cart") {
        text.push_str(&shares(row));
    }
    for row in &model.rows {
        for problem in &row.problems {
            let line = format!("  {}, {} threads: {problem}\n", row.name, row.threads);
            text.push_str(&line);
        }
    }
    text
}

fn cells(row: &Row) -> Vec<String> {
    let ratio = |what: &str| match row.cart_is_ahead.get(what) {
        Some(ratio) => format!(" ({ratio:.2})"),
        None => String::new(),
    };
    let absent = || "–".to_owned();
    let mut cells = vec![row.name.clone(), row.threads.to_string()];
    cells.extend(SPEEDS.map(|(what, _)| {
        row.speed(what).map_or_else(absent, |speed| {
            let digits = usize::from(speed < 100.0);
            format!("{speed:.digits$}{}", ratio(what))
        })
    }));
    cells.push(row.first_token_seconds.as_ref().map_or_else(absent, |first| {
        format!("{:.0} ms{}", first.best * 1e3, ratio("first_token"))
    }));
    cells.push(row.peak_bytes.map_or_else(absent, |peak| {
        format!("{:.0} MiB{}", peak as f64 / f64::from(1 << 20), ratio("peak_memory"))
    }));
    cells
}

fn shares(row: &Row) -> String {
    let mut text = String::new();
    let mut say = |name: &str, words: &str, scale: f64, unit: &str| {
        if let Some(share) = row.share_of_bound.get(name) {
            let digits = usize::from(scale < 2.0);
            let share = share * scale;
            let line = format!("  cart, {} threads: {words} {share:.digits$}{unit}\n", row.threads);
            text.push_str(&line);
        }
    };
    say("decode_of_bandwidth", "decode at", 100.0, " % of the memory's bandwidth");
    say("prefill_of_int8", "prefill at", 100.0, " % of the int8 products");
    say("sessions_over_one", "sessions together over one:", 1.0, " ×");
    text
}
