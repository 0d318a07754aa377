//! Why the process ends: a reason for the Alias's condition, a message with the numbers, and
//! an exit code, so that whoever started it learns the same from any of the three.

use std::io::Write as _;
use std::path::Path;

use bodhi_proto::chat::Failure;
use serde::Serialize;

use crate::models::preflight::PlanError;
use crate::models::{self, ModelError};

/// Longest message that is written. Kubernetes keeps 4 KiB of a termination message
/// (<https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/>).
const MESSAGE_MAX: usize = 2048;

/// A condition's reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The model is not there, or cannot be run here.
    Model(models::Reason),
    /// The chat template cannot be rendered.
    ChatTemplateInvalid,
    /// Settings that this model or this machine cannot have.
    InvalidSettings,
    /// Layers were to go to a GPU, and there is none.
    GpuUnavailable,
    /// An address cannot be listened on.
    CannotListen,
    /// The engine failed.
    EngineFailed,
    /// The engine did nothing for too long although there was work.
    EngineHung,
    /// The start made no progress for too long.
    StartStalled,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Model(models::Reason::NotFound),
        Self::Model(models::Reason::Unauthorized),
        Self::Model(models::Reason::RateLimited),
        Self::Model(models::Reason::DownloadDenied),
        Self::Model(models::Reason::DownloadInterrupted),
        Self::Model(models::Reason::CacheFull),
        Self::Model(models::Reason::CacheUnavailable),
        Self::Model(models::Reason::ChecksumMismatch),
        Self::Model(models::Reason::NotGguf),
        Self::Model(models::Reason::ArtifactCorrupted),
        Self::Model(models::Reason::UnsupportedArchitecture),
        Self::ChatTemplateInvalid,
        Self::InvalidSettings,
        Self::Model(models::Reason::InsufficientMemory),
        Self::GpuUnavailable,
        Self::CannotListen,
        Self::EngineFailed,
        Self::EngineHung,
        Self::StartStalled,
    ];

    /// The exit code: 1x the model could not be fetched, 2x it cannot be served, 3x this
    /// machine does not do, 4x the engine failed. (0 is an end that was asked for, 2 a wrong
    /// command line.) `docs/local-models.md` has the table.
    pub fn code(self) -> u8 {
        match self {
            Self::Model(reason) => match reason {
                models::Reason::NotFound => 10,
                models::Reason::Unauthorized => 11,
                models::Reason::RateLimited => 12,
                models::Reason::DownloadDenied => 13,
                models::Reason::DownloadInterrupted => 14,
                models::Reason::CacheFull => 15,
                models::Reason::CacheUnavailable => 16,
                models::Reason::ChecksumMismatch => 20,
                models::Reason::NotGguf => 21,
                models::Reason::ArtifactCorrupted => 22,
                models::Reason::UnsupportedArchitecture => 23,
                models::Reason::InsufficientMemory => 30,
            },
            Self::ChatTemplateInvalid => 24,
            Self::InvalidSettings => 25,
            Self::GpuUnavailable => 31,
            Self::CannotListen => 32,
            Self::EngineFailed => 40,
            Self::EngineHung => 41,
            Self::StartStalled => 42,
        }
    }

    /// As conditions spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Model(reason) => reason.as_str(),
            Self::ChatTemplateInvalid => "ChatTemplateInvalid",
            Self::InvalidSettings => "InvalidSettings",
            Self::GpuUnavailable => "GpuUnavailable",
            Self::CannotListen => "CannotListen",
            Self::EngineFailed => "EngineFailed",
            Self::EngineHung => "EngineHung",
            Self::StartStalled => "StartStalled",
        }
    }
}

/// Why the worker could not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", .reason.as_str())]
pub struct Fatal {
    /// The kind.
    pub reason: Reason,
    /// For people, with the numbers.
    pub message: String,
}

/// The last line, as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LastWord<'a> {
    reason: &'a str,
    message: &'a str,
    exit_code: u8,
}

impl Fatal {
    /// A failure of this kind.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_MAX));
            message.push('…');
        }
        Self { reason, message }
    }

    /// As reports carry it.
    pub fn failure(&self) -> Failure {
        Failure {
            reason: self.reason.as_str().to_owned(),
            message: self.message.clone(),
        }
    }

    /// One JSON line on standard error, and the same in `file`, where a kubelet reads it.
    pub fn tell(&self, file: Option<&Path>) {
        let word = LastWord {
            reason: self.reason.as_str(),
            message: &self.message,
            exit_code: self.reason.code(),
        };
        let line = serde_json::to_string(&word).unwrap_or_else(|_| self.to_string());
        // Nobody is left to be told of an error of these.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
        if let Some(file) = file {
            let _ = std::fs::write(file, format!("{line}\n"));
        }
    }
}

impl From<ModelError> for Fatal {
    fn from(error: ModelError) -> Self {
        Self::new(Reason::Model(error.reason()), error.to_string())
    }
}

impl From<PlanError> for Fatal {
    fn from(error: PlanError) -> Self {
        Self::new(Reason::Model(error.reason()), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reason_has_a_code_and_a_name_of_its_own() {
        let codes: HashSet<u8> = Reason::ALL.map(Reason::code).into();
        let names: HashSet<&str> = Reason::ALL.map(Reason::as_str).into();
        assert_eq!(codes.len(), Reason::ALL.len());
        assert_eq!(names.len(), Reason::ALL.len());
        // Below are the shell's and clap's, above are signals.
        assert!(codes.iter().all(|code| (3..126).contains(code)));
    }

    #[test]
    fn the_last_word_is_one_line_of_json() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("termination-log");
        Fatal::new(
            Reason::Model(models::Reason::InsufficientMemory),
            "needs 2 \"GiB\",\nhas 1",
        )
        .tell(Some(&file));
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text.trim_end().lines().count(), 1);
        let said: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(said["reason"], "InsufficientMemory");
        assert_eq!(said["message"], "needs 2 \"GiB\",\nhas 1");
        assert_eq!(said["exitCode"], 30);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let fatal = Fatal::new(Reason::EngineFailed, "é".repeat(MESSAGE_MAX));
        assert!(fatal.message.ends_with('…'));
        assert!(fatal.message.len() <= MESSAGE_MAX + '…'.len_utf8());
    }
}
