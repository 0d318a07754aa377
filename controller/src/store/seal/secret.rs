//! The master keys of a cluster: a Secret that the first controller fills.
//!
//! It is read at the start and not again: a rotation ends its first step with a rollout of the
//! controllers ([`super::super::Rotation`]). The chart ships it empty and keeps it on uninstall.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use zeroize::Zeroizing;

use super::ring::{KeyRing, RingError};

/// The Secret's key.
const ENTRY: &str = "master.key";
/// Others may fill it at the same moment; each attempt then finds what one of them wrote.
const ATTEMPTS: usize = 5;

/// Why a cluster has no master keys.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The API server refuses, or does not answer.
    #[error("the Secret {namespace}/{name} of the master keys cannot be {verb}: {source}")]
    Api {
        /// Where it is.
        namespace: String,
        /// What it is called.
        name: String,
        /// `read` or `filled`.
        verb: &'static str,
        /// What the API server says.
        source: Box<kube::Error>,
    },
    /// What it holds is no ring.
    #[error("the Secret {namespace}/{name}, key {ENTRY}: {source}")]
    Ring {
        /// Where it is.
        namespace: String,
        /// What it is called.
        name: String,
        /// What is wrong.
        source: RingError,
    },
    /// Somebody changes it all the time.
    #[error("the Secret {0}/{1} changes too often to be filled")]
    Contended(String, String),
}

/// Reads the ring, or fills an empty Secret with one new key, by compare-and-swap, and reads it.
/// `random` must come from the operating system's generator.
///
/// # Errors
/// [`SecretError`]; what cannot be reached now may be later.
pub async fn from_secret(
    client: Client,
    namespace: &str,
    name: &str,
    random: &Zeroizing<[u8; 32]>,
) -> Result<KeyRing, SecretError> {
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let fault = |verb| {
        move |source: kube::Error| SecretError::Api {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            verb,
            source: Box::new(source),
        }
    };
    for _ in 0..ATTEMPTS {
        let mut secret = secrets.get(name).await.map_err(fault("read"))?;
        if let Some(ByteString(text)) = secret.data.as_ref().and_then(|data| data.get(ENTRY)) {
            // What is not text is no ring either.
            let text = Zeroizing::new(String::from_utf8_lossy(text).into_owned());
            return KeyRing::parse(&text).map_err(|source| SecretError::Ring {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                source,
            });
        }
        let text = KeyRing::first_text(random);
        let data = secret.data.get_or_insert_default();
        data.insert(ENTRY.to_owned(), ByteString(text.as_bytes().to_vec()));
        // It carries the resourceVersion that was read: who comes second is refused.
        match secrets.replace(name, &Default::default(), &secret).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(fault("filled")(error)),
        }
    }
    Err(SecretError::Contended(
        namespace.to_owned(),
        name.to_owned(),
    ))
}
