//! Why a request cannot be understood.

use std::borrow::Cow;

use thiserror::Error;

/// The first thing wrong with a request, with the path of the value at fault. Texts repeat
/// nothing of what the client wrote but keys and short numbers.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// Not JSON. A body that passed intake is.
    #[error("the request body is not valid JSON")]
    Syntax,
    /// The endpoint cannot do without it.
    #[error("'{param}' is missing")]
    Missing {
        /// Such as `messages[2].content`.
        param: String,
    },
    /// A value of another type.
    #[error("{} must be {expected}, and is {found}", named(param))]
    Type {
        /// Such as `messages[2].content`; empty: the body itself.
        param: String,
        /// Such as `a string`.
        expected: &'static str,
        /// Such as `a number`.
        found: &'static str,
    },
    /// A value of the right type that is not one of those that are taken.
    #[error("{} {problem}", named(param))]
    Value {
        /// Such as `temperature`; empty: the body itself.
        param: String,
        /// Follows the path, such as `must be between 0 and 2, and is 3`.
        problem: Cow<'static, str>,
    },
    /// The format has it, the gateway cannot carry it.
    #[error("'{param}' {problem}")]
    Unsupported {
        /// Such as `messages[0].content[1]`.
        param: String,
        /// Follows the path.
        problem: &'static str,
    },
}

impl Fault {
    /// The stable code of the public contract.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Syntax => "invalid_json",
            Self::Missing { .. } => "missing_field",
            Self::Type { .. } => "invalid_type",
            Self::Value { .. } => "invalid_value",
            Self::Unsupported { .. } => "unsupported_value",
        }
    }

    /// The path of the value at fault, where one is.
    #[must_use]
    pub fn param(&self) -> Option<&str> {
        match self {
            Self::Syntax => None,
            Self::Missing { param }
            | Self::Type { param, .. }
            | Self::Value { param, .. }
            | Self::Unsupported { param, .. } => {
                Some(param).filter(|p| !p.is_empty()).map(|p| &**p)
            }
        }
    }
}

fn named(param: &str) -> String {
    match param {
        "" => "the request body".to_owned(),
        param => format!("'{param}'"),
    }
}
