//! What every program of Bodhi needs of the network: dialling only what may be
//! dialled, TLS, and going down in good order.

pub mod dial;
pub mod drain;
pub mod logging;
pub mod stream;
pub mod tls;
