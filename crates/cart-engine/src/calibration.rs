//! Centre and scale of a new memory's keys, from a fixed text.
//!
//! Raw hidden states all point much the same way; what a text says is in how they differ from the
//! mean. The text is part of the program, so that every memory of a model is centred alike.

use cart_format::BlobId;
use cart_memory::{Normalization, NormalizationError};
use cart_nn::decoder::Run;
use cart_nn::{ForwardError, LogitsFor};
use thiserror::Error;

use crate::agent::Agent;
use crate::hidden_tap::HiddenTap;
use crate::tokenizer::{ParseSpecial, TokenizerError};

/// Statements, questions, a dialogue, numbers, a list and a little code.
const TEXT: &str = "The harbour was quiet when the first boats came in. Anna counted the crates, \
wrote 42 in her notebook, and asked the captain where he had been. \"North of the islands,\" he said. \
\"The water was cold, but we found what we were looking for.\"\n\nWhy do leaves change their colour \
in autumn? As days become shorter, trees stop making chlorophyll, and other pigments that were there \
all along can be seen. The capital of a country is often, but not always, its largest city.\n\n\
Question: What should I bring to the meeting on Tuesday?\nAnswer: Please bring the signed contract, \
two copies of the report from 2019, and your laptop.\n\nIngredients:\n- 250 g flour\n- 3 eggs\n- a \
pinch of salt\n\nMy brother works at a bank in the centre of town. He likes chess, old films and \
strong coffee, and his telephone number ends with 7731. The company announced on Friday that \
profits had risen by 12.5 percent, while costs remained the same.\n\ndef area(width, height):\n    \
return width * height\n\nThank you for your help yesterday. I will call you back as soon as I know \
more about the price of the house. If it rains, we will stay at home and read; otherwise we could \
walk along the river to the old mill. Nobody knows exactly when the bridge was built, but a stone \
above the gate carries the name of its architect.";

/// Most tokens of the text that are read.
const MOST_TOKENS: usize = 512;

/// Why a memory can't be begun.
#[derive(Debug, Error)]
pub enum CalibrationError {
    /// The text can't be tokenized.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model fails on it.
    #[error("the model can't read the calibration text")]
    Forward(#[from] ForwardError),
    /// A setting of the new memory is out of its range.
    #[error(transparent)]
    Config(#[from] cart_memory::ConfigError),
    /// Its hidden states can't be used.
    #[error("the model's hidden states can't be normalized")]
    Normalization(#[from] NormalizationError),
}

/// The digest of the calibration text.
pub(crate) fn text_digest() -> BlobId {
    BlobId::of(TEXT.as_bytes())
}

/// Reads the text and fits centre and scale to the hidden states of all tokens but the first, whose
/// state is an outlier in most models.
pub(crate) fn normalization(agent: &Agent) -> Result<Normalization, CalibrationError> {
    let tokens = tokens(agent, MOST_TOKENS)?;
    let mut tap = HiddenTap::new(agent.tap_layer()).ending();
    let mut state = agent.new_state();
    agent.forward(&mut [Run {
        state: &mut state,
        tokens: &tokens,
        logits: LogitsFor::None,
        taps: Some(&mut tap),
    }])?;
    let dim = agent.model().spec().hidden_size as usize;
    let rows = tap.rows();
    Ok(Normalization::fit(rows.get(dim..).unwrap_or_default(), dim)?)
}

/// The first tokens of the text, as many as the context has room for.
pub(crate) fn tokens(agent: &Agent, most: usize) -> Result<Vec<u32>, TokenizerError> {
    let mut tokens = match agent.tokenizer() {
        Some(tokenizer) => tokenizer.encode(TEXT, ParseSpecial::No)?,
        None => bytes_as_tokens(agent.model().spec().vocab_size),
    };
    tokens.truncate(most.min(agent.context_length()));
    Ok(tokens)
}

/// For cartridges without a tokenizer: the text's bytes, spread over the vocabulary.
fn bytes_as_tokens(vocab: u64) -> Vec<u32> {
    TEXT.bytes().map(|byte| (u64::from(byte) * 2_654_435_761 % vocab) as u32).collect()
}
