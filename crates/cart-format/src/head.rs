//! What the heads of model files have in common.

use std::ops::Range;

use crate::dtype::DType;
use crate::names::TensorName;

/// What came of reading the first bytes of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed<T> {
    /// The head is complete.
    Head(T),
    /// The head goes on: call again with the first so many bytes of the file. Never more than the
    /// file has, always more than were given.
    NeedMore(u64),
}

/// A tensor in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorRange {
    /// Its name.
    pub name: TensorName,
    /// The element type.
    pub dtype: DType,
    /// The logical shape, C order.
    pub shape: Vec<u64>,
    /// Its bytes, counted from the start of the file.
    pub range: Range<u64>,
}

/// Gives each variant of an error enum a lasting name, and lists them.
macro_rules! codes {
    ($error:ident { $($variant:ident => $code:literal,)* }) => {
        impl $error {
            /// Every [`code`](Self::code) that there is.
            pub const CODES: &'static [&'static str] = &[$($code,)*];

            /// A name for the kind of error that does not change with its wording.
            pub const fn code(&self) -> &'static str {
                match self { $(Self::$variant { .. } => $code,)* }
            }
        }
    };
}
pub(crate) use codes;
