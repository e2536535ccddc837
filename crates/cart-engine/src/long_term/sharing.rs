//! An agent whose conversations share a long-term memory.

use std::sync::Arc;
use std::time::Duration;

use super::{
    Conversations, Embedded, Link, LongTermError, LongTermSource, LongTermState, OwnerOptions,
    SavedConversations,
};
use crate::Agent;

/// How often a server looks what others have put into the long-term memory.
const LOOK: Duration = Duration::from_millis(500);
/// The same where there are no others.
const IDLE: Duration = Duration::from_secs(10);

/// How long the last commits may take.
const PARTING: Duration = Duration::from_secs(5);

impl Agent {
    /// The agent as it is in one conversation: with a short-term memory of its own, over the long-term memory
    /// that it shares with all others. The conversation begins where there is none of this name.
    ///
    /// # Errors
    /// The model can't read the calibration text of a new memory, or no thread can be started.
    pub fn in_conversation(&self, name: &str) -> Result<Self, LongTermError> {
        let conversations = match self.memory_cell().conversations() {
            Some(conversations) => conversations,
            None => self.share_own()?,
        };
        match conversations.memory(name)? {
            Some(cell) => Ok(self.with_cell(&cell)),
            None => Ok(self.clone()),
        }
    }

    /// From now on conversations are taken up that were saved there. Once is for ever, as with the long-term memory.
    pub(crate) fn take_up_conversations(&self, saved: Arc<dyn SavedConversations>) {
        self.memory_cell().set_saved(saved);
    }

    /// Forgets a conversation, apart from what has gone into the long-term memory.
    pub fn forget_conversation(&self, name: &str) {
        if let Some(conversations) = self.memory_cell().conversations() {
            conversations.forget(name);
        }
    }

    /// Puts the agent over a long-term memory that others share: its conversations, and itself as one of them.
    /// An agent that shares one already goes on with that.
    ///
    /// # Errors
    /// The long-term memory can't be reached or used.
    pub fn share_long_term(&self, source: &dyn LongTermSource) -> Result<(), LongTermError> {
        if self.memory_cell().conversations().is_some() {
            return Ok(());
        }
        let seed = match self.memory() {
            Some(memory) => memory,
            None => Arc::new(self.new_memory()?),
        };
        let options =
            OwnerOptions { journal: source.journal(), look: LOOK, process: source.draw() };
        let link = Link::start(source.open(&seed)?, options)?;
        let shared =
            self.memory_cell().share(Conversations::new(link, false, self.memory_cell().saved()));
        self.memory_cell().converse(Arc::clone(shared.link()));
        Ok(())
    }

    /// What the long-term memory is doing that its conversations share; none where there is no conversation.
    pub fn long_term(&self) -> Option<LongTermState> {
        self.memory_cell().conversations().map(Conversations::state)
    }

    /// Ends every conversation: what is worth keeping is offered to the long-term memory. Waits a few seconds for
    /// the commits; what is pending then is in the journal, if there is one.
    pub fn end_conversations(&self) -> Option<LongTermState> {
        let conversations = self.memory_cell().conversations()?;
        conversations.part();
        self.memory_cell().part();
        conversations.link().wait(PARTING);
        Some(conversations.state())
    }

    /// Shares the agent's own long-term memory among its conversations.
    fn share_own(&self) -> Result<&Conversations, LongTermError> {
        // There has to be one to be shared.
        self.memory_cell().update(|| self.new_memory(), |_| ())?;
        let options = OwnerOptions { journal: None, look: IDLE, process: 0 };
        let link = Link::start(Box::new(Embedded::new(self.memory_cell())), options)?;
        Ok(self.memory_cell().share(Conversations::new(link, true, self.memory_cell().saved())))
    }
}
