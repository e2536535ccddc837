//! A curve of Braille dots between axes.

use std::fmt::Write as _;

use anstyle::Style;

use crate::drawing::number;

/// Rows of a curve: every fourth has its label.
const ROWS: usize = 9;
/// Dots of a character, across and down.
const DOTS: (usize, usize) = (2, 4);
/// Columns before the axis.
pub(crate) const MARGIN: usize = 8;

/// Columns where neither COLUMNS nor a terminal says how many.
const WIDTH: usize = 80;
/// Columns that are made use of, at least and at most.
const WIDTHS: (usize, usize) = (40, 160);

/// Columns of the terminal, or what COLUMNS says.
pub(crate) fn width() -> usize {
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let found = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    said.or_else(found).unwrap_or(WIDTH).clamp(WIDTHS.0, WIDTHS.1)
}

/// A curve, its axes named and labelled.
pub(crate) struct Panel<'t> {
    pub(crate) name: &'t str,
    pub(crate) style: Style,
    /// Name, least and most.
    pub(crate) x: (&'t str, f64, f64),
    /// Least and most.
    pub(crate) y: (f64, f64),
    pub(crate) points: &'t [(f64, f64)],
}

impl Panel<'_> {
    /// The panel as lines of at most `width` columns.
    pub(crate) fn text(&self, width: usize) -> String {
        let across = width - MARGIN;
        let (low, high) = self.y;
        let style = self.style;
        let mut text = format!("{:MARGIN$}{style}{}{style:#}\n", "", self.name);
        for (row, dots) in self.dots(across).iter().enumerate() {
            let share = 1.0 - row as f64 / (ROWS - 1) as f64;
            let label = if row % 4 == 0 {
                format!("{:>6} ┤", number((high - low).mul_add(share, low), high - low))
            } else {
                format!("{:>6} │", "")
            };
            let _ = writeln!(text, "{label}{style}{}{style:#}", dots.trim_end());
        }
        text + &axis(self.x, across)
    }

    /// A row of characters each.
    fn dots(&self, across: usize) -> Vec<String> {
        let (wide, high) = (across * DOTS.0, ROWS * DOTS.1);
        let mut set = vec![false; wide * high];
        let place = |&(x, y): &(f64, f64)| {
            let ((_, x0, x1), (y0, y1)) = (self.x, self.y);
            let x = share(x, x0, x1) * (wide - 1) as f64;
            let y = (1.0 - share(y, y0, y1)) * (high - 1) as f64;
            (x, y)
        };
        let mut before = None;
        for at in self.points.iter().map(place) {
            let (x0, y0) = before.replace(at).unwrap_or(at);
            let steps = (at.0 - x0).abs().max((at.1 - y0).abs()).ceil().max(1.0);
            for step in 0..=steps as usize {
                let done = step as f64 / steps;
                let x = (at.0 - x0).mul_add(done, x0).round() as usize;
                let y = (at.1 - y0).mul_add(done, y0).round() as usize;
                set[y * wide + x] = true;
            }
        }
        let at = |x: usize, y: usize| set[y * wide + x];
        (0..ROWS).map(|row| (0..across).map(|column| braille(column, row, at)).collect()).collect()
    }
}

/// Where a value is between two others, 0 to 1.
fn share(value: f64, least: f64, most: f64) -> f64 {
    if most > least { ((value - least) / (most - least)).clamp(0.0, 1.0) } else { 0.0 }
}

/// A character of Braille (Unicode 2800 to 28FF: a bit each dot), or a space where none is set.
fn braille(column: usize, row: usize, set: impl Fn(usize, usize) -> bool) -> char {
    const BITS: [[u32; DOTS.0]; DOTS.1] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
    let mut bits = 0;
    for (down, line) in BITS.iter().enumerate() {
        for (right, bit) in line.iter().enumerate() {
            if set(column * DOTS.0 + right, row * DOTS.1 + down) {
                bits |= bit;
            }
        }
    }
    if bits == 0 { ' ' } else { char::from_u32(0x2800 + bits).expect("256 patterns are assigned") }
}

/// A horizontal axis of `across` columns with its ends and its name.
pub(crate) fn axis((name, first, last): (&str, f64, f64), across: usize) -> String {
    let ends = [first, last].map(|at| number(at, last - first));
    let room = across - ends[0].len() - ends[1].len();
    let line = "─".repeat(across);
    format!("{:>MARGIN$}{line}\n{:MARGIN$}{}{name:^room$}{}\n", "└", "", ends[0], ends[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(points: &[(f64, f64)]) -> String {
        let style = Style::new();
        let (x, y) = (("tick", 0.0, 10.0), (0.0, 1.0));
        Panel { name: "share", style, x, y, points }.text(MARGIN + 10)
    }

    #[test]
    fn a_rising_line_goes_from_the_corner_below_to_the_one_above() {
        let drawn = panel(&[(0.0, 0.0), (10.0, 1.0)]);
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(lines.len(), 1 + ROWS + 2);
        assert_eq!(lines[0].trim(), "share");
        // 36 dots high and 20 wide: the highest three are at 19, 18 and 18 from the left, the fourth at 17.
        assert_eq!(lines[1], "   1.0 ┤        ⢀⠎");
        assert!(lines[5].starts_with("   0.5 ┤"), "{drawn}");
        assert_eq!(lines[ROWS], "   0.0 ┤⡰⠁");
        assert_eq!(lines[ROWS + 1], "       └──────────");
        assert_eq!(lines[ROWS + 2], "        0 tick  10");
    }

    #[test]
    fn what_is_beyond_the_axes_is_drawn_at_their_ends() {
        let drawn = panel(&[(-5.0, 7.0), (50.0, 7.0)]);
        assert_eq!(drawn.lines().nth(1), Some("   1.0 ┤⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉"));
        assert_eq!(panel(&[]).lines().nth(2), Some("       │"));
    }
}
