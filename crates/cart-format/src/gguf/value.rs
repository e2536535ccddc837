//! Values of GGUF metadata.

use super::reader::{Reader, Stop};
use super::{ARRAY_DEPTH, GgufError};

const STRING: u32 = 8;
const ARRAY: u32 = 9;

macro_rules! values {
    ($($variant:ident $type:ty = $number:literal, $size:literal, $convert:expr;)*) => {
        /// A value of the metadata.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "each variant is the type that its name says")]
        pub enum Value {
            $($variant($type),)*
            String(String),
            Array(Array),
        }

        /// Values of one type.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "each variant is the type that its name says")]
        pub enum Array {
            $($variant(Vec<$type>),)*
            String(Vec<String>),
            Arrays(Vec<Array>),
        }

        impl Value {
            pub(super) fn read(reader: &mut Reader<'_>, key: &str) -> Result<Self, Stop> {
                match reader.u32(key)? {
                    $($number => {
                        let convert: fn([u8; $size]) -> Result<$type, u8> = $convert;
                        let value = convert(reader.array(key)?);
                        value.map(Self::$variant).map_err(|found| not_bool(key, found))
                    })*
                    STRING => reader.string(key).map(Self::String),
                    ARRAY => Array::read(reader, key, 1).map(Self::Array),
                    found => Err(unknown(key, found)),
                }
            }

            /// Value and type, for messages.
            pub fn describe(&self) -> String {
                match self {
                    $(Self::$variant(value) => {
                        format!("{value} ({})", stringify!($variant).to_lowercase())
                    })*
                    Self::String(_) => "a string".to_owned(),
                    Self::Array(_) => "an array".to_owned(),
                }
            }
        }

        impl Array {
            fn read(reader: &mut Reader<'_>, key: &str, depth: usize) -> Result<Self, Stop> {
                if depth > ARRAY_DEPTH {
                    return Err(GgufError::ArrayDepth { what: key.to_owned() }.into());
                }
                let kind = reader.u32(key)?;
                let count = reader.u64(key)?;
                match kind {
                    $($number => {
                        let convert: fn([u8; $size]) -> Result<$type, u8> = $convert;
                        let bytes = reader.take(key, count, $size)?.as_chunks::<$size>().0;
                        let values = bytes.iter().map(|bytes| convert(*bytes)).collect::<Result<_, _>>();
                        values.map(Self::$variant).map_err(|found| not_bool(key, found))
                    })*
                    STRING => {
                        // Each has its length at least, so a count beyond the file stops here.
                        reader.need(key, least_end(reader, count, 8))?;
                        (0..count).map(|_| reader.string(key)).collect::<Result<_, _>>().map(Self::String)
                    }
                    ARRAY => {
                        reader.need(key, least_end(reader, count, 12))?;
                        let arrays = (0..count).map(|_| Self::read(reader, key, depth + 1));
                        arrays.collect::<Result<_, _>>().map(Self::Arrays)
                    }
                    found => Err(unknown(key, found)),
                }
            }

            /// How many values there are.
            pub fn len(&self) -> usize {
                match self {
                    $(Self::$variant(values) => values.len(),)*
                    Self::String(values) => values.len(),
                    Self::Arrays(values) => values.len(),
                }
            }

            /// Whether there are none.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }
        }
    };
}

values! {
    U8 u8 = 0, 1, |bytes| Ok(u8::from_le_bytes(bytes));
    I8 i8 = 1, 1, |bytes| Ok(i8::from_le_bytes(bytes));
    U16 u16 = 2, 2, |bytes| Ok(u16::from_le_bytes(bytes));
    I16 i16 = 3, 2, |bytes| Ok(i16::from_le_bytes(bytes));
    U32 u32 = 4, 4, |bytes| Ok(u32::from_le_bytes(bytes));
    I32 i32 = 5, 4, |bytes| Ok(i32::from_le_bytes(bytes));
    F32 f32 = 6, 4, |bytes| Ok(f32::from_le_bytes(bytes));
    Bool bool = 7, 1, |[byte]| if byte > 1 { Err(byte) } else { Ok(byte == 1) };
    U64 u64 = 10, 8, |bytes| Ok(u64::from_le_bytes(bytes));
    I64 i64 = 11, 8, |bytes| Ok(i64::from_le_bytes(bytes));
    F64 f64 = 12, 8, |bytes| Ok(f64::from_le_bytes(bytes));
}

impl Value {
    /// A number that is not negative, of any integer type.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::U64(value) => Some(value),
            Self::I8(value) => value.try_into().ok(),
            Self::I16(value) => value.try_into().ok(),
            Self::I32(value) => value.try_into().ok(),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// A floating-point number. One of 32 bits becomes the double of the same shortest digits, so
    /// that an epsilon of 1e-5 is 1e-5 and not 9.999999747378752e-6.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(value) => value.to_string().parse().ok(),
            Self::F64(value) => Some(value),
            _ => None,
        }
    }

    /// A truth value.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(value) = *self { Some(value) } else { None }
    }

    /// A text.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// An array of texts.
    pub fn as_strings(&self) -> Option<&[String]> {
        if let Self::Array(Array::String(texts)) = self { Some(texts) } else { None }
    }
}

impl Array {
    /// Numbers that are not negative, of any integer type.
    pub fn to_u64s(&self) -> Option<Vec<u64>> {
        match self {
            Self::U8(values) => Some(values.iter().map(|&value| value.into()).collect()),
            Self::U16(values) => Some(values.iter().map(|&value| value.into()).collect()),
            Self::U32(values) => Some(values.iter().map(|&value| value.into()).collect()),
            Self::U64(values) => Some(values.clone()),
            Self::I8(values) => values.iter().map(|&value| value.try_into().ok()).collect(),
            Self::I16(values) => values.iter().map(|&value| value.try_into().ok()).collect(),
            Self::I32(values) => values.iter().map(|&value| value.try_into().ok()).collect(),
            Self::I64(values) => values.iter().map(|&value| value.try_into().ok()).collect(),
            _ => None,
        }
    }
}

fn least_end(reader: &Reader<'_>, count: u64, least: u64) -> u64 {
    reader.at().saturating_add(count.saturating_mul(least))
}

fn unknown(key: &str, found: u32) -> Stop {
    GgufError::ValueKind { what: key.to_owned(), found }.into()
}

fn not_bool(key: &str, found: u8) -> Stop {
    GgufError::Bool { what: key.to_owned(), found }.into()
}
