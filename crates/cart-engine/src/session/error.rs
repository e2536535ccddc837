//! What can go wrong with a session.

use cart_format::BasisId;
use cart_nn::ForwardError;
use thiserror::Error;

use crate::chat::ChatError;
use crate::constraint::ConstraintError;
use crate::event::FinishReason;
use crate::long_term::LongTermError;
use crate::memory_loop::MemoryLoopError;
use crate::options::OptionsError;
use crate::session_section::ResumeError;
use crate::tokenizer::TokenizerError;

/// Why a session can't begin.
#[derive(Debug, Error)]
pub enum StartError {
    /// An option is out of its range.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// There is no tokenizer.
    #[error("the cartridge has no tokenizer; give token ids, or pack the model with its tokenizer")]
    NoTokenizer,
    /// There is no chat template.
    #[error("the cartridge has no chat template; give a raw prompt, or pack a model that has one")]
    NoChatTemplate,
    /// The chat template refuses the conversation.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The tokenizer fails on the prompt.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Nothing to continue.
    #[error("the prompt has no tokens; give at least one character")]
    EmptyPrompt,
    /// A token that the model does not have.
    #[error("token {token} at index {index} of the prompt; the vocabulary has {vocab} tokens")]
    TokenOutOfRange {
        /// Where.
        index: usize,
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab: u64,
    },
    /// The prompt does not leave room for a single token.
    #[error(
        "the prompt has {found} tokens; the context has room for {context}, one of them for the answer: shorten the prompt"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        found: usize,
        /// Positions of the context.
        context: usize,
    },
    /// Half a character waits for its other half.
    #[error("the session holds back part of a character; step once more before moving it")]
    InsideCharacter,
    /// Keys and values of one agent are not those of another.
    #[error(
        "the session was read with other weights, architecture or tokenizer (basis {}; the agent's {}), so that its keys and values can't be kept; move it, so that its text is read again",
        found.short(), expected.short()
    )]
    OtherWeights {
        /// Of the agent that read it.
        found: BasisId,
        /// Of the agent that it should go on with.
        expected: BasisId,
    },
    /// The answer can't be held to what was asked.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// Memory could not take part.
    #[error(transparent)]
    Memory(#[from] MemoryLoopError),
    /// The conversation has no long-term memory to share.
    #[error(transparent)]
    LongTerm(#[from] LongTermError),
    /// The saved session can't be continued.
    #[error(transparent)]
    Resume(#[from] ResumeError),
    /// A saved session has the memory in it that it had.
    #[error(
        "memory can't take part in a session that is continued: what it recalled is in the saved state; leave --memory out, or begin anew"
    )]
    ResumeWithMemory,
}

/// Why a step failed. The session is as it was, unless the error says otherwise.
#[derive(Debug, Error)]
pub enum StepError {
    /// There is nothing more to do.
    #[error("the generation has ended ({0:?}); start another one")]
    Finished(FinishReason),
    /// The model failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The model computed something that is not a number.
    #[error(
        "the logits after token {position} are not finite; the weights or the arithmetic are damaged"
    )]
    NotFinite {
        /// Tokens before, prompt included.
        position: usize,
    },
    /// Nothing that fits what the answer is held to can come.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// The tokenizer failed on the new token.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Memory failed; the token it belongs to is lost.
    #[error(transparent)]
    Memory(#[from] MemoryLoopError),
}

/// Why a generation failed.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// It could not begin.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] StepError),
}
