//! Figures by task and row, a value for each seed.

use serde::{Deserialize, Serialize};

use super::Task;
use crate::table::Table;

/// What one seed gave in one row; none where a way can't be measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Outcome {
    pub(super) row: String,
    /// Questions, or tokens that were scored.
    pub(super) of: usize,
    pub(super) memory: Option<f64>,
    pub(super) none: Option<f64>,
    pub(super) shuffled: Option<f64>,
    pub(super) context: Option<f64>,
}

/// A row of the report, with a value for each seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) task: Task,
    pub(super) row: String,
    pub(super) of: usize,
    pub(super) memory: Vec<f64>,
    pub(super) none: Vec<f64>,
    pub(super) shuffled: Vec<f64>,
    pub(super) context: Vec<f64>,
}

impl Measured {
    /// The four ways with their names.
    pub(super) fn ways(&self) -> [(&'static str, &[f64]); 4] {
        [
            ("memory", &self.memory),
            ("none", &self.none),
            ("shuffled", &self.shuffled),
            ("in context", &self.context),
        ]
    }
}

/// Adds what a seed gave to the row that it belongs to.
pub(super) fn add(rows: &mut Vec<Measured>, task: Task, outcome: Outcome) {
    let found = rows.iter().position(|row| row.task == task && row.row == outcome.row);
    let place = found.unwrap_or_else(|| {
        let (row, of) = (outcome.row.clone(), outcome.of);
        let [memory, none, shuffled, context] = [const { Vec::new() }; 4];
        rows.push(Measured { task, row, of, memory, none, shuffled, context });
        rows.len() - 1
    });
    let row = &mut rows[place];
    row.memory.extend(outcome.memory);
    row.none.extend(outcome.none);
    row.shuffled.extend(outcome.shuffled);
    row.context.extend(outcome.context);
}

/// The rows for people: means, with the least and the most of the seeds where they differ.
pub(super) fn table(rows: &[Measured]) -> Table {
    let mut table =
        Table::new(&["TASK", "ROW", ">OF", ">MEMORY", ">NONE", ">SHUFFLED", ">IN CONTEXT"]);
    for row in rows {
        let task = format!("{:?}", row.task).to_lowercase();
        let cells =
            [&row.memory, &row.none, &row.shuffled, &row.context].map(|values| said(values));
        table.row([task, row.row.clone(), row.of.to_string()].into_iter().chain(cells));
    }
    table
}

/// The mean of values, of which there is one.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn said(values: &[f64]) -> String {
    if values.is_empty() {
        return "–".to_owned();
    }
    let mean = mean(values);
    let (least, most) = values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), &v| (least.min(v), most.max(v)));
    let number = |value: f64| match value {
        whole if whole.fract() == 0.0 => format!("{whole:.0}"),
        large if large >= 10.0 => format!("{large:.2}"),
        small => format!("{small:.3}"),
    };
    if least == most {
        return number(mean);
    }
    format!("{} ({}…{})", number(mean), number(least), number(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_come_together_by_row() {
        let mut rows = Vec::new();
        for (row, memory) in [("a", Some(1.0)), ("b", None), ("a", Some(2.5))] {
            let outcome = Outcome { row: row.to_owned(), of: 3, memory, ..Outcome::default() };
            add(&mut rows, Task::Facts, outcome);
        }
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].memory, [1.0, 2.5]);
        assert_eq!(said(&rows[0].memory), "1.750 (1…2.500)");
        assert_eq!(said(&rows[1].memory), "–");
    }
}
