//! Stop strings in a text that comes in pieces.

/// Holds text back for as long as it may be the beginning of a stop string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StopFilter {
    stops: Vec<String>,
    held: String,
}

/// What a piece of text led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Text that may be shown.
    pub(crate) text: String,
    /// Whether a stop string came; it and what follows are gone.
    pub(crate) stopped: bool,
}

impl StopFilter {
    /// * `stops`: none of them empty
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    /// Takes the next piece. Of several stop strings, the one that ends first counts, of those the
    /// longest: whether another that began before it would have come can't be known yet.
    pub(crate) fn push(&mut self, piece: &str) -> Passed {
        self.held.push_str(piece);
        if let Some((_, start)) = first_stop(&self.held, &self.stops) {
            let text = self.held[..start].to_owned();
            self.held.clear();
            return Passed { text, stopped: true };
        }
        let keep = self.held.len() - self.possible_start();
        let rest = self.held.split_off(keep);
        Passed { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// The held text: no stop string can come any more.
    pub(crate) fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end of the held text that may begin a stop string.
    fn possible_start(&self) -> usize {
        let longest = self.stops.iter().map(|stop| stop.len() - 1).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        (from..self.held.len())
            .filter(|&start| self.held.is_char_boundary(start))
            .find(|&start| self.stops.iter().any(|stop| stop.starts_with(&self.held[start..])))
            .map_or(0, |start| self.held.len() - start)
    }
}

/// The end and the start of the first of some stop strings in a text.
fn first_stop(text: &str, stops: &[String]) -> Option<(usize, usize)> {
    let found = stops.iter().filter_map(|stop| Some((text.find(stop.as_str())?, stop.len())));
    found.map(|(start, len)| (start + len, start)).min()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(stops: &[&str]) -> StopFilter {
        StopFilter::new(stops.iter().map(|&stop| stop.to_owned()).collect())
    }

    #[test]
    fn a_stop_string_across_pieces_is_never_shown() {
        let mut filter = filter(&["\n\nUser:"]);
        assert_eq!(filter.push("Hello\n"), Passed { text: "Hello".into(), stopped: false });
        assert_eq!(filter.push("\nUs"), Passed { text: String::new(), stopped: false });
        assert_eq!(filter.push("er: x"), Passed { text: String::new(), stopped: true });
    }

    #[test]
    fn a_false_start_comes_out_and_the_end_gives_the_rest() {
        let mut filter = filter(&["abc"]);
        assert_eq!(filter.push("xab").text, "x");
        assert_eq!(filter.push("ab").text, "ab");
        assert_eq!(filter.flush(), "ab");
    }

    #[test]
    fn the_stop_that_ends_first_counts() {
        let passed = filter(&["lo w", "ell"]).push("hello world");
        assert_eq!(passed, Passed { text: "h".into(), stopped: true });
        // One that begins before it ends later, and a piece may end between the two.
        let mut filter = self::filter(&["b", "€ba"]);
        assert_eq!(filter.push("€€b"), Passed { text: "€€".into(), stopped: true });
        assert_eq!(self::filter(&["b", "€ba"]).push("€€ba").text, "€€");
    }

    proptest! {
        #[test]
        fn pieces_do_not_change_the_text(
            text in "[ab€\n]{0,40}",
            stops in prop::collection::vec("[ab€]{1,4}", 0..3),
            cuts in prop::collection::vec(1_usize..5, 0..40),
        ) {
            let whole = first_stop(&text, &stops);
            let expected = whole.map_or(text.as_str(), |(_, start)| &text[..start]);
            let mut filter = StopFilter::new(stops.clone());
            let (mut shown, mut stopped) = (String::new(), false);
            let mut chars = text.chars();
            for cut in cuts.into_iter().chain(std::iter::repeat(3)) {
                let piece: String = chars.by_ref().take(cut).collect();
                if piece.is_empty() || stopped {
                    break;
                }
                let passed = filter.push(&piece);
                shown.push_str(&passed.text);
                stopped = passed.stopped;
            }
            if !stopped {
                shown.push_str(&filter.flush());
            }
            prop_assert_eq!(stopped, whole.is_some());
            prop_assert_eq!(shown, expected);
        }
    }
}
