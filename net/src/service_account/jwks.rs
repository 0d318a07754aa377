//! A cluster's discovery documents: who issues its tokens, and the keys that verify them.
//!
//! <https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#service-account-issuer-discovery>

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bodhi_proto::snapshot::{Curve, KeyMaterial, VerifyingKey};
use serde::Deserialize;

/// Most keys of a cluster; while it rotates it has two.
const KEYS_MAX: usize = 64;

/// Why a document cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// Not the JSON that it has to be.
    #[error("it cannot be read: {0}")]
    Form(String),
    /// Nothing could be verified.
    #[error(
        "it holds no key that ServiceAccount tokens are signed with (RS256, ES256, ES384 or ES512, with a 'kid')"
    )]
    NoKey,
    /// Nobody rotates so often.
    #[error("it holds {0} keys; the limit is {KEYS_MAX}")]
    TooMany(usize),
}

/// RFC 7517, 5.
#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Key {
    kid: String,
    kty: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    alg: Option<String>,
    n: Option<String>,
    e: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// The issuer that an OpenID Connect discovery document names.
///
/// # Errors
/// [`JwksError::Form`].
pub fn issuer(document: &[u8]) -> Result<String, JwksError> {
    #[derive(Deserialize)]
    struct Discovery {
        issuer: String,
    }
    let read: Result<Discovery, _> = serde_json::from_slice(document);
    match read {
        Ok(discovery) if discovery.issuer.is_empty() => {
            Err(JwksError::Form("'issuer' is empty".into()))
        }
        Ok(discovery) => Ok(discovery.issuer),
        Err(error) => Err(JwksError::Form(error.to_string())),
    }
}

/// The keys of a JWK set that verify ServiceAccount tokens. Others are left out (RFC 7517, 5).
///
/// # Errors
/// [`JwksError`].
pub fn jwks(document: &[u8]) -> Result<Vec<VerifyingKey>, JwksError> {
    let document: Document =
        serde_json::from_slice(document).map_err(|error| JwksError::Form(error.to_string()))?;
    if document.keys.len() > KEYS_MAX {
        return Err(JwksError::TooMany(document.keys.len()));
    }
    let keys: Vec<_> = document.keys.into_iter().filter_map(usable).collect();
    match keys.is_empty() {
        true => Err(JwksError::NoKey),
        false => Ok(keys),
    }
}

fn usable(key: serde_json::Value) -> Option<VerifyingKey> {
    let key: Key = serde_json::from_value(key).ok()?;
    let material = match &*key.kty {
        "RSA" => KeyMaterial::rsa(&bytes(key.n)?, &bytes(key.e)?)?,
        "EC" => {
            let curve = match key.crv.as_deref()? {
                "P-256" => Curve::P256,
                "P-384" => Curve::P384,
                "P-521" => Curve::P521,
                _ => return None,
            };
            let point = [&[4][..], &bytes(key.x)?, &bytes(key.y)?].concat();
            KeyMaterial::ec(curve, &point)?
        }
        _ => return None,
    };
    let is_for_signatures = key.purpose.is_none_or(|purpose| purpose == "sig");
    let is_for_ours = key.alg.is_none_or(|alg| alg == material.algorithm());
    (is_for_signatures && is_for_ours).then(|| VerifyingKey {
        id: key.kid.into(),
        material,
    })
}

fn bytes(text: Option<String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text?).ok()
}
