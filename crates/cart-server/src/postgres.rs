//! A long-term memory in PostgreSQL, which several servers share (spec 71).
//!
//! Each server has a copy, which it brings up to date and reads. A consolidation is one transaction: it locks the row of
//! its space, brings the copy up to date, lets the rules of the memory work on it, writes the entries that have
//! changed, and notes the ids of the offers, so that one that is made again is not taken twice.

mod address;
mod error;
mod rows;
mod schema;

use std::path::PathBuf;
use std::sync::Arc;

use cart_engine::long_term::{LongTerm, LongTermError, LongTermSource, PendingOffer};
use cart_format::SpaceId;
use cart_memory::{MemorySnapshot, Settlement, SlotId, SlotRecord, UnifiedMemory};
use postgres::{Client, NoTls, Transaction};

pub use address::{Address, AddressError};
pub use error::DatabaseError;
use rows::{Rows, Write};

/// Where the long-term memory is, and how a server uses it.
#[derive(Clone, Debug)]
pub struct PostgresSource {
    /// The database.
    pub address: Address,
    /// Where offers wait that could not be committed.
    pub journal: PathBuf,
    /// Whether a space may begin in a database that has others, but not this one.
    pub may_begin: bool,
    /// Draws a number that nobody else draws, each time another one.
    pub draw: fn() -> u64,
}

impl LongTermSource for PostgresSource {
    fn open(&self, seed: &UnifiedMemory) -> Result<Box<dyn LongTerm>, LongTermError> {
        let begin = if self.may_begin { Begin::InAny } else { Begin::InEmpty };
        let opened = Postgres::open(&self.address, seed.space(), Some((seed, begin)));
        Ok(Box::new(opened.map_err(|error| error.at(&self.address))?))
    }

    fn journal(&self) -> Option<PathBuf> {
        Some(self.journal.clone())
    }

    fn draw(&self) -> u64 {
        (self.draw)()
    }
}

/// Where a space may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// In a database without any.
    InEmpty,
    /// In any database.
    InAny,
}

/// A long-term memory in a database.
pub struct Postgres {
    address: Address,
    space: SpaceId,
    /// None after an error: what a connection was in the middle of is not known.
    client: Option<Client>,
    rows: Rows,
    copy: Copy,
}

/// What the database has, as of a version.
struct Copy {
    memory: Arc<UnifiedMemory>,
    version: i64,
}

impl Postgres {
    /// The long-term memory of a space.
    ///
    /// # Errors
    /// The database can't be reached or used, or it has no memory of this space.
    pub fn read(address: &Address, space: SpaceId) -> Result<Self, DatabaseError> {
        Self::open(address, space, None)
    }

    /// * `seed`: what a space begins with that is not there, if it may begin
    fn open(
        address: &Address,
        space: SpaceId,
        seed: Option<(&UnifiedMemory, Begin)>,
    ) -> Result<Self, DatabaseError> {
        let mut client = connect(address)?;
        let keys = schema::prepare(&mut client)?;
        let rows = Rows { space: space.hex(), keys };
        if let Some((seed, begin)) = seed {
            begin_space(&mut client, &rows, seed, begin)?;
        }
        let mut reading = rows::reading(&mut client)?;
        let Some((head, version)) = rows.begin(&mut reading)? else {
            let found = rows::spaces(&mut reading)?;
            return Err(DatabaseError::NoSpace { expected: space, found });
        };
        let records = rows.changed(&mut reading, -1)?;
        reading.commit()?;
        let records: Vec<SlotRecord> =
            records.into_iter().filter_map(|(_, record)| record).collect();
        let memory = Arc::new(UnifiedMemory::from_records(&head, &records)?);
        let copy = Copy { memory, version };
        Ok(Self { address: address.clone(), space, client: Some(client), rows, copy })
    }

    /// The memory as it was when it was last looked at.
    pub fn memory(&self) -> &Arc<UnifiedMemory> {
        &self.copy.memory
    }

    /// How keys are kept: `vector` where the database has pgvector, else `real[]`.
    pub fn key_type(&self) -> &'static str {
        self.rows.keys.name()
    }

    /// Entries nearest to a direction by cosine, nearest first, as the database computes it over raw keys: for a look from
    /// outside. Recall goes over the copy.
    ///
    /// # Errors
    /// The database can't be reached.
    pub fn nearest(
        &mut self,
        key: &[f32],
        most: usize,
    ) -> Result<Vec<(SlotId, f64)>, DatabaseError> {
        let Self { client, rows, address, .. } = self;
        rows.nearest(connected(client, address)?, key, most)
    }

    /// Runs a change in a transaction that nobody else of this space is in, on a copy that is up to date.
    ///
    /// * `change`: changes the memory; says what of an entry it changes
    fn transact<T>(
        &mut self,
        write: Write,
        change: impl FnOnce(&mut Transaction<'_>, &Rows, &mut UnifiedMemory) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        let Self { client, rows, copy, address, .. } = self;
        let mut transaction = connected(client, address)?.transaction()?;
        let version = rows.lock(&mut transaction)?;
        let version = version.ok_or(DatabaseError::Gone)?;
        if version != copy.version {
            let (head, changes) =
                rows.since(&mut transaction, &copy.memory, copy.known(version))?;
            copy.catch_up(&head, &changes, version)?;
        }
        let before = (*copy.memory).clone();
        let mut changed = before.clone();
        let done = change(&mut transaction, rows, &mut changed)?;
        let changes = changed.long_term_changes(&before);
        rows.write(&mut transaction, write, version + 1, &changes)?;
        rows.end(&mut transaction, version + 1, &changed.long_term_head())?;
        transaction.commit()?;
        *copy = Copy { memory: Arc::new(changed), version: version + 1 };
        Ok(done)
    }

    /// A connection that failed is not used again.
    fn checked<T>(&mut self, done: Result<T, DatabaseError>) -> Result<T, LongTermError> {
        done.map_err(|error| {
            self.client = None;
            error.at(&self.address)
        })
    }

    fn look(&mut self) -> Result<(), DatabaseError> {
        let Self { client, rows, copy, address, .. } = self;
        let mut reading = rows::reading(connected(client, address)?)?;
        let version = rows.version(&mut reading)?.ok_or(DatabaseError::Gone)?;
        if version != copy.version {
            let (head, changes) = rows.since(&mut reading, &copy.memory, copy.known(version))?;
            copy.catch_up(&head, &changes, version)?;
        }
        Ok(reading.commit()?)
    }
}

impl Copy {
    fn catch_up(
        &mut self,
        head: &MemorySnapshot,
        changes: &[(u32, Option<SlotRecord>)],
        version: i64,
    ) -> Result<(), DatabaseError> {
        if version < self.version {
            // A database that was put back to an earlier state: everything is read anew.
            let records: Vec<SlotRecord> =
                changes.iter().filter_map(|(_, record)| record.clone()).collect();
            self.memory = Arc::new(UnifiedMemory::from_records(head, &records)?);
        } else {
            Arc::make_mut(&mut self.memory).take_changes(head, changes)?;
        }
        self.version = version;
        Ok(())
    }

    /// From which version on it has to be told what has changed.
    fn known(&self, version: i64) -> i64 {
        if version < self.version { -1 } else { self.version }
    }
}

impl LongTerm for Postgres {
    fn place(&self) -> String {
        self.address.to_string()
    }

    fn memory(&self) -> Option<Arc<UnifiedMemory>> {
        Some(Arc::clone(&self.copy.memory))
    }

    fn refresh(&mut self) -> Result<(), LongTermError> {
        let done = self.look();
        self.checked(done)
    }

    fn consolidate(&mut self, offers: &[PendingOffer]) -> Result<Vec<Settlement>, LongTermError> {
        let done = self.transact(Write::Entries, |transaction, rows, memory| {
            let known = rows::known(transaction, offers)?;
            let mut fresh = Vec::new();
            let settlements = offers.iter().map(|offer| {
                known.get(&offer.id).copied().unwrap_or_else(|| {
                    let accepted = memory.accept(&offer.offered);
                    let settlement = accepted.map_or(Settlement::Refused, |(settled, _)| settled);
                    fresh.push((offer.id, settlement));
                    settlement
                })
            });
            let settlements = settlements.collect();
            rows.note(transaction, &fresh)?;
            Ok(settlements)
        });
        self.checked(done)
    }

    fn note_reads(&mut self, entries: &[SlotId]) -> Result<(), LongTermError> {
        let done = self.transact(Write::States, |_, _, memory| {
            memory.note_reads(entries);
            Ok(())
        });
        self.checked(done)
    }
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres")
            .field("address", &self.address)
            .field("space", &self.space)
            .field("version", &self.copy.version)
            .finish_non_exhaustive()
    }
}

fn connect(address: &Address) -> Result<Client, DatabaseError> {
    Ok(address.config().connect(NoTls)?)
}

fn connected<'c>(
    client: &'c mut Option<Client>,
    address: &Address,
) -> Result<&'c mut Client, DatabaseError> {
    if client.as_ref().is_none_or(Client::is_closed) {
        *client = Some(connect(address)?);
    }
    Ok(client.as_mut().expect("it was put there if it was missing"))
}

/// Puts the seed into the database where it has no memory of its space.
fn begin_space(
    client: &mut Client,
    rows: &Rows,
    seed: &UnifiedMemory,
    begin: Begin,
) -> Result<(), DatabaseError> {
    let mut transaction = client.transaction()?;
    schema::lock(&mut transaction)?;
    if rows.version(&mut transaction)?.is_some() {
        return Ok(());
    }
    let found = rows::spaces(&mut transaction)?;
    if begin == Begin::InEmpty && !found.is_empty() {
        return Err(DatabaseError::OtherSpaces { expected: seed.space(), found });
    }
    rows.create(&mut transaction, &seed.long_term_head())?;
    let records = seed.long_term_records().into_iter();
    let records: Vec<_> = records.map(|record| (record.position, Some(record))).collect();
    rows.write(&mut transaction, Write::Entries, 0, &records)?;
    Ok(transaction.commit()?)
}
