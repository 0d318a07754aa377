//! What every program of Bodhi needs of the network: dialling only what may be
//! dialled, TLS and who speaks it, whose a Kubernetes token is, and going down in good order.

pub mod accept;
pub mod backoff;
pub mod dial;
pub mod drain;
pub mod identity;
pub mod logging;
pub mod places;
pub mod service_account;
pub mod stream;
pub mod tls;
pub mod unix;
