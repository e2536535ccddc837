//! What becomes of the running memory on the way to another cartridge.

use std::sync::Arc;

use cart_format::SpaceId;
use cart_memory::UnifiedMemory;

use super::MemoryPolicy;
use super::refusal::SwapFailure;
use crate::Agent;
use crate::memory_cell::MemoryCell;
use crate::migration::migrate_by_text;

/// Most times that a memory is moved again because the running one has changed meanwhile.
const ROUNDS: usize = 3;

/// What an agent remembers, without what computes it.
#[derive(Clone)]
pub(crate) struct Remembered {
    space: SpaceId,
    cell: MemoryCell,
}

impl Remembered {
    pub(crate) fn of(agent: &Agent) -> Self {
        Self { space: agent.space(), cell: agent.memory_cell().clone() }
    }
}

/// The running memory, and how it moves.
pub(crate) struct Moving {
    policy: MemoryPolicy,
    running: Remembered,
}

/// A memory that has moved.
pub(crate) struct Moved {
    moving: Moving,
    /// What the new cartridge remembers itself.
    own: Option<Arc<UnifiedMemory>>,
    /// How often the running memory had changed when it moved.
    epoch: u64,
}

impl Moving {
    /// None where the running memory stays where it is.
    pub(crate) fn new(policy: MemoryPolicy, running: Remembered) -> Option<Self> {
        (policy != MemoryPolicy::Replace).then_some(Self { policy, running })
    }

    /// Moves the memory for the first time; gives the agent with it.
    pub(super) fn move_to(self, agent: Agent) -> Result<(Agent, Moved), SwapFailure> {
        if self.policy == MemoryPolicy::Carry || self.migrates_in_place(&agent) {
            let (found, expected) = (self.running.space, agent.space());
            if found != expected {
                return Err(cart_memory::ForeignSpace { found, expected }.into());
            }
            let agent = agent.with_cell(&self.running.cell);
            let epoch = self.running.cell.epoch();
            let moving = Self { policy: MemoryPolicy::Carry, ..self };
            return Ok((agent, Moved { moving, own: None, epoch }));
        }
        let mut moved = Moved { own: agent.memory(), epoch: 0, moving: self };
        moved.again(&agent)?;
        Ok((agent, moved))
    }

    /// Whether there is nothing to convert.
    fn migrates_in_place(&self, agent: &Agent) -> bool {
        self.policy == MemoryPolicy::Migrate && agent.space() == self.running.space
    }

    /// What the new cartridge is to remember.
    fn made(
        &self,
        agent: &Agent,
        own: Option<&UnifiedMemory>,
    ) -> Result<Option<UnifiedMemory>, SwapFailure> {
        let own = || own.cloned().map_or_else(|| agent.new_memory(), Ok);
        let Some(running) = self.running.cell.read() else {
            return Ok(match self.policy {
                MemoryPolicy::Migrate => None,
                _ => Some(own()?),
            });
        };
        Ok(Some(match self.policy {
            MemoryPolicy::Replace | MemoryPolicy::Carry => return Ok(None),
            MemoryPolicy::Migrate => migrate_by_text(&running, agent)?,
            MemoryPolicy::Merge => own()?.united(&running)?.0,
            MemoryPolicy::StmOnly => own()?.with_stm_of(&running)?.0,
            MemoryPolicy::GoalOnly => own()?.with_goal_of(&running)?,
        }))
    }
}

impl Moved {
    /// Moves the memory again where the running one has changed since, so that what was written while the new
    /// cartridge warmed up is not left behind.
    pub(super) fn catch_up(&mut self, agent: &Agent) -> Result<(), SwapFailure> {
        for _ in 0..ROUNDS {
            let is_shared = self.moving.policy == MemoryPolicy::Carry;
            if is_shared || self.moving.running.cell.epoch() == self.epoch {
                return Ok(());
            }
            self.again(agent)?;
        }
        Ok(())
    }

    fn again(&mut self, agent: &Agent) -> Result<(), SwapFailure> {
        self.epoch = self.moving.running.cell.epoch();
        let (found, expected) = (self.moving.running.space, agent.space());
        if self.moving.policy != MemoryPolicy::Migrate && found != expected {
            return Err(cart_memory::ForeignSpace { found, expected }.into());
        }
        let made = self.moving.made(agent, self.own.as_deref())?;
        Ok(agent.set_memory(made)?)
    }
}
