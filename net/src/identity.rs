//! Who a program is to its peer: mutual TLS.
//!
//! Each end holds a certificate with its key, and the authorities that it believes
//! ([`Credentials`]): in files, which are looked at again for each connection, or in memory, where
//! whoever renews them puts the next ones; [`Purchase`] is one who does. The [`Client`] wants a server whose certificate names
//! whom it [`Expected`]; the [`Server`] wants a client whose certificate names a [`Role`].
//! Nothing is resumed: every connection is judged anew. Both ends are ours, so it is TLS 1.3
//! (RFC 8446) with h2.

mod bought;
mod bundle;
mod client;
mod credentials;
mod expected;
mod files;
mod incoming;
mod role;
mod server;

use std::time::Duration;

pub use bought::{Purchase, PurchaseError};
pub use bundle::{Bundle, BundleError};
pub use client::Client;
pub use credentials::Credentials;
pub use expected::{Expected, HostError, worker_uri};
pub use files::{Pem, PemError, PemFile, Reloading};
pub use role::{Peer, Role};
pub use server::{Refused, Server};

/// A handshake takes two round trips; who needs longer is not a peer of ours.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// The files of one end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The chain, our own certificate first.
    pub certificate: PemFile,
    /// Its private key: PKCS #8, PKCS #1 or SEC 1.
    pub key: PemFile,
    /// The authorities of which one must have signed the peer's certificate.
    pub authorities: PemFile,
}

impl Identity {
    fn files(self) -> [PemFile; 3] {
        [self.certificate, self.key, self.authorities]
    }
}

#[cfg(test)]
mod tests;
