//! Named sessions that survive a restart: what they remember is saved in the store, after each answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cart_engine::long_term::SavedConversations;
use cart_engine::{Agent, SaveError, read_memory, with_memory};
use cart_format::{BlobId, Commit, CommitId, ManifestId, Recipe, SpaceId};
use cart_memory::UnifiedMemory;
use cart_store::{Cartridge, ObjectError, RefError, RefName, RefNameError, ResolveError, Store};
use serde::Serialize;
use thiserror::Error;

/// What their refs begin with.
const FOLDER: &str = "sessions";
/// The tag of what is remembered outside of sessions.
const OWN: &str = "own";

/// How many sessions are kept, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Most sessions; a request with the name of another one is refused.
    pub most: usize,
    /// How long one is kept that no answer was given in.
    pub expiry: Duration,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self { most: 1000, expiry: Duration::from_hours(30 * 24) }
    }
}

/// The sessions that are saved in a store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sessions(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    limits: SessionLimits,
    /// Of each thing that is saved the epoch of the memory that was saved last. Held while something is saved, so that
    /// two answers in one session save one after the other.
    saved: Mutex<BTreeMap<RefName, Seen>>,
}

/// Which memory was saved last, and how often it had changed by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    manifest: ManifestId,
    epoch: u64,
}

/// Why a session was not saved, found or deleted.
#[derive(Debug, Error)]
pub enum SessionError {
    /// Its name can't be turned into one of the store's.
    #[error(transparent)]
    Name(#[from] RefNameError),
    /// A ref.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// A commit or a manifest.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// What is saved can't be opened.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// What is saved can't be read.
    #[error(transparent)]
    Read(#[from] cart_engine::MemorySectionError),
    /// The memory can't be written.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// There are as many as there may be.
    #[error(
        "{found} sessions are saved, and {most} are allowed; delete one (DELETE /cart/sessions/NAME), or raise --max-sessions"
    )]
    Full {
        /// Sessions.
        found: usize,
        /// Most.
        most: usize,
    },
}

/// A saved session, in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct SavedSession {
    /// Its name.
    pub(crate) session: String,
    /// Slots of its short-term memory.
    pub(crate) slots: Option<usize>,
    /// When it was saved last, in seconds since 1970-01-01 UTC.
    pub(crate) saved: u64,
    /// When it will have expired.
    pub(crate) expires: u64,
    /// The space of its memory's vectors.
    pub(crate) space: String,
    /// The cartridge in which its memory is saved.
    pub(crate) manifest: ManifestId,
}

impl Sessions {
    /// The sessions of a store.
    pub fn new(store: Store, limits: SessionLimits) -> Self {
        Self(Arc::new(Shared { store, limits, saved: Mutex::default() }))
    }

    /// Refuses the name of a session that would be one too many.
    pub(crate) fn check(&self, agent: &Agent, name: &str) -> Result<(), SessionError> {
        let reference = reference(agent.space(), name)?;
        if self.0.store.read_ref(&reference)?.is_some() {
            return Ok(());
        }
        let (found, most) = (self.refs()?.len(), self.0.limits.most);
        if found >= most { Err(SessionError::Full { found, most }) } else { Ok(()) }
    }

    /// Saves what was remembered in an answer: what the agent remembers outside of sessions, which a session's memory goes into
    /// with time, then the session. Nothing is written where nothing has changed. Blocks.
    pub(crate) fn save(&self, agent: &Agent, name: Option<&str>) -> Result<(), SessionError> {
        let mut saved = self.saved();
        self.save_one(
            agent,
            &own(agent.id())?,
            "what is remembered outside of sessions",
            &mut saved,
        )?;
        let Some(name) = name else { return Ok(()) };
        let Ok(session) = agent.in_conversation(name) else { return Ok(()) };
        self.save_one(&session, &reference(agent.space(), name)?, name, &mut saved)
    }

    fn save_one(
        &self,
        agent: &Agent,
        reference: &RefName,
        message: &str,
        saved: &mut BTreeMap<RefName, Seen>,
    ) -> Result<(), SessionError> {
        let now = Seen { manifest: agent.id(), epoch: agent.memory_epoch() };
        let Some(memory) = agent.memory().filter(|_| saved.get(reference) != Some(&now)) else {
            return Ok(());
        };
        let store = &self.0.store;
        let (manifest, _) = with_memory(agent.manifest(), &memory.on_its_own(), store)?;
        let time = unix_seconds();
        let mut commit = Commit::new(store.put_manifest(&manifest)?, time, Recipe::new("session"));
        message.clone_into(&mut commit.message);
        let id = store.put_commit(&commit)?;
        let before = store.read_ref(reference)?;
        if before != Some(id) {
            store.update_ref(reference, before, id, time, "an answer")?;
        }
        saved.insert(reference.clone(), now);
        Ok(())
    }

    /// Every saved session, by name.
    pub(crate) fn list(&self) -> Result<Vec<SavedSession>, SessionError> {
        let mut listed = Vec::new();
        for (reference, id) in self.refs()? {
            let commit = self.0.store.commit(&id)?;
            listed.push(self.described(&reference, &commit, None));
        }
        listed.sort_by(|a, b| (&a.session, &a.space).cmp(&(&b.session, &b.space)));
        Ok(listed)
    }

    /// A session of this space, with what it remembers.
    pub(crate) fn find(
        &self,
        space: SpaceId,
        name: &str,
    ) -> Result<Option<(SavedSession, UnifiedMemory)>, SessionError> {
        let reference = reference(space, name)?;
        let Some((commit, memory)) = self.read(&reference)? else { return Ok(None) };
        let slots = Some(memory.slots().filter(|(slot, _)| is_short(slot)).count());
        Ok(Some((self.described(&reference, &commit, slots), memory)))
    }

    /// Deletes a session of this space; whether there was one.
    pub(crate) fn delete(&self, space: SpaceId, name: &str) -> Result<bool, SessionError> {
        let reference = reference(space, name)?;
        let mut saved = self.saved();
        saved.remove(&reference);
        let Some(id) = self.0.store.read_ref(&reference)? else { return Ok(false) };
        self.0.store.delete_ref(&reference, id, unix_seconds(), "deleted")?;
        Ok(true)
    }

    /// Deletes the sessions that have expired, and says how many.
    pub(crate) fn expire(&self) -> Result<usize, SessionError> {
        let (now, mut expired) = (unix_seconds(), 0);
        let mut saved = self.saved();
        for (reference, id) in self.refs()? {
            if self.0.store.commit(&id)?.time.saturating_add(self.0.limits.expiry.as_secs()) <= now
            {
                self.0.store.delete_ref(&reference, id, now, "expired")?;
                saved.remove(&reference);
                expired += 1;
            }
        }
        Ok(expired)
    }

    /// The refs of sessions, without what is remembered outside of them.
    fn refs(&self) -> Result<Vec<(RefName, CommitId)>, SessionError> {
        let mut refs = self.0.store.list_refs()?;
        let folder = format!("{FOLDER}/");
        refs.retain(|(name, _)| name.name().starts_with(&folder) && name.tag() != OWN);
        Ok(refs)
    }

    fn read(&self, reference: &RefName) -> Result<Option<(Commit, UnifiedMemory)>, SessionError> {
        let Some(id) = self.0.store.read_ref(reference)? else { return Ok(None) };
        let found = self.0.store.resolve(&reference.to_string())?;
        let cartridge: Cartridge = self.0.store.open_cartridge(&found)?;
        let commit = self.0.store.commit(&id)?;
        Ok(read_memory(&cartridge)?.map(|memory| (commit, memory)))
    }

    fn described(
        &self,
        reference: &RefName,
        commit: &Commit,
        slots: Option<usize>,
    ) -> SavedSession {
        let space = reference.name().strip_prefix(FOLDER).unwrap_or_default();
        SavedSession {
            session: commit.message.clone(),
            slots,
            saved: commit.time,
            expires: commit.time.saturating_add(self.0.limits.expiry.as_secs()),
            space: space.trim_start_matches('/').to_owned(),
            manifest: commit.manifest,
        }
    }

    fn saved(&self) -> MutexGuard<'_, BTreeMap<RefName, Seen>> {
        self.0.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SavedConversations for Sessions {
    fn conversation(
        &self,
        name: &str,
        space: SpaceId,
    ) -> Result<Option<UnifiedMemory>, Box<dyn std::error::Error + Send + Sync>> {
        let found = self.read(&reference(space, name)?)?;
        Ok(found.map(|(_, memory)| memory))
    }

    fn own(
        &self,
        cartridge: ManifestId,
    ) -> Result<Option<UnifiedMemory>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.read(&own(cartridge)?)?.map(|(_, memory)| memory))
    }
}

/// Where a session is saved: sessions of two spaces are two, whatever they are called.
fn reference(space: SpaceId, name: &str) -> Result<RefName, RefNameError> {
    // The SHA-256 of the name, as far as a tag has room.
    let digest = BlobId::of(name.as_bytes()).hex();
    RefName::new(&format!("{FOLDER}/{}", &space.hex()[..16]), &digest[..40])
}

/// Where that is saved which a cartridge remembers outside of sessions.
fn own(cartridge: ManifestId) -> Result<RefName, RefNameError> {
    RefName::new(&format!("{FOLDER}/{}", &cartridge.hex()[..16]), OWN)
}

fn is_short(slot: &cart_memory::SlotRef) -> bool {
    slot.store == cart_memory::StoreKind::Stm
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
