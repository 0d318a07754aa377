//! Rules that hold for the whole gateway.

use super::{Globs, ModelCap, ServiceAccounts};

/// What becomes of a Responses id that no record names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResponsesIsolation {
    /// The candidates are asked for it.
    #[default]
    Shared,
    /// It is 404; and 503 while owners cannot be asked.
    Strict,
}

/// Gateway-wide lists and caps (`--allowed-models`, `--max-output-tokens`), and who may call besides
/// tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Models anybody may call; `None` allows all that tokens allow.
    pub allowed_models: Option<Globs>,
    /// Most output tokens by served name.
    pub output_caps: Vec<ModelCap>,
    /// Whether unrecorded response ids may be asked for.
    pub responses_isolation: ResponsesIsolation,
    /// Whose projected tokens are credentials (`--service-account`); `None`: nobody's.
    pub service_accounts: Option<ServiceAccounts>,
}
