//! The small linear algebra of truncated decompositions: tall matrices with few columns.

/// A matrix of f32 values, row after row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tall {
    pub(super) columns: usize,
    pub(super) values: Vec<f32>,
}

impl Tall {
    pub(super) fn new(rows: usize, columns: usize) -> Self {
        Self { columns, values: vec![0.0; rows * columns] }
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..][..self.columns]
    }

    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.columns)
    }

    /// `Σ selfᵢᵀ · selfᵢ` over its rows: `[columns, columns]`, in f64.
    pub(super) fn gram(&self) -> Vec<f64> {
        let n = self.columns;
        let mut gram = vec![0.0; n * n];
        for row in self.rows() {
            for (i, x) in row.iter().enumerate() {
                let x = f64::from(*x);
                for (sum, y) in gram[i * n..=i * n + i].iter_mut().zip(row) {
                    *sum += x * f64::from(*y);
                }
            }
        }
        for i in 0..n {
            for j in 0..i {
                gram[j * n + i] = gram[i * n + j];
            }
        }
        gram
    }

    /// Each row times a square matrix of f64 values, of which `kept` columns are taken.
    ///
    /// * `by`: `[columns, columns]`
    pub(super) fn times(&self, by: &[f64], kept: usize) -> Self {
        let n = self.columns;
        let mut out = Self::new(self.values.len() / n, kept);
        for (row, out) in self.rows().zip(out.values.chunks_exact_mut(kept)) {
            for (j, out) in out.iter_mut().enumerate() {
                let terms = row.iter().enumerate().map(|(i, x)| f64::from(*x) * by[i * n + j]);
                *out = terms.sum::<f64>() as f32;
            }
        }
        out
    }

    /// Turns the columns into ones of length 1 at right angles that span the same, less what they span
    /// hardly at all; those are zero then. Twice, as once leaves the rounding errors of long columns.
    pub(super) fn orthonormalized(&self) -> Self {
        self.turned().turned()
    }

    fn turned(&self) -> Self {
        let n = self.columns;
        let Eigen { values, mut vectors } = Eigen::of(self.gram(), n);
        let least = values.first().copied().unwrap_or(0.0) * 1e-12;
        for (j, value) in values.iter().enumerate() {
            let factor = if *value > least { 1.0 / value.sqrt() } else { 0.0 };
            (0..n).for_each(|i| vectors[i * n + j] *= factor);
        }
        self.times(&vectors, n)
    }
}

/// Eigenvalues and eigenvectors of a symmetric matrix, the greatest first.
pub(super) struct Eigen {
    pub(super) values: Vec<f64>,
    /// `[n, n]`; column `j` goes with value `j`.
    pub(super) vectors: Vec<f64>,
}

/// More sweeps than any matrix needs.
const SWEEPS: usize = 60;

impl Eigen {
    /// By rotations that bring the elements beside the diagonal to zero, in a fixed order (Jacobi, 1846;
    /// the cyclic form as in Golub and Van Loan, "Matrix Computations", §8.5).
    pub(super) fn of(mut matrix: Vec<f64>, n: usize) -> Self {
        let mut vectors = vec![0.0; n * n];
        (0..n).for_each(|i| vectors[i * n + i] = 1.0);
        let whole: f64 = matrix.iter().map(|value| value * value).sum();
        for _ in 0..SWEEPS {
            let beside = (0..n * n).filter(|at| at / n != at % n);
            let left: f64 = beside.map(|at| matrix[at] * matrix[at]).sum();
            if left <= whole * 1e-30 {
                break;
            }
            for p in 0..n {
                for q in p + 1..n {
                    rotate(&mut matrix, &mut vectors, n, (p, q));
                }
            }
        }
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| matrix[b * n + b].total_cmp(&matrix[a * n + a]).then(a.cmp(b)));
        let values = order.iter().map(|&at| matrix[at * n + at].max(0.0)).collect();
        let sorted = (0..n * n).map(|at| vectors[at / n * n + order[at % n]]).collect();
        Self { values, vectors: sorted }
    }
}

fn rotate(matrix: &mut [f64], vectors: &mut [f64], n: usize, (p, q): (usize, usize)) {
    let beside = matrix[p * n + q];
    if beside == 0.0 {
        return;
    }
    let theta = (matrix[q * n + q] - matrix[p * n + p]) / (2.0 * beside);
    let tangent = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
    let sine = tangent * cosine;
    let turn = |values: &mut [f64], a: usize, b: usize| {
        let (x, y) = (values[a], values[b]);
        values[a] = cosine * x - sine * y;
        values[b] = sine * x + cosine * y;
    };
    for k in 0..n {
        turn(matrix, k * n + p, k * n + q);
    }
    for k in 0..n {
        turn(matrix, p * n + k, q * n + k);
    }
    for k in 0..n {
        turn(vectors, k * n + p, k * n + q);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rows: usize, columns: usize) -> Tall {
        let values = (0..rows * columns).map(|at| ((at * at) as f32 * 0.37).sin()).collect();
        Tall { columns, values }
    }

    #[test]
    fn eigenvectors_turn_a_matrix_into_its_eigenvalues() {
        let n = 7;
        let gram = sample(30, n).gram();
        let Eigen { values, vectors } = Eigen::of(gram.clone(), n);
        assert!(values.windows(2).all(|pair| pair[0] >= pair[1]));
        for j in 0..n {
            for i in 0..n {
                let product: f64 = (0..n).map(|k| gram[i * n + k] * vectors[k * n + j]).sum();
                assert!((product - values[j] * vectors[i * n + j]).abs() < 1e-9 * values[0]);
            }
        }
    }

    #[test]
    fn orthonormal_columns_are_at_right_angles_and_of_length_one_or_zero() {
        let mut tall = sample(40, 5);
        // The last column is twice the first.
        for row in tall.values.chunks_exact_mut(5) {
            row[4] = 2.0 * row[0];
        }
        let gram = tall.orthonormalized().gram();
        let lengths: Vec<f64> = (0..5).map(|i| gram[i * 5 + i]).collect();
        assert_eq!(lengths.iter().filter(|length| (**length - 1.0).abs() < 1e-5).count(), 4);
        assert_eq!(lengths.iter().filter(|length| length.abs() < 1e-5).count(), 1);
        let beside = (0..25).filter(|at| at / 5 != at % 5);
        assert!(beside.map(|at| gram[at].abs()).fold(0.0, f64::max) < 1e-5);
    }
}
