//! History as a graph of characters, as `git log --graph` draws it.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use cart_format::CommitId;

/// Lines of history, a column each, with the commit that each leads to.
#[derive(Default)]
pub(super) struct Graph {
    columns: Vec<Column>,
    /// Lines that there were, for their colours.
    made: usize,
}

#[derive(Clone, Copy)]
struct Column {
    leads_to: CommitId,
    colour: usize,
}

const COLOURS: [AnsiColor; 6] = [
    AnsiColor::Red,
    AnsiColor::Green,
    AnsiColor::Yellow,
    AnsiColor::Blue,
    AnsiColor::Magenta,
    AnsiColor::Cyan,
];

/// A row in the making: characters, each in the colour of its line.
struct Row(Vec<(char, Option<usize>)>);

impl Row {
    fn new(columns: usize) -> Self {
        Self(vec![(' ', None); 2 * columns + 1])
    }

    fn put(&mut self, at: usize, what: char, colour: usize) {
        if at >= self.0.len() {
            self.0.resize(at + 1, (' ', None));
        }
        self.0[at] = (what, Some(colour));
    }

    /// The row as text with colours, without spaces at its end.
    fn text(mut self) -> String {
        while self.0.last().is_some_and(|(what, _)| *what == ' ') {
            self.0.pop();
        }
        let mut text = String::new();
        for (what, colour) in self.0 {
            match colour {
                Some(colour) => {
                    let style = Style::new().fg_color(Some(COLOURS[colour % COLOURS.len()].into()));
                    write!(text, "{style}{what}{style:#}").expect("a string takes everything");
                }
                None => text.push(what),
            }
        }
        text
    }
}

impl Graph {
    /// The rows of a commit, of which all that lead to it came before: the first is for the commit itself.
    pub(super) fn rows(&mut self, commit: CommitId, parents: &[CommitId]) -> Vec<String> {
        let at = match self.columns.iter().position(|column| column.leads_to == commit) {
            Some(at) => at,
            None => self.begin(self.columns.len(), commit),
        };
        let mut row = self.lines();
        row.put(2 * at, '*', self.columns[at].colour);
        let mut rows = vec![row.text()];
        let Some((first, others)) = parents.split_first() else {
            rows.extend(self.close(at));
            return rows;
        };
        self.columns[at].leads_to = *first;
        for parent in others {
            rows.push(self.branch(at, *parent));
        }
        while let Some((left, right)) = self.meeting() {
            rows.push(self.join(left, right));
        }
        rows
    }

    fn begin(&mut self, at: usize, leads_to: CommitId) -> usize {
        self.columns.insert(at, Column { leads_to, colour: self.made });
        self.made += 1;
        at
    }

    /// Every line, straight on.
    fn lines(&self) -> Row {
        let mut row = Row::new(self.columns.len());
        for (at, column) in self.columns.iter().enumerate() {
            row.put(2 * at, '|', column.colour);
        }
        row
    }

    /// Another line begins beside a commit; those further right make room.
    fn branch(&mut self, at: usize, parent: CommitId) -> String {
        let mut row = Row::new(self.columns.len() + 1);
        for (index, column) in self.columns.iter().enumerate() {
            if index <= at {
                row.put(2 * index, '|', column.colour);
            } else {
                row.put(2 * index + 1, '\\', column.colour);
            }
        }
        self.begin(at + 1, parent);
        row.put(2 * at + 1, '\\', self.columns[at + 1].colour);
        row.text()
    }

    /// Two lines that lead to one commit.
    fn meeting(&self) -> Option<(usize, usize)> {
        let same = |right: &usize| {
            let wanted = self.columns[*right].leads_to;
            self.columns[..*right].iter().position(|column| column.leads_to == wanted)
        };
        (0..self.columns.len()).rev().find_map(|right| same(&right).map(|left| (left, right)))
    }

    /// The right one of two lines runs into the left one; those further right close up.
    fn join(&mut self, left: usize, right: usize) -> String {
        let mut row = Row::new(self.columns.len());
        let colour = self.columns[right].colour;
        for between in left + 1..right {
            row.put(2 * between - 1, '_', colour);
        }
        for (index, column) in self.columns.iter().enumerate() {
            if index < right {
                row.put(2 * index, '|', column.colour);
            } else {
                row.put(2 * index - 1, '/', column.colour);
            }
        }
        self.columns.remove(right);
        row.text()
    }

    /// A line ends; those further right close up.
    fn close(&mut self, at: usize) -> Option<String> {
        self.columns.remove(at);
        if at == self.columns.len() {
            return None;
        }
        let mut row = Row::new(self.columns.len());
        for (index, column) in self.columns.iter().enumerate() {
            if index < at {
                row.put(2 * index, '|', column.colour);
            } else {
                row.put(2 * index + 1, '/', column.colour);
            }
        }
        Some(row.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws a history; letters are commits, each with its parents.
    fn drawn(history: &[(&str, &str)]) -> String {
        let id = |letter: char| CommitId::of(letter.to_string().as_bytes());
        let mut graph = Graph::default();
        let mut text = String::new();
        for (commit, parents) in history {
            let parents: Vec<CommitId> = parents.chars().map(id).collect();
            let rows = graph.rows(id(commit.chars().next().unwrap()), &parents);
            for (index, row) in rows.iter().enumerate() {
                let row = anstream::adapter::strip_str(row).to_string();
                text += if index == 0 { format!("{row} {commit}") } else { row }.as_str();
                text += "\n";
            }
        }
        text
    }

    #[test]
    fn a_line_is_a_line() {
        assert_eq!(drawn(&[("c", "b"), ("b", "a"), ("a", "")]), "* c\n* b\n* a\n");
    }

    #[test]
    fn a_merge_branches_and_meets() {
        let history = [("m", "xy"), ("y", "b"), ("x", "b"), ("b", "a"), ("a", "")];
        assert_eq!(drawn(&history), "* m\n|\\\n| * y\n* | x\n|/\n* b\n* a\n");
    }

    #[test]
    fn lines_far_apart_meet_and_ends_close_up() {
        let history = [("m", "xyz"), ("z", "b"), ("y", ""), ("x", "b"), ("b", "")];
        let expected = "* m\n|\\\n|\\ \\\n| * | z\n| | * y\n* | x\n|/\n* b\n";
        assert_eq!(drawn(&history), expected);
        let crossed = [("m", "xb"), ("x", "ya"), ("y", "b"), ("b", "a"), ("a", "")];
        let expected = "* m\n|\\\n* | x\n|\\ \\\n* | | y\n|_|/\n* | b\n|/\n* a\n";
        assert_eq!(drawn(&crossed), expected);
    }
}
