//! The tokens of a cartridge as automata walk over them.

use std::fmt;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};

use super::ConstraintError;
use crate::tokenizer::Tokenizer;

/// States of an automaton's lexer: one or two kilobytes each.
const LEXER_STATES: usize = 50_000;

/// A cartridge's tokens by their bytes, made once and shared by all its generations.
pub(crate) struct Vocabulary {
    factory: ParserFactory,
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = self.factory.tok_env().tok_trie().vocab_size();
        f.debug_struct("Vocabulary").field("tokens", &tokens).finish_non_exhaustive()
    }
}

impl Vocabulary {
    /// * `rows`: tokens that the model has logits for
    ///
    /// # Errors
    /// Tokens have no bytes of their own.
    pub(crate) fn new(tokenizer: &Tokenizer, rows: usize) -> Result<Self, ConstraintError> {
        let mut words = Vec::with_capacity(rows + 1);
        for token in 0..rows as u32 {
            let mut bytes = Vec::new();
            // A special token is no part of any text, so no grammar comes to it.
            if tokenizer.is_special(token) {
                bytes.push(TokTrie::SPECIAL_TOKEN_MARKER);
            }
            tokenizer.bytes_of(token, &mut bytes).ok_or(ConstraintError::NoBytes)?;
            words.push(bytes);
        }
        let mut ends: Vec<u32> =
            tokenizer.special().eos.iter().copied().filter(|&eos| (eos as usize) < rows).collect();
        if ends.is_empty() {
            // A token that no model draws: a text that is whole ends by itself.
            ends.push(rows as u32);
            words.push(vec![TokTrie::SPECIAL_TOKEN_MARKER, b'.']);
        }
        let info = TokRxInfo::new(words.len() as u32, ends[0]);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(&ends);
        let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let refuse = |reason| ConstraintError::Schema { reason };
        let mut factory = ParserFactory::new(
            &tokens,
            InferenceCapabilities::default(),
            &llguidance::earley::SlicedBiasComputer::general_slices(),
        )
        .map_err(|error| refuse(error.to_string()))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.verbose_errors = false;
        limits.max_lexer_states = LEXER_STATES;
        Ok(Self { factory })
    }

    /// The automaton of a grammar, at the beginning of a text.
    ///
    /// # Errors
    /// The grammar can't be compiled, or no text fits it.
    pub(super) fn compile(&self, grammar: TopLevelGrammar) -> Result<Matcher, ConstraintError> {
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        match matcher.get_error() {
            None => Ok(matcher),
            Some(reason) => Err(ConstraintError::Schema { reason: reason.trim().to_owned() }),
        }
    }
}
