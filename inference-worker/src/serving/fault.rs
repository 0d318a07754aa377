//! What went wrong, in words for the client.

use bodhi_proto::chat::{Fault, FaultCode};

use crate::engine::{JobError, SubmitError};
use crate::sampling::SamplerError;
use crate::template::{Overrun, TemplateError};

impl From<TemplateError> for Fault {
    fn from(error: TemplateError) -> Self {
        let message = error.to_string();
        let invalid = |param: &str| Self::new(FaultCode::InvalidValue, message.clone()).of(param);
        match &error {
            TemplateError::Unsupported(_) => Self::new(FaultCode::Unsupported, message),
            TemplateError::Exceeded(_) | TemplateError::Grammar(_) => invalid("response_format"),
            TemplateError::NotJson { what, .. } => invalid(what),
            TemplateError::Refused(_) | TemplateError::NoMessages => invalid("messages"),
            TemplateError::NoTools | TemplateError::UnknownTool(_) => invalid("tool_choice"),
            TemplateError::ToolName(_) | TemplateError::TooManyTools { .. } => invalid("tools"),
            TemplateError::Invalid(_) => Self::new(FaultCode::Failed, message),
            TemplateError::Overrun(overrun) => (*overrun).into(),
        }
    }
}

impl From<Overrun> for Fault {
    fn from(overrun: Overrun) -> Self {
        Self::new(FaultCode::Failed, overrun.to_string())
    }
}

impl From<SubmitError> for Fault {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::QueueFull(_) => Self::new(FaultCode::QueueFull, message),
            SubmitError::ContextLength { .. } => {
                Self::new(FaultCode::ContextLengthExceeded, message)
            }
            SubmitError::EmptyPrompt | SubmitError::UnknownToken(_) => {
                Self::new(FaultCode::InvalidValue, message).of("prompt")
            }
            SubmitError::Choices(_) => Self::new(FaultCode::InvalidValue, message).of("n"),
            SubmitError::Sampler(error) => error.into(),
            SubmitError::Unsupported => Self::new(FaultCode::Unsupported, message),
            SubmitError::Draining => Self::new(FaultCode::Draining, message),
            SubmitError::Engine(_) | SubmitError::Stopped => Self::new(FaultCode::Failed, message),
        }
    }
}

impl From<SamplerError> for Fault {
    fn from(error: SamplerError) -> Self {
        let message = error.to_string();
        match error {
            SamplerError::Grammar(_) => {
                Self::new(FaultCode::InvalidValue, message).of("response_format")
            }
            SamplerError::Parameter { name, .. } => {
                Self::new(FaultCode::InvalidValue, message).of(name)
            }
            SamplerError::DeadEnd | SamplerError::NotANumber => {
                Self::new(FaultCode::Failed, message)
            }
        }
    }
}

impl From<JobError> for Fault {
    fn from(error: JobError) -> Self {
        Self::new(FaultCode::Failed, error.to_string())
    }
}
