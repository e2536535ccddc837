//! Numbers in words: how large a difference is, by bounds that are stated here and nowhere else.

use std::fmt;

use serde::Serialize;

/// How far weights moved, by ‖Δ‖/‖W‖. For scale: rounding normal weights to bf16 moves them by 0.0017, to Q8_0 by about
/// 0.005, to 4 bits by 0.07 to 0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Magnitude {
    /// Not at all.
    None,
    /// Under 0.002: no more than rounding to bf16 does.
    Rounding,
    /// Under 0.02.
    Slight,
    /// Under 0.2.
    Clear,
    /// 0.2 and more: nearer to another model than to the same.
    Strong,
}

impl Magnitude {
    /// Of ‖Δ‖/‖W‖.
    pub fn of(relative: f64) -> Self {
        match relative {
            0.0 => Self::None,
            ..0.002 => Self::Rounding,
            ..0.02 => Self::Slight,
            ..0.2 => Self::Clear,
            _ => Self::Strong,
        }
    }
}

impl fmt::Display for Magnitude {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "not moved",
            Self::Rounding => "moved as little as by rounding",
            Self::Slight => "moved slightly",
            Self::Clear => "moved clearly",
            Self::Strong => "moved strongly",
        })
    }
}

/// How far answers moved, by the mean KL divergence of B's predictions from A's, in nats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Under 0.001.
    Same,
    /// Under 0.03.
    Slight,
    /// Under 0.3.
    Clear,
    /// 0.3 and more.
    Strong,
}

impl Effect {
    /// Of a mean KL divergence, in nats.
    pub fn of(kl: f64) -> Self {
        match kl {
            ..0.001 => Self::Same,
            ..0.03 => Self::Slight,
            ..0.3 => Self::Clear,
            _ => Self::Strong,
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Same => "answers as good as the same",
            Self::Slight => "answers slightly other",
            Self::Clear => "answers clearly other",
            Self::Strong => "answers strongly other",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_those_of_the_words() {
        let of = |relative| Magnitude::of(relative);
        assert_eq!(
            [of(0.0), of(1e-4), of(0.002)],
            [Magnitude::None, Magnitude::Rounding, Magnitude::Slight]
        );
        assert_eq!(
            [of(0.02), of(0.2), of(9.0)],
            [Magnitude::Clear, Magnitude::Strong, Magnitude::Strong]
        );
        assert_eq!([Effect::of(0.0), Effect::of(0.03)], [Effect::Same, Effect::Clear]);
    }
}
