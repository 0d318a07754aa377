//! A root: its certificate, its key, and how both are kept in a Secret.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::leaf::MakeError;
use super::leaf::valid;
use super::rotation::{Life, ROOT};

/// The entry with the certificates that are believed, PEM: all that a pod may mount.
pub const CERTIFICATES: &str = "ca.crt";
/// The entry with everything, for controllers.
pub const AUTHORITY: &str = "authority.json";
/// A root's certificate is valid from so many seconds before it was made: clocks differ.
const BACKDATED: i64 = 3600;

/// An authority's key with its certificate.
pub struct Root {
    life: Life,
    certificate: CertificateDer<'static>,
    /// The same as PEM.
    text: String,
    key: Zeroizing<String>,
    issuer: Issuer<'static, KeyPair>,
}

/// Why a Secret holds no authority. It is never overwritten.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "its entry '{AUTHORITY}' cannot be used: {0}. Empty the Secret's data to begin anew, whereupon \
     every certificate has to be bought again"
)]
pub struct SecretError(String);

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    roots: Vec<KeptRoot>,
}

#[derive(Serialize, Deserialize)]
struct KeptRoot {
    /// Unix seconds.
    made: i64,
    expires: i64,
    certificate: String,
    key: String,
}

impl Root {
    /// A new one, made `now` (Unix seconds), of ECDSA with P-256.
    ///
    /// # Errors
    /// [`MakeError`].
    pub fn make(now: i64) -> Result<Self, MakeError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let life = Life {
            made: now,
            expires: now + ROOT,
        };
        let mut params = named(life);
        valid(&mut params, life.made - BACKDATED, life.expires);
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            life,
            text: certificate.pem(),
            certificate: certificate.der().clone(),
            key: Zeroizing::new(key.serialize_pem()),
            issuer: Issuer::new(params, key),
        })
    }

    fn read(kept: KeptRoot) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let life = Life {
            made: kept.made,
            expires: kept.expires,
        };
        let key = Zeroizing::new(kept.key);
        let pair = KeyPair::from_pem_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)
            .map_err(|error| text(&error))?;
        let certificate = CertificateDer::from_pem_slice(kept.certificate.as_bytes())
            .map_err(|error| text(&error))?;
        let mut store = RootCertStore::empty();
        store
            .add(certificate.clone())
            .map_err(|error| text(&error))?;
        // An anchor's is without the outer tag.
        let is_pair = store.roots.iter().all(|anchor| {
            let own = pair.subject_public_key_info();
            own.ends_with(&anchor.subject_public_key_info)
        });
        match is_pair {
            true => Ok(Self {
                life,
                certificate,
                text: kept.certificate,
                key,
                issuer: Issuer::new(named(life), pair),
            }),
            false => Err("a key and its certificate do not belong together".into()),
        }
    }

    /// When it was made and when it expires.
    pub(super) fn life(&self) -> Life {
        self.life
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The same as PEM.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Root({:?})", self.life)
    }
}

/// What a root calls itself, which what it signs repeats. No two roots have the same name, so a
/// verifier knows which one to try.
fn named(life: Life) -> CertificateParams {
    let name = match Timestamp::from_second(life.made) {
        Ok(at) => format!("bodhi authority {at}"),
        Err(_) => format!("bodhi authority {}", life.made),
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// The roots that a Secret holds, in the order in which they were made; none where it is empty.
///
/// # Errors
/// [`SecretError`].
pub fn read(data: &BTreeMap<String, ByteString>) -> Result<Vec<Root>, SecretError> {
    let Some(kept) = data.get(AUTHORITY) else {
        return Ok(Vec::new());
    };
    let kept: Kept =
        serde_json::from_slice(&kept.0).map_err(|error| SecretError(error.to_string()))?;
    if kept.version != 1 {
        let why = format!("this release does not know its version, {}", kept.version);
        return Err(SecretError(why));
    }
    let roots = kept.roots.into_iter().map(Root::read);
    let mut roots: Vec<_> = roots.collect::<Result<_, _>>().map_err(SecretError)?;
    roots.sort_by_key(|root| root.life.made);
    Ok(roots)
}

/// The inverse of [`read`], with the certificates beside for those who may not see the keys.
pub fn write<'a>(roots: impl Iterator<Item = &'a Root> + Clone) -> BTreeMap<String, ByteString> {
    let certificates: String = roots.clone().map(|root| root.text.as_str()).collect();
    let kept = Kept {
        version: 1,
        roots: roots
            .map(|root| KeptRoot {
                made: root.life.made,
                expires: root.life.expires,
                certificate: root.text.clone(),
                key: root.key.to_string(),
            })
            .collect(),
    };
    let kept = serde_json::to_vec(&kept).expect("texts and numbers");
    [
        (CERTIFICATES.into(), ByteString(certificates.into_bytes())),
        (AUTHORITY.into(), ByteString(kept)),
    ]
    .into()
}
