//! Between rows and records.

use std::collections::BTreeMap;

use cart_engine::long_term::{OfferId, PendingOffer};
use cart_format::DType;
use cart_memory::{MemorySnapshot, MemoryTensor, Settlement, SlotId, SlotRecord, UnifiedMemory};
use postgres::{Client, IsolationLevel, Row, Transaction};
use serde_json::Value;

use super::error::DatabaseError;
use super::schema::{Keys, LAYOUT};

/// The rows of one space.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    /// 64 hexadecimal digits.
    pub(super) space: String,
    pub(super) keys: Keys,
}

/// What of an entry is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// All of it.
    Entries,
    /// Everything but vectors.
    States,
}

/// Entries by position; none where one has left.
pub(super) type Changes = Vec<(u32, Option<SlotRecord>)>;

/// A transaction that only reads, and sees one instant.
pub(super) fn reading(client: &mut Client) -> Result<Transaction<'_>, DatabaseError> {
    let begin = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
    Ok(begin.read_only(true).start()?)
}

/// The spaces that the database has.
pub(super) fn spaces(transaction: &mut Transaction<'_>) -> Result<Vec<String>, DatabaseError> {
    let rows = transaction.query("SELECT space FROM cart_ltm_spaces ORDER BY space", &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

impl Rows {
    /// The head of the memory and its version, if it is there.
    pub(super) fn begin(
        &self,
        transaction: &mut Transaction<'_>,
    ) -> Result<Option<(MemorySnapshot, i64)>, DatabaseError> {
        let row = transaction.query_opt(
            "SELECT layout, version, state, centre, scale FROM cart_ltm_spaces WHERE space = $1",
            &[&self.space],
        )?;
        let Some(row) = row else { return Ok(None) };
        let found: i32 = row.get(0);
        if found > LAYOUT {
            return Err(DatabaseError::Layout { found, known: LAYOUT });
        }
        let (centre, scale): (Vec<f32>, Vec<f32>) = (row.get(3), row.get(4));
        let goal = vec![0.0; centre.len()];
        let tensors = [("centre", &centre), ("goal", &goal), ("scale", &scale)];
        let head = MemorySnapshot {
            space: self.space.parse().expect("it was made from an id"),
            dim: centre.len() as u64,
            state: row.get(2),
            tensors: tensors.into_iter().map(|(name, values)| tensor(name, values)).collect(),
        };
        Ok(Some((head, row.get(1))))
    }

    /// The version of the memory, if it is there.
    pub(super) fn version(
        &self,
        transaction: &mut Transaction<'_>,
    ) -> Result<Option<i64>, DatabaseError> {
        let version = "SELECT version FROM cart_ltm_spaces WHERE space = $1";
        Ok(transaction.query_opt(version, &[&self.space])?.map(|row| row.get(0)))
    }

    /// The same, and nobody else changes the memory before the transaction ends.
    pub(super) fn lock(
        &self,
        transaction: &mut Transaction<'_>,
    ) -> Result<Option<i64>, DatabaseError> {
        let version = "SELECT version FROM cart_ltm_spaces WHERE space = $1 FOR UPDATE";
        Ok(transaction.query_opt(version, &[&self.space])?.map(|row| row.get(0)))
    }

    /// The head as it is now, and what has changed since a version.
    ///
    /// * `copy`: the memory as of that version
    pub(super) fn since(
        &self,
        transaction: &mut Transaction<'_>,
        copy: &UnifiedMemory,
        version: i64,
    ) -> Result<(MemorySnapshot, Changes), DatabaseError> {
        let state = "SELECT state FROM cart_ltm_spaces WHERE space = $1";
        let state: Value = transaction.query_one(state, &[&self.space])?.get(0);
        let head = MemorySnapshot { state, ..copy.long_term_head() };
        Ok((head, self.changed(transaction, version)?))
    }

    /// Entries that have changed since a version, in order of position.
    pub(super) fn changed(
        &self,
        transaction: &mut Transaction<'_>,
        version: i64,
    ) -> Result<Changes, DatabaseError> {
        let rows = transaction.query(
            "SELECT position, state, key::real[], key_sums, token_keys, token_norms, goals
             FROM cart_ltm_slots WHERE space = $1 AND version > $2 ORDER BY position",
            &[&self.space, &version],
        )?;
        Ok(rows.iter().map(record).collect())
    }

    /// Puts a memory without entries into the database.
    pub(super) fn create(
        &self,
        transaction: &mut Transaction<'_>,
        head: &MemorySnapshot,
    ) -> Result<(), DatabaseError> {
        let values = |name| head.tensor(name).map_or_else(Vec::new, floats);
        transaction.execute(
            "INSERT INTO cart_ltm_spaces (space, layout, version, state, centre, scale)
             VALUES ($1, $2, 0, $3, $4, $5)",
            &[&self.space, &LAYOUT, &head.state, &values("centre"), &values("scale")],
        )?;
        Ok(())
    }

    /// Writes entries.
    pub(super) fn write(
        &self,
        transaction: &mut Transaction<'_>,
        write: Write,
        version: i64,
        changes: &[(u32, Option<SlotRecord>)],
    ) -> Result<(), DatabaseError> {
        if changes.is_empty() {
            return Ok(());
        }
        let all = transaction.prepare(&format!(
            "INSERT INTO cart_ltm_slots
                 (space, position, version, state, key, key_sums, token_keys, token_norms, goals)
             VALUES ($1, $2, $3, $4, $5::real[]::{}, $6, $7, $8, $9)
             ON CONFLICT (space, position) DO UPDATE SET
                 version = excluded.version, state = excluded.state, key = excluded.key,
                 key_sums = excluded.key_sums, token_keys = excluded.token_keys,
                 token_norms = excluded.token_norms, goals = excluded.goals",
            self.keys.name()
        ))?;
        let states =
            "UPDATE cart_ltm_slots SET version = $3, state = $4 WHERE space = $1 AND position = $2";
        for (position, record) in changes {
            let position = position.cast_signed();
            let state = record.as_ref().map(|record| &record.state);
            if write == Write::States {
                transaction.execute(states, &[&self.space, &position, &version, &state])?;
                continue;
            }
            let of = record.as_ref();
            transaction.execute(
                &all,
                &[
                    &self.space,
                    &position,
                    &version,
                    &state,
                    &of.map(|record| &record.key),
                    &of.map(|record| &record.key_sums),
                    &of.map(|record| &record.token_keys),
                    &of.map(|record| &record.token_norms),
                    &of.map(|record| &record.goals),
                ],
            )?;
        }
        Ok(())
    }

    /// Writes what the memory is apart from entries.
    pub(super) fn end(
        &self,
        transaction: &mut Transaction<'_>,
        version: i64,
        head: &MemorySnapshot,
    ) -> Result<(), DatabaseError> {
        transaction.execute(
            "UPDATE cart_ltm_spaces SET version = $2, state = $3, changed = now() WHERE space = $1",
            &[&self.space, &version, &head.state],
        )?;
        Ok(())
    }

    /// Notes what became of offers.
    pub(super) fn note(
        &self,
        transaction: &mut Transaction<'_>,
        settled: &[(OfferId, Settlement)],
    ) -> Result<(), DatabaseError> {
        let note = "INSERT INTO cart_ltm_offers (offer, space, settlement) VALUES ($1, $2, $3)";
        for (id, settlement) in settled {
            let settlement = serde_json::to_value(settlement)?;
            transaction.execute(note, &[&id.as_bytes().as_slice(), &self.space, &settlement])?;
        }
        Ok(())
    }

    /// Entries nearest to a raw key by cosine.
    pub(super) fn nearest(
        &self,
        client: &mut Client,
        key: &[f32],
        most: usize,
    ) -> Result<Vec<(SlotId, f64)>, DatabaseError> {
        let distance = match self.keys {
            Keys::Vector => "key <=> $2::real[]::vector",
            Keys::Array => {
                "1 - (SELECT sum(a::float8 * b) / sqrt(sum(a::float8 * a) * sum(b::float8 * b))
                      FROM unnest(key, $2::real[]) AS pair (a, b))"
            }
        };
        let rows = client.query(
            &format!(
                "SELECT (state->>'id')::bigint, {distance} AS distance FROM cart_ltm_slots
                 WHERE space = $1 AND state IS NOT NULL ORDER BY distance, position LIMIT $3"
            ),
            &[&self.space, &key, &(most as i64)],
        )?;
        rows.iter()
            .map(|row| {
                let id = serde_json::from_value(row.get::<_, i64>(0).into())?;
                Ok((id, 1.0 - row.get::<_, f64>(1)))
            })
            .collect()
    }
}

/// What became of offers that were committed before.
pub(super) fn known(
    transaction: &mut Transaction<'_>,
    offers: &[PendingOffer],
) -> Result<BTreeMap<OfferId, Settlement>, DatabaseError> {
    let ids: Vec<&[u8]> = offers.iter().map(|offer| offer.id.as_bytes().as_slice()).collect();
    let rows = transaction
        .query("SELECT offer, settlement FROM cart_ltm_offers WHERE offer = ANY($1)", &[&ids])?;
    let mut known = BTreeMap::new();
    for row in rows {
        let (id, settlement): (&[u8], Value) = (row.get(0), row.get(1));
        let settlement: Settlement = serde_json::from_value(settlement)?;
        let found = offers.iter().find(|offer| offer.id.as_bytes() == id);
        known.extend(found.map(|offer| (offer.id, settlement)));
    }
    Ok(known)
}

fn record(row: &Row) -> (u32, Option<SlotRecord>) {
    let position = row.get::<_, i32>(0).cast_unsigned();
    let state: Option<Value> = row.get(1);
    let record = state.map(|state| SlotRecord {
        position,
        state,
        key: row.get::<_, Option<_>>(2).unwrap_or_default(),
        key_sums: row.get::<_, Option<_>>(3).unwrap_or_default(),
        token_keys: row.get::<_, Option<_>>(4).unwrap_or_default(),
        token_norms: row.get::<_, Option<_>>(5).unwrap_or_default(),
        goals: row.get::<_, Option<_>>(6).unwrap_or_default(),
    });
    (position, record)
}

fn tensor(name: &str, values: &[f32]) -> MemoryTensor {
    MemoryTensor {
        name: name.to_owned(),
        dtype: DType::F32,
        shape: vec![values.len() as u64],
        rows_per_block: values.len() as u64,
        bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

fn floats(tensor: &MemoryTensor) -> Vec<f32> {
    tensor.bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect()
}
