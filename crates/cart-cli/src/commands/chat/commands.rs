//! What lines that begin with `/` do.

use cart_store::RefName;

use super::{Chat, Turn};
use crate::commands::inspect::memory_table;
use crate::commands::memory::{goal_text, recall_text};
use crate::failure::Failure;
use crate::{history, report};

/// Memories that `/recall` and `/goal` show.
const SHOWN: usize = 5;

const HELP: &str = "\
/memory             what is remembered
/recall TEXT        what a text would recall
/goal               where the goal points
/why                what was read for the last answer, and what it changed
/undo               take the last question back, its answer and what was remembered of it
/swap REF [carry]   go on with another cartridge; `carry` takes the memory along
/save NAME[:TAG]    keep the memory, as a cartridge
/clear              forget the conversation, not the memory
/quit               end
A line that ends with \\ goes on in the next one.
";

impl Chat<'_> {
    pub(super) fn command(&mut self, command: &str) -> Result<Turn, Failure> {
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        match name {
            "quit" | "exit" => return Ok(Turn::Quit),
            "clear" => self.clear(),
            "memory" => match self.agent.memory() {
                Some(memory) => report::stdout(memory_table(&memory).as_bytes())?,
                None => report::line("nothing is remembered yet")?,
            },
            "recall" => self.recall(rest)?,
            "goal" => match self.agent.memory() {
                Some(memory) => report::stdout(goal_text(&memory, SHOWN).as_bytes())?,
                None => report::line("nothing is remembered yet")?,
            },
            "why" => self.why()?,
            "undo" => self.undo()?,
            "swap" => self.swap(rest)?,
            "save" => self.save(rest)?,
            "help" => report::stdout(HELP.as_bytes())?,
            _ => report::line(&format!("there is no /{name}; /help lists the commands"))?,
        }
        Ok(Turn::GoOn)
    }

    fn recall(&self, text: &str) -> Result<(), Failure> {
        let Some(memory) = self.agent.memory() else {
            return report::line("nothing is remembered yet");
        };
        if text.is_empty() {
            return report::line("/recall TEXT: which text asks?");
        }
        match recall_text(&self.agent, &memory, text, SHOWN) {
            Ok(shown) => report::stdout(shown.as_bytes()),
            Err(failure) => going_on(failure),
        }
    }

    fn why(&self) -> Result<(), Failure> {
        let Some(last) = self.exchanges.last() else {
            return report::line("there is no answer yet");
        };
        match last.why(&self.agent, &self.messages[..=last.before]) {
            Ok(shown) => report::stdout(shown.as_bytes()),
            Err(failure) => going_on(failure),
        }
    }

    /// Takes the last question back. A memory that is logged stays: its log would say something else.
    fn undo(&mut self) -> Result<(), Failure> {
        let Some(last) = self.exchanges.pop() else {
            return report::line("there is nothing to take back");
        };
        self.messages.truncate(last.before);
        self.last = None;
        if self.args.memory_log.is_some() {
            return report::line("taken back; the memory stays as its log has it");
        }
        let memory = last.memory.map(|memory| (*memory).clone());
        self.agent.set_memory(memory).expect("it is of the same agent");
        report::line("taken back")
    }

    /// Goes on with another cartridge. Where that can't be, the conversation goes on with this one.
    fn swap(&mut self, words: &str) -> Result<(), Failure> {
        let mut words = words.split_whitespace();
        let (reference, carry) = match (words.next(), words.next(), words.next()) {
            (Some(reference), None | Some("replace"), None) => (reference, false),
            (Some(reference), Some("carry"), None) => (reference, true),
            _ => return report::line("/swap REF [replace|carry]: which cartridge?"),
        };
        if self.args.memory_log.is_some() && !carry {
            return report::line("the memory is logged; /swap REF carry goes on with it");
        }
        let swapped = history::load_with(self.context, reference, &self.load);
        let swapped = swapped.and_then(|(agent, origin)| {
            let agent = if carry { agent.with_memory_of(&self.agent) } else { Ok(agent) };
            Ok((agent.map_err(Failure::refused)?, origin))
        });
        match swapped {
            Ok((agent, origin)) => {
                (self.agent, self.origin) = (agent, origin);
                // What came before was another agent's.
                self.exchanges.clear();
                self.last = None;
                let memory = if carry { ", with the memory so far" } else { "" };
                report::line(&format!("going on with {reference}{memory}"))
            }
            Err(failure) => going_on(failure),
        }
    }

    /// Saves under a name, or says why not: the conversation goes on either way.
    fn save(&mut self, name: &str) -> Result<(), Failure> {
        let saved = match name.parse::<RefName>() {
            Ok(_) if self.args.with_session && self.last.is_none() => Err(Failure::refused_with(
                "there is no session to keep before the first answer",
                "say something first, or chat without --with-session",
            )),
            Ok(name) => self.save_as(&name),
            Err(error) => Err(Failure::refused(error)),
        };
        self.unsaved = saved.is_err();
        match saved {
            Ok(saved) => {
                report::line(&format!("saved {}  sha256:{}", saved.name, saved.manifest))?;
                let memory = saved.memory_id.as_deref().unwrap_or("none");
                report::line(&format!("  memory {memory}"))
            }
            Err(failure @ Failure::Refused { .. }) => {
                failure.say();
                report::line("not saved")
            }
            Err(failure) => Err(failure),
        }
    }
}

/// Says what was refused; the conversation goes on.
fn going_on(failure: Failure) -> Result<(), Failure> {
    match failure {
        Failure::Refused { .. } => {
            failure.say();
            Ok(())
        }
        other => Err(other),
    }
}
