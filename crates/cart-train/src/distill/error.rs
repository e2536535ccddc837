//! Why a student can't learn from a teacher.

use thiserror::Error;

/// Why a student can't learn from a teacher.
#[derive(Debug, Error)]
pub enum DistillError {
    /// Their tokens are not the same.
    #[error(
        "the student's vocabulary is not the teacher's: {difference}; their predictions can't be compared token by token. Compare them where both speak of the same bytes (--align), make the student from the teacher (--student-spec), or pack one with the teacher's tokenizer"
    )]
    Vocabulary {
        /// The first difference.
        difference: String,
    },
    /// A tokenizer's document can't be read.
    #[error("the {of}'s tokenizer can't be compared: {reason}; pack it with its tokenizer.json")]
    Tokenizer {
        /// `teacher` or `student`.
        of: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A layer that the teacher lacks.
    #[error("layer {found} of the teacher was asked for; it has layers 0 to {last}")]
    TeacherLayer {
        /// The layer.
        found: usize,
        /// Its last layer.
        last: usize,
    },
    /// A layer that the student lacks.
    #[error("layer {found} of the student was asked for; it has layers 0 to {last}")]
    StudentLayer {
        /// The layer.
        found: usize,
        /// Its last layer.
        last: usize,
    },
    /// Two numbers of layers.
    #[error(
        "the student is to have {layers} layers, but {taken} of the teacher's are to be taken; give as many, or only one of both"
    )]
    Layers {
        /// Layers of the specification.
        layers: u64,
        /// Layers that were named.
        taken: usize,
    },
    /// A block whose sizes are more than a width.
    #[error(
        "the teacher's {part} can't be made for another width; leave `{field}` out of the specification, or give a packed student"
    )]
    Width {
        /// What it is.
        part: &'static str,
        /// The field that asks for it.
        field: &'static str,
    },
    /// A tokenizer that changes what it reads.
    #[error(
        "the {of}'s tokens don't spell {text}: from byte {at} on they say something else, so they can't be aligned; give a text that its tokenizer keeps as it is, or leave --align out"
    )]
    Spelling {
        /// `teacher` or `student`.
        of: &'static str,
        /// Which text.
        text: String,
        /// The first byte that they don't have.
        at: usize,
    },
}
