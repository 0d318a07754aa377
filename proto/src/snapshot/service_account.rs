//! The cluster's ServiceAccounts that may call, and what their tokens are verified with.

use std::sync::Arc;

use super::{Globs, Scope};
use crate::names::ServiceAccountName;

/// Which projected tokens are credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccounts {
    /// The `iss` of the cluster's tokens.
    pub issuer: Arc<str>,
    /// What they are signed with; empty while that is not known.
    pub keys: Arc<[VerifyingKey]>,
    /// Who may call, in order of their names.
    pub callers: Vec<MappedAccount>,
}

/// A ServiceAccount that may call, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedAccount {
    /// Who.
    pub account: ServiceAccountName,
    /// What it may do.
    pub scope: Scope,
    /// Models it may call; `None` allows all.
    pub models: Option<Globs>,
}

/// A public key that tokens are verified with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    /// What tokens call it (`kid`).
    pub id: Arc<str>,
    /// The key. It decides the algorithm: a token's own word on that is only compared.
    pub material: KeyMaterial,
}

/// The kinds of keys that Kubernetes signs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyMaterial {
    /// RS256. Big-endian, without leading zeros.
    Rsa {
        /// 2,048 to 8,192 bits.
        modulus: Arc<[u8]>,
        /// Mostly 65537.
        exponent: Arc<[u8]>,
    },
    /// ES256, ES384 or ES512.
    Ec {
        /// Which of the three.
        curve: Curve,
        /// Uncompressed (SEC 1, 2.3.3): 4, x, y.
        point: Arc<[u8]>,
    },
}

/// NIST's curves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// With SHA-256.
    P256,
    /// With SHA-384.
    P384,
    /// With SHA-512.
    P521,
}

impl KeyMaterial {
    /// An RSA key; leading zeros are dropped. `None`: too small, too large, or no key.
    pub fn rsa(modulus: &[u8], exponent: &[u8]) -> Option<Self> {
        let [modulus, exponent] = [modulus, exponent].map(|number| {
            let zeros = number.iter().take_while(|byte| **byte == 0).count();
            &number[zeros..]
        });
        let fits = (256..=1024).contains(&modulus.len()) && (1..=8).contains(&exponent.len());
        fits.then(|| Self::Rsa {
            modulus: modulus.into(),
            exponent: exponent.into(),
        })
    }

    /// An elliptic curve key. `None`: not an uncompressed point of that curve's size.
    pub fn ec(curve: Curve, point: &[u8]) -> Option<Self> {
        let fits = point.len() == 1 + 2 * curve.coordinate() && point[0] == 4;
        fits.then(|| Self::Ec {
            curve,
            point: point.into(),
        })
    }

    /// The one algorithm that it verifies, as a token's head spells it (RFC 7518, 3.1).
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa { .. } => "RS256",
            Self::Ec { curve, .. } => match curve {
                Curve::P256 => "ES256",
                Curve::P384 => "ES384",
                Curve::P521 => "ES512",
            },
        }
    }
}

impl Curve {
    /// Bytes of one coordinate.
    pub fn coordinate(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}
