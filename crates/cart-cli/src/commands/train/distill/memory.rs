//! What the teacher remembers, for the student.

use cart_engine::{Agent, MigrationError, MigrationOptions, RecallReport, migrate};
use cart_memory::UnifiedMemory;
use serde::Serialize;

use crate::failure::Failure;

/// What became of the teacher's memory.
#[derive(Serialize)]
pub(super) struct MemoryReport {
    /// Slots, of which none is lost.
    pub(super) slots: usize,
    /// How it got to the student.
    pub(super) road: Road,
    /// How much of what the teacher recalls the student recalls; none where it was copied.
    pub(super) recall: Option<RecallReport>,
    /// What the student's memory is.
    pub(super) memory_id: String,
}

/// How a memory gets to the student.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Road {
    /// Their space is the same.
    Copied,
    /// The student read every slot's text.
    Text,
}

/// Refuses a memory that the student could not be told, before anything is learned.
pub(super) fn check(teacher: &Agent) -> Result<(), Failure> {
    let Some(memory) = teacher.memory() else { return Ok(()) };
    match memory.slots().find(|(_, slot)| slot.value.text.trim().is_empty()) {
        None => Ok(()),
        Some((slot, _)) => Err(Failure::refused_with(
            MigrationError::NoText { slot },
            "--no-memory leaves what the teacher remembers out",
        )),
    }
}

/// What the teacher remembers, in the student's space; none where it remembers nothing.
pub(super) fn taken_along(
    teacher: &Agent,
    student: &Agent,
) -> Result<Option<(UnifiedMemory, MemoryReport)>, Failure> {
    let Some(memory) = teacher.memory().filter(|memory| memory.slots().next().is_some()) else {
        return Ok(None);
    };
    let (memory, road, recall) = if teacher.space() == student.space() {
        (UnifiedMemory::clone(&memory), Road::Copied, None)
    } else {
        let migrated = migrate(teacher, &memory, student, &MigrationOptions::default());
        let (memory, report) = migrated.map_err(Failure::refused)?;
        (memory, Road::Text, Some(report.recall))
    };
    let (slots, memory_id) = (memory.slots().count(), memory.snapshot().id().hex());
    Ok(Some((memory, MemoryReport { slots, road, recall, memory_id })))
}

impl MemoryReport {
    pub(super) fn said(&self) -> String {
        let slots = crate::bytes::counted(self.slots as u64, "slot");
        match &self.recall {
            None => format!("memory: {slots}, copied, as both are of one space"),
            Some(recall) => format!(
                "memory: {slots}, read again by the student; of {} it recalls first what the teacher does for {:.3}, among its ten best for {:.3}; \
                 the text asked for is among the ten for {:.3} of the teacher's and {:.3} of the student's",
                crate::bytes::counted(recall.queries as u64, "query").replace("querys", "queries"),
                recall.at_1,
                recall.at_10,
                recall.own_before,
                recall.own_after,
            ),
        }
    }
}
