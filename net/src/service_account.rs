//! Whose a Kubernetes ServiceAccount token is, judged without asking anybody.
//!
//! A projected token is a JWT (RFC 7519) in compact form (RFC 7515) that the API server signed:
//! for an audience, for some minutes or hours, bound to a pod (KEP-1205). With the cluster's
//! public keys anyone can tell that it is genuine. Keys and the time are arguments here; who
//! obtains the keys is another room's concern.
//!
//! What JWT libraries are known to get wrong cannot happen: a key verifies one algorithm, its own,
//! and what a token says of its algorithm is only compared with that; there is no `none`, no
//! HMAC, no key out of a token's head, and an extension that must be understood is refused.

mod claims;
mod jwks;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED,
    RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bodhi_proto::names::ServiceAccountName;
use bodhi_proto::snapshot::{Curve, KeyMaterial, VerifyingKey};
use serde::Deserialize;

use self::claims::Payload;

pub use jwks::{JwksError, issuer, jwks};

/// Longest token, in bytes. Kubernetes' have about 1,100, with the largest RSA key 2,200.
pub const TOKEN_MAX: usize = 8 << 10;
/// Clocks may differ by so many seconds (the API server allows the same).
pub const SKEW: i64 = 60;
/// Longest text of a token that is repeated in a message, in bytes.
const SHOWN: usize = 128;

/// What a token has to say.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// `iss`, as the API server's discovery document spells it.
    pub issuer: &'a str,
    /// One of `aud`.
    pub audience: &'a str,
}

/// What a genuine token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Whose it is.
    pub account: ServiceAccountName,
    /// The ServiceAccount's uid; a new one of the same name has another.
    pub account_uid: Box<str>,
    /// The pod that it was made for; none if it was made by hand.
    pub pod: Option<Object>,
    /// The node on which that pod runs.
    pub node: Option<Box<str>>,
    /// Unix seconds from which it is no longer valid.
    pub expires: i64,
}

/// A name and the uid that tells it from others that had it before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.uid`.
    pub uid: Box<str>,
}

impl Claims {
    /// Whether it is too late for it, as [`verify`] judges that.
    pub fn has_expired(&self, now: i64) -> bool {
        self.expires.saturating_add(SKEW) <= now
    }
}

/// Why a token is not to be believed. Texts are for the operator and for the token's bearer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// More than [`TOKEN_MAX`].
    #[error("it is {0} bytes long; ServiceAccount tokens have at most {TOKEN_MAX}")]
    TooLong(usize),
    /// Not three parts of base64url.
    #[error("it is no JWT: three parts of base64url, joined by dots")]
    Form,
    /// The head, or an extension in it.
    #[error("the head of the JWT cannot be used: {0}")]
    Head(String),
    /// The claims are not a ServiceAccount token's.
    #[error("it holds no ServiceAccount's claims: {0}")]
    Claims(String),
    /// Another cluster's, or no cluster's.
    #[error("it was issued by '{found}', not by this cluster ('{expected}')")]
    Issuer {
        /// `iss`, shortened.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// Signed with a key that is not (or not yet) among the known ones.
    #[error("it is signed with the key '{0}', which this cluster has not published")]
    UnknownKey(String),
    /// The key's algorithm is another one.
    #[error("it claims the algorithm '{found}'; its key signs with {expected}")]
    Algorithm {
        /// `alg`, shortened.
        found: String,
        /// The key's.
        expected: &'static str,
    },
    /// Made for somebody else.
    #[error("it is for the audience {found}, not for '{expected}'")]
    Audience {
        /// `aud`, shortened.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// Too late.
    #[error("it expired {0} s ago")]
    Expired(i64),
    /// Too early, or clocks that differ.
    #[error("it is valid only in {0} s; do the clocks differ?")]
    TooEarly(i64),
    /// Changed on its way, or made by somebody else.
    #[error("its signature is wrong")]
    Signature,
}

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    crit: Option<serde::de::IgnoredAny>,
}

/// A compact JWS (RFC 7515, 3.1), decoded.
struct Parts<'a> {
    head: Vec<u8>,
    payload: Vec<u8>,
    signature: Vec<u8>,
    /// Head and payload as they were.
    signed: &'a [u8],
}

/// Whether a credential has the form of a JWT, at a glance.
pub fn looks_like_jwt(text: &[u8]) -> bool {
    // base64url of `{"`, as every JWT head that is written without blanks begins.
    text.starts_with(b"eyJ") && text.iter().filter(|byte| **byte == b'.').count() == 2
}

/// Judges a token. `now` is Unix seconds.
///
/// The signature comes last: what is cheap to see is refused before anything is computed.
///
/// # Errors
/// [`TokenError`]. Nothing that it says was proven by a signature.
pub fn verify(
    token: &[u8],
    keys: &[VerifyingKey],
    expected: Expected<'_>,
    now: i64,
) -> Result<Claims, TokenError> {
    if token.len() > TOKEN_MAX {
        return Err(TokenError::TooLong(token.len()));
    }
    let parts = parts(token).ok_or(TokenError::Form)?;
    let head: Head =
        serde_json::from_slice(&parts.head).map_err(|error| TokenError::Head(error.to_string()))?;
    if head.crit.is_some() {
        // RFC 7515, 4.1.11.
        return Err(TokenError::Head("it asks for an extension ('crit')".into()));
    }
    let payload: Payload<'_> = serde_json::from_slice(&parts.payload)
        .map_err(|error| TokenError::Claims(error.to_string()))?;
    // First: the keys of another cluster are unknown, and that is not what is wrong.
    payload.check_issuer(expected.issuer)?;
    let kid = head
        .kid
        .ok_or_else(|| TokenError::Head("it names no key ('kid')".into()))?;
    let key = keys
        .iter()
        .find(|key| *key.id == *kid)
        .ok_or_else(|| TokenError::UnknownKey(shown(&kid)))?;
    if head.alg != key.material.algorithm() {
        return Err(TokenError::Algorithm {
            found: shown(&head.alg),
            expected: key.material.algorithm(),
        });
    }
    payload.check_audience(expected.audience)?;
    payload.check_time(now)?;
    let claims = payload.claims()?;
    match is_signed(&key.material, parts.signed, &parts.signature) {
        true => Ok(claims),
        false => Err(TokenError::Signature),
    }
}

fn parts(token: &[u8]) -> Option<Parts<'_>> {
    let mut parts = token.split(|byte| *byte == b'.');
    let (head, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let decode = |part: &[u8]| URL_SAFE_NO_PAD.decode(part).ok();
    Some(Parts {
        head: decode(head)?,
        payload: decode(payload)?,
        signature: decode(signature)?,
        signed: &token[..head.len() + 1 + payload.len()],
    })
}

fn is_signed(key: &KeyMaterial, message: &[u8], signature: &[u8]) -> bool {
    match key {
        KeyMaterial::Rsa { modulus, exponent } => {
            let key = RsaPublicKeyComponents {
                n: modulus,
                e: exponent,
            };
            key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
        }
        KeyMaterial::Ec { curve, point } => {
            let algorithm = match curve {
                Curve::P256 => &ECDSA_P256_SHA256_FIXED,
                Curve::P384 => &ECDSA_P384_SHA384_FIXED,
                Curve::P521 => &ECDSA_P521_SHA512_FIXED,
            };
            UnparsedPublicKey::new(algorithm, point).verify(message, signature)
        }
    }
    .is_ok()
}

/// A text out of a token, short and without controls.
fn shown(text: &str) -> String {
    let end = text.floor_char_boundary(SHOWN);
    let mut shown = text[..end].escape_debug().to_string();
    if end < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests;
