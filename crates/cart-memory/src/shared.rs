//! One long-term memory that many share: each conversation is a memory with a short-term ring of its own over a
//! snapshot of the long-term memory. What it would consolidate it offers instead, and whoever holds the
//! long-term memory takes the offers in one order, each once.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::bank::SharedBank;
use crate::event::{Cause, Intake, MemoryEvent};
use crate::ltm::{Offer, Outcome, Taken};
use crate::observation::{MemoryError, check_tick};
use crate::slot::{Consolidation, KeyStatistics, Slot, SlotId, SlotRef, StoreKind, Validity};
use crate::snapshot::{RestoreError, SlotRecord};
use crate::{Tick, UnifiedMemory};

/// Slots of conversations are counted from here, so that no id is also one of the long-term memory.
const CONVERSATION_IDS: u64 = 1 << 52;

/// A slot that a conversation offers to the long-term memory that it shares.
#[derive(Clone, Debug, PartialEq)]
pub struct Offered {
    /// The conversation's slot.
    pub from: SlotId,
    /// Why it is offered.
    pub cause: Cause,
    /// What is offered. Its ticks are 0: the clock of a conversation is not that of the long-term memory.
    slot: Slot,
}

impl Offered {
    /// What it says.
    pub fn text(&self) -> &str {
        &self.slot.value.text
    }

    /// The record of what is offered.
    pub fn record(&self) -> SlotRecord {
        SlotRecord::of(0, &self.slot)
    }

    /// An offer that was written down.
    ///
    /// * `over`: a memory of the space that it belongs to, with the settings of the long-term memory
    ///
    /// # Errors
    /// The record does not fit the memory.
    pub fn from_record(
        over: &UnifiedMemory,
        from: SlotId,
        cause: Cause,
        record: &SlotRecord,
    ) -> Result<Self, RestoreError> {
        Ok(Self { from, cause, slot: over.read_offer(record)? })
    }
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Settlement {
    /// It is in an entry that says the same.
    Merged {
        /// The entry.
        into: SlotId,
    },
    /// It is a new entry.
    Inserted {
        /// The entry.
        into: SlotId,
    },
    /// It is a new entry in the place of another.
    Replaced {
        /// The entry.
        into: SlotId,
    },
    /// Every entry is worth more.
    Outranked,
    /// It can't be an entry of this memory.
    Refused,
}

impl Settlement {
    /// The entry that it is in now.
    pub fn entry(self) -> Option<SlotId> {
        match self {
            Self::Merged { into } | Self::Inserted { into } | Self::Replaced { into } => Some(into),
            Self::Outranked | Self::Refused => None,
        }
    }
}

/// What goes from a conversation to the long-term memory that it shares.
#[derive(Clone, Debug)]
pub(crate) struct Offers {
    made: Vec<Offered>,
    /// Slots that were offered and not settled, with the sums that went along.
    pending: BTreeMap<SlotId, KeyStatistics>,
    /// Entries that were read.
    pub(crate) reads: BTreeSet<SlotId>,
    /// The entries as they were adopted, before this conversation looked at them.
    adopted: SharedBank,
}

impl UnifiedMemory {
    /// A conversation over this long-term memory: the same settings, nothing in short-term memory, no
    /// goal, and every entry that holds.
    pub fn conversation(&self) -> Self {
        let mut own = Self::new(self.space, self.normalization.clone(), self.config.clone())
            .expect("these settings were checked when the memory was made");
        own.next_slot = CONVERSATION_IDS;
        own.offers = Some(Offers {
            made: Vec::new(),
            pending: BTreeMap::new(),
            reads: BTreeSet::new(),
            adopted: own.ltm.clone(),
        });
        own.adopt(self);
        own
    }

    /// Whether it is a conversation over a long-term memory that others share.
    pub fn is_conversation(&self) -> bool {
        self.offers.is_some()
    }

    /// Whether it has the long-term memory as it is now.
    pub fn has_adopted(&self, shared: &Self) -> bool {
        self.offers.as_ref().is_none_or(|offers| offers.adopted.is_same(&shared.ltm))
    }

    /// The memory with its long-term memory for itself.
    pub fn on_its_own(&self) -> Self {
        Self { offers: None, ..self.clone() }
    }

    /// Takes the long-term memory as it is now: entries that hold; links to others go. Costs nothing
    /// where it has not changed. Does nothing to a memory that is no conversation.
    pub fn adopt(&mut self, shared: &Self) {
        let Some(offers) = &mut self.offers else { return };
        if offers.adopted.is_same(&shared.ltm) {
            return;
        }
        let before = self.ltm.clone();
        offers.adopted = shared.ltm.clone();
        self.ltm = shared.holding();
        let gone: Vec<SlotId> = if self.config.graph.is_some() {
            let ids = before.iter().map(|(_, slot)| slot.id);
            ids.filter(|&id| self.ltm.find(id).is_none()).collect()
        } else {
            Vec::new()
        };
        gone.into_iter().for_each(|id| self.unlink(id, None));
    }

    /// The entries that hold. Whether one does is asked by the clock of the long-term memory, so it
    /// can't be asked by a conversation's.
    fn holding(&self) -> SharedBank {
        let mut bank = self.ltm.clone();
        let ended: Vec<usize> = bank
            .iter()
            .filter(|(_, slot)| !slot.validity.holds(self.now))
            .map(|(position, _)| position)
            .collect();
        for position in ended {
            bank.remove(position);
        }
        bank
    }

    /// What is to be offered since the last call, in order.
    pub fn take_offers(&mut self) -> Vec<Offered> {
        self.offers.as_mut().map(|offers| std::mem::take(&mut offers.made)).unwrap_or_default()
    }

    /// Entries of long-term memory that were read since the last call.
    pub fn take_reads(&mut self) -> Vec<SlotId> {
        let reads = self.offers.as_mut().map(|offers| std::mem::take(&mut offers.reads));
        reads.unwrap_or_default().into_iter().collect()
    }

    /// Hears what became of an offer. Where no entry took it, its sums come back.
    pub fn settled(&mut self, from: SlotId, settlement: Settlement) {
        let Some(offers) = &mut self.offers else { return };
        let sums = offers.pending.remove(&from);
        let Some(position) = self.stm.find(from) else { return };
        let mut slot = self.stm.slot_mut(position);
        match (settlement.entry(), sums) {
            (None, Some(sums)) => slot.statistics.merge(&sums),
            (into, _) => {
                if let Some(done) = &mut slot.consolidation {
                    done.into = into;
                }
            }
        }
    }

    /// Offers everything that is worth keeping, because the conversation ends here.
    pub fn part(&mut self) -> Vec<MemoryEvent> {
        let (at, mut events) = (self.now, Vec::new());
        let positions: Vec<usize> = self.stm.iter().map(|(position, _)| position).collect();
        for position in positions {
            let worth = self.is_worth_keeping(position) || self.corrects(at, position);
            if worth && !self.is_kept(position) && self.stm.slot(position).validity.holds(at) {
                self.consolidate(at, position, Cause::Eviction, &mut events);
            }
        }
        events
    }

    /// Takes an offer of a conversation, in the tick after the latest one, and prunes where that is due.
    ///
    /// # Errors
    /// The slot does not fit this memory, or there are no more ticks. Nothing has changed then.
    pub fn accept(
        &mut self,
        offered: &Offered,
    ) -> Result<(Settlement, Vec<MemoryEvent>), MemoryError> {
        let at = self.now + 1;
        check_tick(at, self.now)?;
        let unit = self.normalization.unit("key", &offered.slot.key)?;
        let (found, allowed) = (offered.slot.value.token_ids.len(), self.config.max_span_tokens);
        if found > allowed as usize {
            return Err(MemoryError::SpanTooLong { found, allowed });
        }
        let mut slot = offered.slot.clone();
        (slot.made, slot.refreshed, slot.read, slot.validity.from) = (at, at, at, at);
        slot.validity.until = slot.validity.until.map(|_| at);
        slot.goals.truncate(self.config.goal_vectors as usize);
        let offer = Offer {
            at,
            slot: &slot,
            unit: &unit,
            new_id: SlotId(self.next_slot),
            config: &self.config,
            normalization: &self.normalization,
        };
        let (outcome, mut events) = (offer.put_to(&mut self.ltm), Vec::new());
        self.now = at;
        let settlement = self.note(at, offered, outcome, &mut events);
        self.prune_if_due(at, &mut events);
        Ok((settlement, events))
    }

    fn note(
        &mut self,
        at: Tick,
        offered: &Offered,
        outcome: Outcome,
        events: &mut Vec<MemoryEvent>,
    ) -> Settlement {
        let (from, cause) = (offered.from, offered.cause);
        let gated_energy = offered.slot.gated_energy();
        let Taken { position, intake, reopened, gone } = match outcome {
            Outcome::Taken(taken) => taken,
            Outcome::Outranked { least } => {
                self.counters.outranked += 1;
                events.push(MemoryEvent::Outranked { slot: from, gated_energy, least });
                return Settlement::Outranked;
            }
        };
        let into = self.ltm.slot(position).id;
        self.note_intake(&intake);
        events.push(MemoryEvent::Consolidated { from, into, intake, gated_energy, cause });
        if reopened {
            let slot = SlotRef { store: StoreKind::Ltm, id: into };
            events.push(MemoryEvent::Reopened { slot });
        }
        if let Some(gone) = gone {
            self.succeed(&gone, None, events);
        }
        if self.ltm.slot(position).validity.holds(at) {
            self.contradict(at, (StoreKind::Ltm, position), events);
        }
        match intake {
            Intake::Inserted => Settlement::Inserted { into },
            Intake::Merged { .. } => Settlement::Merged { into },
            Intake::Replaced { .. } => Settlement::Replaced { into },
        }
    }

    /// Notes that conversations have read these entries; those that are gone are passed over.
    pub fn note_reads(&mut self, entries: &[SlotId]) {
        let at = self.now;
        for &id in entries {
            if let Some(position) = self.ltm.find(id)
                && self.ltm.slot(position).read < at
            {
                self.ltm.set_read(position, at);
            }
        }
    }

    /// Makes the offer of a conversation; its goal follows what it finds worth keeping.
    pub(crate) fn offer(
        &mut self,
        at: Tick,
        position: usize,
        slot: Slot,
        cause: Cause,
        events: &mut Vec<MemoryEvent>,
    ) {
        let (from, gated_energy) = (slot.id, slot.gated_energy());
        let holds = slot.validity.holds(at);
        let confidence = self.confidence(self.stm.unit(position));
        events.push(MemoryEvent::Offered { slot: from, gated_energy, cause });
        events.push(self.goal.pull(self.stm.unit(position), &self.config, confidence));
        let zero = KeyStatistics::zero(self.normalization.dim());
        let mut own = self.stm.slot_mut(position);
        own.consolidation = Some(Consolidation { at, into: None, energy: own.energy });
        let sums = std::mem::replace(&mut own.statistics, zero);
        drop(own);
        let until = (!holds).then_some(0);
        let offered = Slot {
            id: SlotId(0),
            made: 0,
            refreshed: 0,
            read: 0,
            consolidation: None,
            validity: Validity { from: 0, until, superseded_by: None },
            statistics: sums.clone(),
            ..slot
        };
        let Some(offers) = &mut self.offers else { return };
        offers.made.push(Offered { from, cause, slot: offered });
        match offers.pending.get_mut(&from) {
            Some(pending) => pending.merge(&sums),
            None => drop(offers.pending.insert(from, sums)),
        }
    }

    /// Whether long-term memory has what a short-term slot says, or will have heard of it.
    pub(crate) fn is_kept(&self, position: usize) -> bool {
        let id = self.stm.slot(position).id;
        let pending = self.offers.as_ref().is_some_and(|offers| offers.pending.contains_key(&id));
        pending || self.long_term_home(position).is_some()
    }

    /// Offers a slot at once that holds in place of an entry: the others have to hear of it.
    pub(crate) fn press(&mut self, at: Tick, position: usize, events: &mut Vec<MemoryEvent>) {
        if self.offers.is_none() {
            return;
        }
        let id = self.stm.slot(position).id;
        let corrects = !self.ltm.succeeded_by(id).is_empty();
        if corrects && !self.is_kept(position) {
            self.consolidate(at, position, Cause::Observer, events);
        }
    }
}
