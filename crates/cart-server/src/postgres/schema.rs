//! The tables (spec 71), and their making.

use postgres::{Client, GenericClient, Transaction};

use super::error::DatabaseError;

/// The layout that this version writes.
pub(super) const LAYOUT: i32 = 1;
/// The key of the advisory lock under which tables and spaces are made: `cart` and 71, the page.
const LOCK: i64 = 0x6361_7274_0000_0047;

/// How keys are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// As `vector` of pgvector.
    Vector,
    /// As `real[]`.
    Array,
}

impl Keys {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Vector => "vector",
            Self::Array => "real[]",
        }
    }
}

/// Makes the tables where they are missing; says how keys are kept in them.
pub(super) fn prepare(client: &mut Client) -> Result<Keys, DatabaseError> {
    if let Some(keys) = keys(client)? {
        return Ok(keys);
    }
    let extension = has_vector(client)?;
    let mut transaction = client.transaction()?;
    lock(&mut transaction)?;
    if let Some(keys) = keys(&mut transaction)? {
        return Ok(keys);
    }
    let keys = if extension { Keys::Vector } else { Keys::Array };
    transaction.batch_execute(&tables(keys))?;
    transaction.commit()?;
    Ok(keys)
}

/// Waits until nobody else makes tables or spaces, up to the end of the transaction.
pub(super) fn lock(transaction: &mut Transaction<'_>) -> Result<(), DatabaseError> {
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])?;
    Ok(())
}

/// How keys are kept in the tables that are there.
fn keys(client: &mut impl GenericClient) -> Result<Option<Keys>, DatabaseError> {
    let column = client.query_opt(
        "SELECT format_type(atttypid, NULL) FROM pg_attribute
         WHERE attrelid = to_regclass('cart_ltm_slots') AND attname = 'key'",
        &[],
    )?;
    Ok(column.map(|row| match row.get::<_, &str>(0) {
        "real[]" => Keys::Array,
        _ => Keys::Vector,
    }))
}

/// Whether pgvector is there, or can be brought in.
fn has_vector(client: &mut Client) -> Result<bool, DatabaseError> {
    let found = client.query_opt(
        "SELECT installed_version IS NOT NULL FROM pg_available_extensions WHERE name = 'vector'",
        &[],
    )?;
    let Some(found) = found else { return Ok(false) };
    // Where it may not be brought in, arrays do.
    Ok(found.get(0) || client.batch_execute("CREATE EXTENSION IF NOT EXISTS vector").is_ok())
}

fn tables(keys: Keys) -> String {
    let key = keys.name();
    format!(
        "CREATE TABLE cart_ltm_spaces (
             space text PRIMARY KEY,
             layout integer NOT NULL,
             version bigint NOT NULL,
             state json NOT NULL,
             centre real[] NOT NULL,
             scale real[] NOT NULL,
             changed timestamptz NOT NULL DEFAULT now()
         );
         CREATE TABLE cart_ltm_slots (
             space text NOT NULL REFERENCES cart_ltm_spaces ON DELETE CASCADE,
             position integer NOT NULL,
             version bigint NOT NULL,
             state json,
             key {key},
             key_sums double precision[],
             token_keys bytea,
             token_norms real[],
             goals real[],
             PRIMARY KEY (space, position)
         );
         CREATE INDEX cart_ltm_slots_version ON cart_ltm_slots (space, version);
         CREATE TABLE cart_ltm_offers (
             offer bytea PRIMARY KEY,
             space text NOT NULL REFERENCES cart_ltm_spaces ON DELETE CASCADE,
             settlement json NOT NULL,
             at timestamptz NOT NULL DEFAULT now()
         );"
    )
}
