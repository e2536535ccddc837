//! A question and its answer: taking it back, and what memory had to do with it.

use std::sync::Arc;

use cart_engine::{
    Agent, GenerateError, GenerateOptions, Generation, MemoryOptions, MemoryUse, Message, Prompt,
};
use cart_memory::UnifiedMemory;

use crate::commands::memory::{one_line, store_name};
use crate::failure::Failure;
use crate::table::Table;

/// What an answer began from.
pub(super) struct Exchange {
    /// Messages before the question.
    pub(super) before: usize,
    /// The memory before it; none where nothing was remembered.
    pub(super) memory: Option<Arc<UnifiedMemory>>,
    pub(super) options: GenerateOptions,
}

/// The same question again, with the memory that there was, and without one.
struct Again {
    used: MemoryUse,
    with: String,
    without: String,
    tokens: usize,
}

impl Exchange {
    /// What was read for the answer, and what it changed: the question is answered again from the
    /// memory that there was, with the bare model beside, and by the bare model alone. Nothing is written.
    ///
    /// * `messages`: the conversation up to the question
    pub(super) fn why(&self, agent: &Agent, messages: &[Message]) -> Result<String, Failure> {
        if !self.options.memory.reads() {
            return Ok("memory took no part in this answer; chat with --memory\n".to_owned());
        }
        if self.memory.is_none() {
            return Ok("nothing was remembered before this question\n".to_owned());
        }
        let again = self.again(agent, messages).map_err(Failure::refused)?;
        Ok(again.shown())
    }

    fn again(&self, agent: &Agent, messages: &[Message]) -> Result<Again, GenerateError> {
        let asked = agent.fork();
        let memory = self.memory.as_ref().map(|memory| memory.on_its_own());
        asked.set_memory(memory).expect("it is of the same agent");
        let prompt = Prompt::Chat(messages.to_vec());
        let reading = MemoryOptions { write: false, compare: true, ..self.options.memory.clone() };
        let answer = |memory| {
            let options = GenerateOptions { memory, ..self.options.clone() };
            asked.generate(&prompt, &options, |_| {})
        };
        let Generation { memory: used, text: with, token_ids, .. } = answer(reading)?;
        let without = answer(MemoryOptions::default())?.text;
        let (used, tokens) = (used.unwrap_or_default(), token_ids.len());
        Ok(Again { used, with, without, tokens })
    }
}

impl Again {
    fn shown(&self) -> String {
        let used = &self.used;
        let mut text = String::new();
        if used.read.is_empty() {
            text += "nothing that is remembered matches the question well enough to be read\n";
        } else {
            let mut table = Table::new(&["KIND", ">SLOT", ">MATCH", ">BIAS", "TEXT"]);
            for read in &used.read {
                table.row([
                    store_name(read.slot.store).to_owned(),
                    read.slot.id.number().to_string(),
                    format!("{:.3}", read.score),
                    format!("{:+.2}", read.bias),
                    one_line(&read.text),
                ]);
            }
            text += &table.render();
        }
        for line in self.effects() {
            text += &line;
            text.push('\n');
        }
        text
    }

    /// What each way did, and what it came to.
    fn effects(&self) -> Vec<String> {
        let Self { used, with, without, tokens } = self;
        let mut lines = Vec::new();
        if used.prefix_tokens > 0 {
            lines.push(format!("{} tokens of it stood before the prompt", used.prefix_tokens));
        }
        if used.layer_tokens > 0 {
            lines.push(format!("memory layers attended to {} tokens", used.layer_tokens));
        }
        if used.knn_steps > 0 {
            let (steps, lambda) = (used.knn_steps, used.knn_lambda);
            lines.push(format!(
                "neighbours had a say in {steps} of {tokens} tokens, {lambda:.2} of each"
            ));
        }
        if used.goal_steps > 0 {
            lines.push(format!("the goal had a say in {} of {tokens} tokens", used.goal_steps));
        }
        if let (Some(delta), Some(kl)) = (used.delta_logprob, used.kl) {
            lines.push(format!(
                "ln p of a token {delta:+.3} by memory; KL divergence from the bare model {kl:.3} nats"
            ));
        }
        lines.push(if with == without {
            "without memory the answer is the same".to_owned()
        } else {
            format!("without memory: {}", one_line(without))
        });
        lines
    }
}
