//! What every program of Bodhi needs of the network: dialling only what may be
//! dialled, TLS and who speaks it, and going down in good order.

pub mod accept;
pub mod dial;
pub mod drain;
pub mod identity;
pub mod logging;
pub mod stream;
pub mod tls;
pub mod unix;
