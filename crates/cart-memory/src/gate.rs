//! The one formula by which a slot is weighed: `bias = ln(σ(A) · energy · decay + ε)`.
//!
//! `A` is a number per slot that training may move. It is 0 at birth, where σ(A) = ½: a slot that
//! nothing was learned about counts half its energy, everywhere. So thresholds on gated energy
//! (consolidation, replacement) are on that scale: 0.3 asks an untrained slot for an energy of 0.6.
//! In the bias, the half is the same −0.69 nat for all untrained slots; it cancels between
//! memories and is a mild prior for the live context against them.

/// What keeps the logarithm finite: a slot that is worth nothing has a bias of −13.8 nat.
pub const EPSILON: f64 = 1e-6;

/// `σ(x) = 1 / (1 + e^−x)`.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

/// `σ(A) · energy`: what a slot is worth before its age counts.
pub fn gated_energy(gate: f32, energy: f32) -> f32 {
    (sigmoid(f64::from(gate)) * f64::from(energy)) as f32
}

/// `exp(−β · age)`, with the age in ticks.
pub fn decay(beta: f32, age: u64) -> f32 {
    libm::exp(-f64::from(beta) * age as f64) as f32
}

/// `ln(σ(A) · energy · decay + ε)`, in nats: what is added to a slot's attention score.
pub fn bias(gate: f32, energy: f32, decay: f32) -> f32 {
    let weight = sigmoid(f64::from(gate)) * f64::from(energy) * f64::from(decay);
    libm::log(weight + EPSILON) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_slot_of_full_energy_counts_half() {
        assert_eq!(gated_energy(0.0, 1.0), 0.5);
        assert!((bias(0.0, 1.0, 1.0) - 0.5_f32.ln()).abs() < 1e-5);
    }

    #[test]
    fn gates_open_and_close() {
        assert!((gated_energy(20.0, 0.7) - 0.7).abs() < 1e-6);
        assert!(gated_energy(-20.0, 0.7) < 1e-6);
        assert!((bias(-100.0, 1.0, 1.0) - -13.815_511).abs() < 1e-5);
    }

    #[test]
    fn decay_halves_after_ln2_over_beta() {
        assert_eq!(decay(0.001, 0), 1.0);
        assert!((decay(0.001, 693) - 0.5).abs() < 1e-3);
    }
}
