//! A student with other tokens than its teacher's.

use std::path::PathBuf;

use cart_engine::{Agent, ParseSpecial, Tokenizer};
use cart_format::BlobId;
use cart_store::Verified;
use cart_train::distill::{
    Alignment, AlignmentReport, DistillError, FirstToken, Respelled, TokenStream, Vocabulary,
};
use serde_json::{Value, json};

use super::DistillArgs;
use super::student::{rows, section};
use crate::bytes::grouped;
use crate::context::Context;
use crate::failure::Failure;
use crate::history;

/// The cartridge whose tokens the student has.
pub(super) struct OtherTokens {
    pub(super) verified: Verified,
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    document: BlobId,
}

impl OtherTokens {
    /// None where the student has the teacher's.
    pub(super) fn of(context: &Context, args: &DistillArgs) -> Result<Option<Self>, Failure> {
        if !args.align {
            return Ok(None);
        }
        let reference = args.tokenizer.as_ref().or(args.student.as_ref()).ok_or_else(|| {
            Failure::arguments(
                "--align is for other tokens than the teacher's; give a STUDENT that has them, or --tokenizer REF",
            )
        })?;
        let verified = history::verified_origin(context, reference)?.verified;
        let (document, special, size) = section(&verified)?;
        let size = if args.tokenizer.is_some() { size } else { rows(&verified)? };
        let tokenizer = Tokenizer::new(&document, special).map_err(Failure::refused)?;
        let vocabulary = vocabulary("student", &tokenizer, size)?;
        Ok(Some(Self { verified, tokenizer, vocabulary, document: BlobId::of(&document) }))
    }

    /// For a recipe.
    pub(super) fn described(&self, teacher: &Tokenizer) -> Value {
        json!({ "tokenizer": self.document.hex(), "begin": begin(teacher) })
    }

    /// Where both sides' tokens of the texts meet.
    pub(super) fn alignment(
        &self,
        teacher: &Agent,
        (paths, texts): (&[PathBuf], &[&str]),
    ) -> Result<Alignment, Failure> {
        let of_teacher = super::tokenizer(teacher)?;
        let theirs = vocabulary("teacher", of_teacher, teacher.model().spec().vocab_size)?;
        let stream = |of, tokenizer, vocabulary| spelled(of, (tokenizer, vocabulary), paths, texts);
        let said = stream("teacher", of_teacher, &theirs)?;
        let own = stream("student", &self.tokenizer, &self.vocabulary)?;
        let first = |tokenizer: &Tokenizer, text: &str| {
            tokenizer.encode(text, ParseSpecial::No).ok()?.first().copied()
        };
        let firsts: [&FirstToken<'_>; 2] =
            [&|text: &str| first(of_teacher, text), &|text: &str| first(&self.tokenizer, text)];
        let own = (own, &self.vocabulary);
        Ok(Alignment::new((said, theirs), own, begin(of_teacher), firsts))
    }

    /// The rows of the teacher's embedding that the student's begin from.
    pub(super) fn respelled(&self, teacher: &Agent) -> Result<Respelled, Failure> {
        let of_teacher = super::tokenizer(teacher)?;
        let theirs = vocabulary("teacher", of_teacher, teacher.model().spec().vocab_size)?;
        let tokenized = |text: &str| of_teacher.encode(text, ParseSpecial::No).unwrap_or_default();
        Ok(Respelled::between(&theirs, &self.vocabulary, &tokenized))
    }
}

/// What a teacher's sequences begin with: what a prompt of its would.
fn begin(teacher: &Tokenizer) -> Option<u32> {
    let special = teacher.special();
    special.bos.filter(|_| special.add_bos)
}

/// What tokens stand for.
///
/// * `size`: rows of the embedding
fn vocabulary(of: &'static str, tokenizer: &Tokenizer, size: u64) -> Result<Vocabulary, Failure> {
    let reason = || "its tokens have no bytes of their own".to_owned();
    let refused = || Failure::refused(DistillError::Tokenizer { of, reason: reason() });
    let piece = |token: u32| tokenizer.token_bytes(token).ok_or_else(refused);
    let pieces = (0..size as u32).map(piece).collect::<Result<_, _>>()?;
    Ok(Vocabulary::new(pieces, tokenizer.special().eos.clone()))
}

/// The tokens of texts, each with its end.
fn spelled(
    of: &'static str,
    (tokenizer, vocabulary): (&Tokenizer, &Vocabulary),
    paths: &[PathBuf],
    texts: &[&str],
) -> Result<TokenStream, Failure> {
    let mut stream = TokenStream::default();
    for (path, text) in paths.iter().zip(texts) {
        let tokens = tokenizer.encode(text, ParseSpecial::No).map_err(Failure::refused)?;
        let pushed = stream.push(vocabulary, text.as_bytes(), &tokens, vocabulary.end());
        pushed.map_err(|at| {
            let text = path.display().to_string();
            Failure::refused(DistillError::Spelling { of, text, at })
        })?;
    }
    Ok(stream)
}

/// For people.
pub(super) fn said(report: &AlignmentReport) -> String {
    let AlignmentReport { student_tokens, teacher_tokens, shared_ends, classes, single } = report;
    format!(
        "tokens: {} of the student and {} of the teacher; {:.1} % of the student's end where one of the teacher's does; \
         {} groups of tokens are told apart there, {} of them one token of each",
        grouped(*student_tokens as u64),
        grouped(*teacher_tokens as u64),
        100.0 * shared_ends,
        grouped(*classes as u64),
        grouped(*single as u64),
    )
}
