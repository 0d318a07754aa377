//! Who may speak to the API server: certificates made for one run, and files that hold them.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, PKCS_RSA_SHA256};

use crate::authority::Authority;

/// The cluster's authority. Its files are in the cluster's folder.
#[derive(Debug)]
pub(super) struct Pki {
    pub(super) authority: Authority,
}

/// How a user proves who they are.
#[derive(Debug)]
pub(super) enum Credential {
    /// Certificate and key, PEM.
    Certificate { certificate: String, key: String },
    /// A ServiceAccount's token.
    Token(String),
}

impl Pki {
    /// Makes the authority, the API server's certificate and the key that signs the tokens of
    /// ServiceAccounts.
    pub(super) fn new(folder: &Path) -> anyhow::Result<Self> {
        let authority = Authority::new("bodhi-test-cluster")?;
        std::fs::write(folder.join("ca.crt"), &authority.pem)?;
        let names = ["localhost", "kubernetes.default.svc", "127.0.0.1"];
        authority.issue(&names)?.write(folder, "apiserver")?;
        // RS256 is what clusters sign with.
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256)?;
        std::fs::write(folder.join("sa.key"), key.serialize_pem())?;
        Ok(Self { authority })
    }

    /// A certificate of a user: the common name is the user's, the organisation their group.
    /// <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#x509-client-certificates>
    pub(super) fn user(&self, name: &str, group: &str) -> anyhow::Result<Credential> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let issued = self.authority.sign(params)?;
        Ok(Credential::Certificate {
            certificate: issued.certificate,
            key: issued.key,
        })
    }
}

/// A kubeconfig, as JSON, which is YAML.
pub(super) fn text(server: &str, ca: &str, as_whom: &Credential) -> String {
    let base64 = |text: &str| BASE64_STANDARD.encode(text);
    let user = match as_whom {
        Credential::Certificate { certificate, key } => serde_json::json!({
            "client-certificate-data": base64(certificate),
            "client-key-data": base64(key),
        }),
        Credential::Token(token) => serde_json::json!({ "token": token }),
    };
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": server,
            "certificate-authority-data": base64(ca),
        }}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    })
    .to_string()
}
