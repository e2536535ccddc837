//! Chance without a state: a number for each element, from what the element is.

use cart_format::Hasher;

/// The numbers of one tensor of one model. Which thread asks, and in what order, changes nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chance {
    key: u64,
}

impl Chance {
    /// * `model`: which of the inputs
    pub(crate) fn of(seed: u64, tensor: &str, model: usize) -> Self {
        let text = format!("cart-merge/1\n{seed}\n{model}\n{tensor}");
        let mut hasher = Hasher::new();
        hasher.update(text.as_bytes());
        let digest = hasher.finish();
        let first: [u8; 8] = std::array::from_fn(|index| digest[index]);
        Self { key: u64::from_le_bytes(first) }
    }

    /// Uniform in `0..2^32`: the upper half of [`Self::bits`].
    #[inline]
    pub(crate) fn draw(self, index: u64) -> u32 {
        (self.bits(index) >> 32) as u32
    }

    /// 64 bits, each of them set half of the time: splitmix64 (Steele, Lea and Flood, 2014) at the step
    /// `index`, which needs none of the steps before.
    #[inline]
    pub(crate) fn bits(self, index: u64) -> u64 {
        let mut mixed =
            self.key.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Whether element `index` is drawn, of which a share of `probability` is.
    #[inline]
    pub(crate) fn keeps(self, index: u64, probability: f32) -> bool {
        u64::from(self.draw(index)) < (f64::from(probability) * 4_294_967_296.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_asked_for_and_draws_are_independent() {
        let n = 200_000_u64;
        for probability in [0.1_f32, 0.5, 0.9] {
            let chances =
                [("a", 0), ("a", 1), ("b", 0)].map(|(name, model)| Chance::of(7, name, model));
            let kept = chances.map(|chance| {
                (0..n).map(|index| chance.keeps(index, probability)).collect::<Vec<_>>()
            });
            let p = f64::from(probability);
            // Five deviations of a binomial share.
            let near = |found: usize, p: f64| {
                let share = found as f64 / n as f64;
                assert!((share - p).abs() < 5.0 * (p * (1.0 - p) / n as f64).sqrt(), "{share} {p}");
            };
            for kept in &kept {
                near(kept.iter().filter(|kept| **kept).count(), p);
                let pairs = kept.windows(2).filter(|pair| pair[0] && pair[1]).count();
                near(pairs, p * p);
            }
            for (a, b) in [(0, 1), (0, 2), (1, 2)] {
                near(kept[a].iter().zip(&kept[b]).filter(|(a, b)| **a && **b).count(), p * p);
            }
        }
        assert!((0..1000).all(|index| Chance::of(1, "x", 0).keeps(index, 1.0)));
    }
}
