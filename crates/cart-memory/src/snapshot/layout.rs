//! Where the vectors of a store lie: which tensors, which rows, which blocks.
//!
//! With `rows` = one more than the highest position in use and `span` = `max_span_tokens`:
//!
//! | tensor | type | shape | rows a block |
//! |---|---|---|---|
//! | `S.keys` | f32 | `[rows, dim]` | 16 |
//! | `S.key_sums` | f64 | `[rows, dim]` | 16 |
//! | `S.token_keys` | f16 | `[spans · span, dim]` | `span`: one slot |
//! | `S.token_norms` | f32 | `[spans, span]` | 16 |
//!
//! | `S.goals` | f32 | `[aims · goal_vectors, dim]` | `goal_vectors`: one slot |
//!
//! `aims` is one more than the highest position that has goal vectors. `spans` is one more than the highest position that has token keys. Rows that nothing uses are
//! zero, which costs nothing in a store that keeps equal blocks once.

use cart_format::DType;
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::MemoryTensor;
use super::record::SlotRecord;
use super::state::SlotState;
use crate::bank::Bank;
use crate::slot::StoreKind;
use crate::{Slot, UnifiedMemory};

/// Rows of a block of keys: 36 KiB at dimension 576.
pub(super) const BLOCK_ROWS: u64 = 16;

/// Names of a store's tensors.
pub(super) struct Names {
    pub(super) keys: &'static str,
    pub(super) key_sums: &'static str,
    pub(super) token_keys: &'static str,
    pub(super) token_norms: &'static str,
    pub(super) goals: &'static str,
}

pub(super) const fn names(store: StoreKind) -> Names {
    match store {
        StoreKind::Stm => Names {
            keys: "stm.keys",
            key_sums: "stm.key_sums",
            token_keys: "stm.token_keys",
            token_norms: "stm.token_norms",
            goals: "stm.goals",
        },
        StoreKind::Ltm => Names {
            keys: "ltm.keys",
            key_sums: "ltm.key_sums",
            token_keys: "ltm.token_keys",
            token_norms: "ltm.token_norms",
            goals: "ltm.goals",
        },
    }
}

/// Sizes of a store's tensors.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) dim: usize,
    pub(super) span: usize,
    /// One more than the highest position in use.
    pub(super) rows: usize,
    /// One more than the highest position that has token keys.
    pub(super) spans: usize,
    /// Most goal vectors of a slot.
    pub(super) most_goals: usize,
    /// One more than the highest position that has goal vectors.
    pub(super) aims: usize,
}

impl Sizes {
    /// The layout of one tensor: type, shape, rows a block.
    pub(super) fn keys(&self) -> (DType, Vec<u64>, u64) {
        (DType::F32, vec![self.rows as u64, self.dim as u64], BLOCK_ROWS)
    }

    pub(super) fn key_sums(&self) -> (DType, Vec<u64>, u64) {
        (DType::F64, vec![self.rows as u64, self.dim as u64], BLOCK_ROWS)
    }

    pub(super) fn token_keys(&self) -> (DType, Vec<u64>, u64) {
        let rows = (self.spans * self.span) as u64;
        (DType::F16, vec![rows, self.dim as u64], self.span as u64)
    }

    pub(super) fn token_norms(&self) -> (DType, Vec<u64>, u64) {
        (DType::F32, vec![self.spans as u64, self.span as u64], BLOCK_ROWS)
    }

    pub(super) fn goals(&self) -> (DType, Vec<u64>, u64) {
        let rows = (self.aims * self.most_goals) as u64;
        (DType::F32, vec![rows, self.dim as u64], self.most_goals as u64)
    }
}

/// The vectors of a store as bytes.
pub(super) struct StoreTensors {
    names: Names,
    sizes: Sizes,
    keys: Vec<u8>,
    key_sums: Vec<u8>,
    token_keys: Vec<u8>,
    token_norms: Vec<u8>,
    goals: Vec<u8>,
}

impl StoreTensors {
    pub(super) fn of(store: StoreKind, bank: &Bank, memory: &UnifiedMemory) -> Self {
        let past = |used: &dyn Fn(&Slot) -> bool| {
            bank.iter()
                .filter(|(_, slot)| used(slot))
                .last()
                .map_or(0, |(position, _)| position + 1)
        };
        let sizes = Sizes {
            dim: memory.dim(),
            span: memory.config.max_span_tokens as usize,
            rows: past(&|_| true),
            spans: past(&|slot| !slot.token_keys.is_empty()),
            most_goals: memory.config.goal_vectors as usize,
            aims: past(&|slot| !slot.goals.is_empty()),
        };
        let mut tensors = Self::zero(store, sizes);
        for (position, slot) in bank.iter() {
            tensors.write(position, slot);
        }
        tensors
    }

    /// Those of long-term entries that lie one after the other.
    ///
    /// * `dim`, `span`, `most_goals`: of the memory
    /// * `records`: of `slots`, with the lengths that these ask for
    pub(super) fn of_records(
        (dim, span, most_goals): (usize, usize, usize),
        slots: &[SlotState],
        records: &[SlotRecord],
    ) -> Self {
        let past = |used: &dyn Fn(&SlotState) -> bool| {
            slots.iter().rposition(used).map_or(0, |place| place + 1)
        };
        let (spans, aims) = (past(&|slot| slot.token_keys), past(&|slot| slot.goals > 0));
        let sizes = Sizes { dim, span, rows: slots.len(), spans, most_goals, aims };
        let mut tensors = Self::zero(StoreKind::Ltm, sizes);
        for (place, record) in records.iter().enumerate() {
            tensors.write_record(place, record);
        }
        tensors
    }

    fn zero(store: StoreKind, sizes: Sizes) -> Self {
        Self {
            names: names(store),
            keys: vec![0; sizes.rows * sizes.dim * 4],
            key_sums: vec![0; sizes.rows * sizes.dim * 8],
            token_keys: vec![0; sizes.spans * sizes.span * sizes.dim * 2],
            token_norms: vec![0; sizes.spans * sizes.span * 4],
            goals: vec![0; sizes.aims * sizes.most_goals * sizes.dim * 4],
            sizes,
        }
    }

    fn write(&mut self, position: usize, slot: &Slot) {
        let halves = halves_of(slot.token_keys.rows());
        let sums = &slot.statistics.weighted_sum;
        self.write_vectors(position, &slot.key, sums, &slot.goals.concat());
        self.write_tokens(position, &halves, slot.token_keys.norms());
    }

    fn write_record(&mut self, place: usize, record: &SlotRecord) {
        self.write_vectors(place, &record.key, &record.key_sums, &record.goals);
        self.write_tokens(place, &record.token_keys, &record.token_norms);
    }

    fn write_vectors(&mut self, place: usize, key: &[f32], sums: &[f64], goals: &[f32]) {
        let Sizes { dim, most_goals, .. } = self.sizes;
        put(&mut self.keys, place * dim, key.iter().map(|key| key.to_le_bytes()));
        put(&mut self.key_sums, place * dim, sums.iter().map(|sum| sum.to_le_bytes()));
        let goals = goals.iter().map(|value| value.to_le_bytes());
        put(&mut self.goals, place * most_goals * dim, goals);
    }

    /// * `halves`: bytes of the token keys
    fn write_tokens(&mut self, place: usize, halves: &[u8], norms: &[f32]) {
        let Sizes { dim, span, .. } = self.sizes;
        put(&mut self.token_keys, place * span * dim * 2, halves.iter().map(|byte| [*byte]));
        put(&mut self.token_norms, place * span, norms.iter().map(|norm| norm.to_le_bytes()));
    }

    pub(super) fn into_tensors(self) -> impl Iterator<Item = MemoryTensor> {
        let Self { names, sizes, keys, key_sums, token_keys, token_norms, goals } = self;
        [
            (names.keys, sizes.keys(), keys),
            (names.key_sums, sizes.key_sums(), key_sums),
            (names.token_keys, sizes.token_keys(), token_keys),
            (names.token_norms, sizes.token_norms(), token_norms),
            (names.goals, sizes.goals(), goals),
        ]
        .into_iter()
        .filter(|(_, _, bytes)| !bytes.is_empty())
        .map(|(name, (dtype, shape, rows_per_block), bytes)| MemoryTensor {
            name: name.to_owned(),
            dtype,
            shape,
            rows_per_block,
            bytes,
        })
    }
}

/// Values that half precision holds, in half precision, little-endian.
pub(super) fn halves_of(rows: &[f32]) -> Vec<u8> {
    let mut halves = vec![f16::ZERO; rows.len()];
    halves.convert_from_f32_slice(rows);
    halves.iter().flat_map(|half| half.to_le_bytes()).collect()
}

pub(super) fn bytes_of_f32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Writes values of `N` bytes from value `start` on.
fn put<const N: usize>(target: &mut [u8], start: usize, values: impl Iterator<Item = [u8; N]>) {
    let (places, _) = target.get_mut(start * N..).unwrap_or_default().as_chunks_mut::<N>();
    for (place, value) in places.iter_mut().zip(values) {
        *place = value;
    }
}
