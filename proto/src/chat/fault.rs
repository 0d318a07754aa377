//! Why a worker refused a request or broke it off.

/// A refusal or a failure, in words for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// Which kind.
    pub code: FaultCode,
    /// What is wrong, where, and what to do.
    pub message: String,
    /// The parameter at fault, as clients of OpenAI's format spell it.
    pub param: Option<String>,
}

/// What the other side does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultCode {
    /// A value that no request may have.
    InvalidValue,
    /// Prompt and answer do not fit; the message names both numbers.
    ContextLengthExceeded,
    /// Something that this model or its settings cannot do.
    Unsupported,
    /// Too many requests wait; another worker may be free.
    QueueFull,
    /// The model is not ready yet.
    ModelLoading,
    /// The worker is going down.
    Draining,
    /// The worker failed in the middle.
    Failed,
    /// The worker cannot be reached, or the connection broke. Never said by a worker.
    Lost,
}

impl FaultCode {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::InvalidValue,
        Self::ContextLengthExceeded,
        Self::Unsupported,
        Self::QueueFull,
        Self::ModelLoading,
        Self::Draining,
        Self::Failed,
        Self::Lost,
    ];

    /// As the metadata `bodhi-code` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidValue => "invalid_value",
            Self::ContextLengthExceeded => "context_length_exceeded",
            Self::Unsupported => "unsupported_by_backend",
            Self::QueueFull => "queue_full",
            Self::ModelLoading => "model_loading",
            Self::Draining => "draining",
            Self::Failed => "worker_failed",
            Self::Lost => "worker_lost",
        }
    }
}

impl Fault {
    /// A fault of the whole request.
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            param: None,
        }
    }

    /// The same, laid at a parameter's door.
    pub fn of(self, param: impl Into<String>) -> Self {
        Self {
            param: Some(param.into()),
            ..self
        }
    }
}
