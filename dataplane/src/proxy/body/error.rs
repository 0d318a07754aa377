//! Why a request body is refused.

use thiserror::Error;

/// A request body that policy or the upstream could read in two ways, or not
/// at all. Messages name offsets and keys, never what the client wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BodyError {
    /// More bytes than the endpoint takes (413).
    #[error("the request body is larger than {limit} bytes")]
    TooLarge {
        /// The most bytes that are taken.
        limit: usize,
    },
    /// Not JSON as RFC 8259 has it.
    #[error("the request body is not valid JSON: at byte {at} expected {expected}")]
    Syntax {
        /// Offset of the first byte that cannot be right, from 0.
        at: usize,
        /// What would have been right there.
        expected: &'static str,
    },
    /// Objects and arrays inside one another beyond any sensible request.
    #[error("the request body nests deeper than {limit} levels at byte {at}")]
    TooDeep {
        /// Offset of the bracket that is one too many.
        at: usize,
        /// The deepest nesting that is taken.
        limit: usize,
    },
    /// A key that decides about the request occurs twice.
    #[error("'{param}' occurs twice, the second time at byte {at}: send it once")]
    Duplicate {
        /// Path of the key, as the format spells it.
        param: &'static str,
        /// Offset of the second one's opening quote.
        at: usize,
    },
    /// A key that decides about the request, in another case: some decoders
    /// would read it and others would not.
    #[error(
        "the key at byte {at} is '{param}' in another case, which decoders read differently: spell it '{param}'"
    )]
    OtherCase {
        /// Path of the key, as the format spells it.
        param: &'static str,
        /// Offset of the key's opening quote.
        at: usize,
    },
    /// A value that decides about the request is of another type.
    #[error("'{param}' must be {expected} (byte {at})")]
    Type {
        /// Path of the key, as the format spells it.
        param: &'static str,
        /// What it must be.
        expected: &'static str,
        /// Offset of the value's first byte.
        at: usize,
    },
    /// A key that the endpoint cannot do without.
    #[error("'{param}' is missing")]
    Missing {
        /// Path of the key, as the format spells it.
        param: &'static str,
    },
}

impl BodyError {
    /// The stable code of the public contract.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "body_too_large",
            Self::Syntax { .. } => "invalid_json",
            Self::TooDeep { .. } => "too_deep",
            Self::Duplicate { .. } | Self::OtherCase { .. } => "duplicate_key",
            Self::Type { .. } => "invalid_type",
            Self::Missing { .. } => "missing_field",
        }
    }

    /// The key that is at fault, where one is.
    #[must_use]
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::TooLarge { .. } | Self::Syntax { .. } | Self::TooDeep { .. } => None,
            Self::Duplicate { param, .. }
            | Self::OtherCase { param, .. }
            | Self::Type { param, .. }
            | Self::Missing { param } => Some(param),
        }
    }
}
