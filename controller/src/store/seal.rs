//! Provider keys at rest: AES-256-GCM under a key per purpose.
//!
//! The purpose's key comes from a master key by HKDF-SHA256 (RFC 5869). The nonce
//! is 96 random bits. The associated data names purpose, row, origin and master
//! key, so a sealed text that was moved to another row, or whose origin was
//! edited, does not open. A [`KeyRing`] holds every master key that is still in
//! use: any opens, and the store says which one seals, which is how keys are rotated.

mod keys;
mod ring;
mod secret;

pub use keys::{Keys, RingFile};
pub use ring::{KeyRing, RingError};
pub use secret::{SecretError, from_secret};

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::Origin;
use zeroize::Zeroizing;

use super::ObjectUid;

const VERSION: u8 = 1;
const NONCE_LEN: usize = 12;

/// Why something was not sealed or opened. Holds nothing of what is secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The ring lacks the master key that sealed it.
    #[error(
        "master key '{0}' seals stored keys, and the file of master keys does not hold it: put it back"
    )]
    UnknownKey(String),
    /// The ciphertext, or what it is bound to, is not what was sealed.
    #[error(
        "a stored key does not open: it was changed, moved to another object, or its master key differs"
    )]
    NotAuthentic,
    /// The text is not what [`seal`] writes.
    #[error("a stored key is not in a form that this release knows")]
    Malformed,
}

/// What a key is derived for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Keys that persons typed in for an ApiModel.
    ProviderKey,
}

impl Purpose {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ProviderKey => "provider-key",
        }
    }
}

/// What a sealed key belongs to; part of the associated data.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// What it is for.
    pub purpose: Purpose,
    /// The row that holds it.
    pub row: &'a ObjectUid,
    /// Where it may be sent.
    pub origin: &'a Origin,
}

impl Binding<'_> {
    fn associated_data(&self, key_id: &str) -> Vec<u8> {
        let origin = self.origin.to_string();
        let parts = [self.purpose.as_str(), self.row.as_str(), &origin, key_id];
        let mut data = Vec::new();
        for part in parts {
            data.extend((part.len() as u64).to_be_bytes());
            data.extend(part.as_bytes());
        }
        data
    }
}

/// Seals with the ring's key of this id. `nonce` must be fresh from the system's generator.
/// The result is: version, length of the key's id, the id, nonce, ciphertext with tag.
///
/// # Errors
/// [`SealError::UnknownKey`]: the ring does not hold it.
pub fn seal(
    ring: &KeyRing,
    id: &str,
    binding: &Binding<'_>,
    nonce: [u8; NONCE_LEN],
    secret: &Secret,
) -> Result<Vec<u8>, SealError> {
    let master = ring
        .get(id)
        .ok_or_else(|| SealError::UnknownKey(id.to_owned()))?;
    let payload = Payload {
        msg: secret.expose().as_bytes(),
        aad: &binding.associated_data(id),
    };
    let ciphertext = cipher(master, binding.purpose)
        .encrypt(&nonce.into(), payload)
        .expect("a provider key is far shorter than GCM's limit of 64 GiB");
    let mut sealed = vec![VERSION, ring::id_len(id)];
    sealed.extend(id.as_bytes());
    sealed.extend(nonce);
    sealed.extend(ciphertext);
    Ok(sealed)
}

/// Opens what [`seal`] made for the same binding, under whichever key of the ring.
pub fn open(ring: &KeyRing, binding: &Binding<'_>, sealed: &[u8]) -> Result<Secret, SealError> {
    let (id, rest) = split_id(sealed)?;
    let (nonce, ciphertext) = rest
        .split_first_chunk::<NONCE_LEN>()
        .ok_or(SealError::Malformed)?;
    let master = ring
        .get(id)
        .ok_or_else(|| SealError::UnknownKey(id.to_owned()))?;
    let payload = Payload {
        msg: ciphertext,
        aad: &binding.associated_data(id),
    };
    let text = cipher(master, binding.purpose)
        .decrypt(&(*nonce).into(), payload)
        .map(Zeroizing::new)
        .map_err(|_| SealError::NotAuthentic)?;
    let text = std::str::from_utf8(&text).map_err(|_| SealError::Malformed)?;
    Ok(Secret::new(text))
}

/// The id of the master key that sealed this.
pub fn key_id(sealed: &[u8]) -> Result<&str, SealError> {
    split_id(sealed).map(|(id, _)| id)
}

fn split_id(sealed: &[u8]) -> Result<(&str, &[u8]), SealError> {
    let Some(([VERSION, len], rest)) = sealed.split_first_chunk() else {
        return Err(SealError::Malformed);
    };
    let (id, rest) = rest
        .split_at_checked(usize::from(*len))
        .ok_or(SealError::Malformed)?;
    let id = std::str::from_utf8(id).map_err(|_| SealError::Malformed)?;
    Ok((id, rest))
}

fn cipher(master: &[u8; 32], purpose: Purpose) -> Aes256Gcm {
    let mut key = Zeroizing::new([0; 32]);
    let info = format!("bodhi/seal/v1/{}", purpose.as_str());
    hkdf::Hkdf::<sha2::Sha256>::new(None, master)
        .expand(info.as_bytes(), key.as_mut_slice())
        .expect("32 bytes are within HKDF-SHA256's limit of 8,160");
    Aes256Gcm::new_from_slice(key.as_slice()).expect("AES-256 takes 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodhi_proto::snapshot::BaseUrl;

    fn ring(text: &str) -> KeyRing {
        KeyRing::parse(text).unwrap()
    }

    const OLD: &str = "old AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
    const NEW: &str = "new /////////////////////////////////////////w8=\n";

    fn origin(url: &str) -> Origin {
        BaseUrl::parse(url).unwrap().origin
    }

    fn uid(text: &str) -> ObjectUid {
        ObjectUid::parse(text).unwrap()
    }

    #[test]
    fn one_key_seals_and_any_opens() {
        let (row, to) = (uid("a"), origin("https://api.openai.com"));
        let binding = Binding {
            purpose: Purpose::ProviderKey,
            row: &row,
            origin: &to,
        };
        let secret = Secret::new("sk-canary");
        let old = seal(&ring(OLD), "old", &binding, [1; 12], &secret).unwrap();
        let both = ring(&format!("{OLD}{NEW}"));
        assert_eq!(open(&both, &binding, &old), Ok(secret.clone()));
        let new = seal(&both, "new", &binding, [2; 12], &secret).unwrap();
        assert_eq!((key_id(&old), key_id(&new)), (Ok("old"), Ok("new")));
        assert_eq!(open(&ring(NEW), &binding, &new), Ok(secret.clone()));
        assert_eq!(
            open(&ring(NEW), &binding, &old),
            Err(SealError::UnknownKey("old".into()))
        );
        let refused = seal(&ring(NEW), "old", &binding, [3; 12], &secret);
        assert_eq!(refused, Err(SealError::UnknownKey("old".into())));
    }

    #[test]
    fn nothing_opens_in_another_place_or_changed() {
        let (row, to) = (uid("a"), origin("https://api.openai.com"));
        let binding = Binding {
            purpose: Purpose::ProviderKey,
            row: &row,
            origin: &to,
        };
        let secret = Secret::new("sk-canary");
        let sealed = seal(&ring(OLD), "old", &binding, [1; 12], &secret).unwrap();
        assert!(!sealed.windows(9).any(|w| w == b"sk-canary"));
        let (other_row, other_to) = (uid("b"), origin("https://evil.example"));
        for moved in [
            Binding {
                row: &other_row,
                ..binding
            },
            Binding {
                origin: &other_to,
                ..binding
            },
        ] {
            assert_eq!(
                open(&ring(OLD), &moved, &sealed),
                Err(SealError::NotAuthentic)
            );
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&ring(OLD), &binding, &changed).is_err(), "byte {at}");
            assert!(
                open(&ring(OLD), &binding, &sealed[..at]).is_err(),
                "cut at {at}"
            );
        }
    }
}
