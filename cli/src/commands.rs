//! One file per command: its arguments, what it asks, how it shows the answer.

pub(crate) mod audit;
pub(crate) mod crds;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod key;
pub(crate) mod master_key;
pub(crate) mod models;
pub(crate) mod ping;
pub(crate) mod store;
pub(crate) mod token;
pub(crate) mod up;
pub(crate) mod validate;
