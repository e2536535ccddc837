//! What is added up over the elements of two tensors.

/// Sums over pairs of elements, x of A and y of B, with Δ = y − x. Elements that are not finite on one of the
/// sides are counted and in no other sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sums {
    /// Elements that differ, those that are not finite among them.
    pub(crate) changed: u64,
    /// Elements that are infinite or no number, in A and in B.
    pub(crate) not_finite: [u64; 2],
    /// Elements in the sums.
    pub(crate) finite: u64,
    /// max |Δ|.
    pub(crate) largest: f64,
    /// Σ Δ.
    pub(crate) signed: f64,
    /// Σ |Δ|.
    pub(crate) absolute: f64,
    /// Σ Δ².
    pub(crate) square: f64,
    /// Σ x².
    pub(crate) a_square: f64,
    /// Σ y².
    pub(crate) b_square: f64,
    /// Σ x·y.
    pub(crate) product: f64,
}

impl Sums {
    pub(crate) fn add(&mut self, other: &Self) {
        self.changed += other.changed;
        self.not_finite[0] += other.not_finite[0];
        self.not_finite[1] += other.not_finite[1];
        self.finite += other.finite;
        self.largest = self.largest.max(other.largest);
        self.signed += other.signed;
        self.absolute += other.absolute;
        self.square += other.square;
        self.a_square += other.a_square;
        self.b_square += other.b_square;
        self.product += other.product;
    }

    /// ‖Δ‖ / ‖A‖; none where A is zero.
    pub(crate) fn relative(&self) -> Option<f64> {
        (self.a_square > 0.0).then(|| (self.square / self.a_square).sqrt())
    }

    /// The cosine of A and B; none where one of them is zero.
    pub(crate) fn cosine(&self) -> Option<f64> {
        let norms = self.a_square.sqrt() * self.b_square.sqrt();
        (norms > 0.0).then(|| (self.product / norms).clamp(-1.0, 1.0))
    }

    /// Counts and adds one pair of elements, whatever they are.
    ///
    /// * `changed`: whether they differ
    /// * returns the difference, if both are finite
    #[inline]
    pub(crate) fn pair(&mut self, x: f64, y: f64, changed: bool) -> Option<f64> {
        self.changed += u64::from(changed);
        self.not_finite[0] += u64::from(!x.is_finite());
        self.not_finite[1] += u64::from(!y.is_finite());
        if !(x.is_finite() && y.is_finite()) {
            return None;
        }
        let delta = y - x;
        self.finite += 1;
        self.largest = self.largest.max(delta.abs());
        self.signed += delta;
        self.absolute += delta.abs();
        self.square += delta * delta;
        self.a_square += x * x;
        self.b_square += y * y;
        self.product += x * y;
        Some(delta)
    }
}
