//! A prompt as tokens, with what memory is asked about and what it is told.

use std::ops::Range;

use crate::agent::Agent;
use crate::chat::{ChatError, Ending, Rendered};
use crate::options::{GenerateOptions, Message, Prompt};
use crate::session::StartError;
use crate::tokenizer::{ParseSpecial, Tokenizer};

/// Some tokens of a prompt that memory is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) tokens: Range<usize>,
    pub(crate) source: &'static str,
}

/// A prompt that is ready to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PromptText {
    pub(crate) tokens: Vec<u32>,
    /// Tokens that memory is asked about.
    pub(crate) query: Vec<u32>,
    /// What memory is told of the prompt, in order.
    pub(crate) told: Vec<Told>,
    /// What memory calls the answer.
    pub(crate) answer: &'static str,
    /// Whether the answer goes on with the prompt's last sentence.
    pub(crate) continues: bool,
    /// Where reading is cut first: after what other conversations are likely to begin with too.
    pub(crate) cut: usize,
}

/// Shorter beginnings are not worth a cut.
const LEAST_CUT: usize = 32;

impl PromptText {
    /// # Errors
    /// The cartridge lacks a tokenizer or a chat template, or they refuse the prompt; a token is
    /// not in the vocabulary; there are no tokens.
    pub(crate) fn new(
        agent: &Agent,
        prompt: &Prompt,
        options: &GenerateOptions,
    ) -> Result<Self, StartError> {
        let text = match prompt {
            Prompt::Tokens(tokens) => Self::plain(tokens.clone()),
            Prompt::Raw(text) => Self::plain(tokenizer(agent)?.encode_prompt(text)?),
            Prompt::Chat(messages) => Self::chat(agent, messages, options)?,
        };
        if text.tokens.is_empty() {
            return Err(StartError::EmptyPrompt);
        }
        let vocab = agent.model().spec().vocab_size;
        match text.tokens.iter().position(|&token| u64::from(token) >= vocab) {
            Some(index) => {
                Err(StartError::TokenOutOfRange { index, token: text.tokens[index], vocab })
            }
            None => Ok(text),
        }
    }

    /// A text as it stands.
    pub(crate) fn plain(tokens: Vec<u32>) -> Self {
        let told = vec![Told { tokens: 0..tokens.len(), source: "prompt" }];
        Self { query: tokens.clone(), told, answer: "answer", continues: true, cut: 0, tokens }
    }

    fn chat(
        agent: &Agent,
        messages: &[Message],
        options: &GenerateOptions,
    ) -> Result<Self, StartError> {
        let tokenizer = tokenizer(agent)?;
        let template = agent.chat_template().ok_or(StartError::NoChatTemplate)?;
        if messages.is_empty() {
            return Err(ChatError::Empty.into());
        }
        let Rendered { text, literal } = template.render_with_tools(
            tokenizer,
            (messages, &options.tools),
            Ending::Answer,
            options.now,
        )?;
        let tokens = tokenizer.encode_except(&text, &literal)?;
        let said = new_user_messages(messages);
        let told = told(&text, &tokens, messages, said);
        let last = messages.iter().rev().find(|message| message.role == "user");
        let query = last.or(messages.last()).ok_or(ChatError::Empty)?.content.trim();
        let tokens: Vec<u32> = tokens.into_iter().map(|(token, _)| token).collect();
        Ok(Self {
            cut: after_system(agent, &tokens, messages, options).unwrap_or(0),
            tokens,
            query: tokenizer.encode(query, ParseSpecial::No)?,
            told,
            answer: "assistant",
            continues: false,
        })
    }
}

/// Where the tokens of the system message end; none where there is no such message, or a short one,
/// or the template does not take it alone.
fn after_system(
    agent: &Agent,
    tokens: &[u32],
    messages: &[Message],
    options: &GenerateOptions,
) -> Option<usize> {
    let (tokenizer, template) = (agent.tokenizer()?, agent.chat_template()?);
    let first = messages.split_first()?.0;
    if first.role != "system" {
        return None;
    }
    let alone = std::slice::from_ref(first);
    let said = (alone, &options.tools[..]);
    let rendered = template.render_with_tools(tokenizer, said, Ending::Closed, options.now).ok()?;
    let system = tokenizer.encode_except(&rendered.text, &rendered.literal).ok()?;
    let same = system.iter().zip(tokens).take_while(|((a, _), b)| a == *b).count();
    (same >= LEAST_CUT && same < tokens.len()).then_some(same)
}

pub(crate) fn tokenizer(agent: &Agent) -> Result<&Tokenizer, StartError> {
    agent.tokenizer().ok_or(StartError::NoTokenizer)
}

/// Where the messages after the last answer begin: what came before was told in its own turn.
fn new_user_messages(messages: &[Message]) -> usize {
    messages.iter().rposition(|message| message.role == "assistant").map_or(0, |last| last + 1)
}

/// The tokens of the contents of new user messages, without the template's markers.
fn told(text: &str, tokens: &[(u32, Range<usize>)], messages: &[Message], new: usize) -> Vec<Told> {
    let mut told = Vec::new();
    let mut cursor = 0;
    for (index, message) in messages.iter().enumerate() {
        let content = message.content.trim();
        let Some(found) = text[cursor..].find(content) else { continue };
        let bytes = cursor + found..cursor + found + content.len();
        cursor = bytes.end;
        let first = tokens.partition_point(|(_, range)| range.end <= bytes.start);
        let end = tokens.partition_point(|(_, range)| range.start < bytes.end);
        if index >= new && message.role == "user" && first < end {
            told.push(Told { tokens: first..end, source: "user" });
        }
    }
    told
}
