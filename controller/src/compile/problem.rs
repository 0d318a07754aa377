//! What is wrong with an object, in words for its owner, and the conditions made of it.

use std::sync::Arc;

use bodhi_proto::names::ObjectRef;
use bodhi_proto::snapshot::Refusal;

use crate::api::{ConditionStatus, ConditionType, Reason};

/// Longest message of a condition, in characters (the CRD's bound).
const MESSAGE_MAX: usize = 1024;

/// A reason and a sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl Problem {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        let message: String = message.into();
        Self {
            reason,
            message: message.chars().take(MESSAGE_MAX).collect(),
        }
    }

    /// What a caller of the object's name is told.
    pub(super) fn refusal(&self, object: &ObjectRef) -> Refusal {
        Refusal {
            reason: self.reason.as_str().into(),
            message: format!("{object}: {}", self.message).into(),
            unsupported: false,
        }
    }
}

/// A condition without its times: the status writer adds those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledCondition {
    /// What is judged.
    pub type_: ConditionType,
    /// The verdict.
    pub status: ConditionStatus,
    /// One word for programs.
    pub reason: Reason,
    /// A sentence for people; empty when there is nothing to say.
    pub message: String,
}

impl CompiledCondition {
    pub(super) fn yes(type_: ConditionType, reason: Reason) -> Self {
        Self {
            type_,
            status: ConditionStatus::True,
            reason,
            message: String::new(),
        }
    }

    pub(super) fn no(type_: ConditionType, problem: &Problem) -> Self {
        Self {
            type_,
            status: ConditionStatus::False,
            reason: problem.reason,
            message: problem.message.clone(),
        }
    }

    /// True, with something to say: a part of the object is not served.
    pub(super) fn partly(type_: ConditionType, problem: &Problem) -> Self {
        Self {
            status: ConditionStatus::True,
            ..Self::no(type_, problem)
        }
    }

    /// Whether it is false, or true with a part left out.
    pub fn is_problem(&self) -> bool {
        self.status != ConditionStatus::True || !self.message.is_empty()
    }
}

/// What to tell an object's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectStatus {
    /// The object.
    pub object: ObjectRef,
    /// Its identity.
    pub uid: Arc<str>,
    /// The generation that was compiled.
    pub generation: i64,
    /// How many exact names it serves.
    pub models: usize,
    /// Of an Alias: the name as it is served.
    pub served_name: Option<Arc<str>>,
    /// Accepted and ResolvedRefs.
    pub conditions: Vec<CompiledCondition>,
}

impl ObjectStatus {
    /// All conditions: those compiled, those that were observed, and Ready, which is the first
    /// that is not true, else true.
    pub fn with(&self, observed: Vec<CompiledCondition>) -> Vec<CompiledCondition> {
        let mut conditions = self.conditions.clone();
        conditions.extend(observed);
        let failing = conditions
            .iter()
            .find(|c| c.status != ConditionStatus::True);
        let ready = match failing {
            None => CompiledCondition::yes(ConditionType::Ready, Reason::Ready),
            Some(condition) => CompiledCondition {
                type_: ConditionType::Ready,
                ..condition.clone()
            },
        };
        conditions.push(ready);
        conditions
    }

    /// The condition of this type.
    pub fn condition(&self, type_: ConditionType) -> Option<&CompiledCondition> {
        self.conditions.iter().find(|c| c.type_ == type_)
    }
}
