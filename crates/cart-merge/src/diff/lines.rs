//! Texts compared line by line.

use serde::Serialize;

/// Lines up to which the shortest list of changes is looked for.
const MOST: usize = 3000;

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LineKind {
    /// In both.
    Same,
    /// Only in A.
    Removed,
    /// Only in B.
    Added,
}

/// A line and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What became of it.
    pub kind: LineKind,
    /// Its text.
    pub text: String,
}

/// The lines of two texts, with a longest common subsequence kept. Of very long texts all lines between the first and the last
/// that differ count as changed.
pub fn line_changes(a: &str, b: &str) -> Vec<Line> {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    let front = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let (rest_a, rest_b) = (&a[front..], &b[front..]);
    let back = rest_a.iter().rev().zip(rest_b.iter().rev()).take_while(|(a, b)| a == b).count();
    let (middle_a, middle_b) = (&rest_a[..rest_a.len() - back], &rest_b[..rest_b.len() - back]);
    let line = |kind: LineKind| move |text: &&str| Line { kind, text: (*text).to_owned() };
    let mut lines: Vec<Line> = a[..front].iter().map(line(LineKind::Same)).collect();
    if middle_a.len() > MOST || middle_b.len() > MOST {
        lines.extend(middle_a.iter().map(line(LineKind::Removed)));
        lines.extend(middle_b.iter().map(line(LineKind::Added)));
    } else {
        between(middle_a, middle_b, &mut lines);
    }
    lines.extend(rest_a[rest_a.len() - back..].iter().map(line(LineKind::Same)));
    lines
}

fn between(a: &[&str], b: &[&str], lines: &mut Vec<Line>) {
    let width = b.len() + 1;
    // The longest common subsequence of what is left from (i, j) on.
    let mut longest = vec![0_u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i * width + j] = if a[i] == b[j] {
                longest[(i + 1) * width + j + 1] + 1
            } else {
                longest[(i + 1) * width + j].max(longest[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        let (kind, text) = if i < a.len() && j < b.len() && a[i] == b[j] {
            (i, j) = (i + 1, j + 1);
            (LineKind::Same, a[i - 1])
        } else if j == b.len()
            || (i < a.len() && longest[(i + 1) * width + j] >= longest[i * width + j + 1])
        {
            i += 1;
            (LineKind::Removed, a[i - 1])
        } else {
            j += 1;
            (LineKind::Added, b[j - 1])
        };
        lines.push(Line { kind, text: text.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_common_stays_and_both_texts_come_back() {
        let (a, b) = ("one\ntwo\nthree\nfour\nfive", "one\n2\nthree\nextra\nfour\nfive");
        let lines = line_changes(a, b);
        let of = |drop: LineKind| -> Vec<&str> {
            lines.iter().filter(|line| line.kind != drop).map(|line| line.text.as_str()).collect()
        };
        assert_eq!(of(LineKind::Added).join("\n"), a);
        assert_eq!(of(LineKind::Removed).join("\n"), b);
        assert_eq!(lines.iter().filter(|line| line.kind == LineKind::Same).count(), 4);
    }
}
