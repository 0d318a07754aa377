//! Certificate authorities made for one run, and what they sign.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// An authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, PEM.
    pub pem: String,
    /// The same, DER.
    pub der: CertificateDer<'static>,
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Issued {
    /// PEM.
    pub certificate: String,
    /// PKCS #8, PEM.
    pub key: String,
    /// The certificate, DER.
    pub certificate_der: CertificateDer<'static>,
    /// The key, DER.
    pub key_der: PrivateKeyDer<'static>,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        // Issuer and subject of what it signs must differ, else that passes for self-signed.
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem: certificate.pem(),
            der: certificate.der().clone(),
        })
    }

    /// A certificate for these DNS names, IP addresses and `bodhi:` URIs.
    ///
    /// # Errors
    /// When a name is none.
    pub fn issue(&self, names: &[&str]) -> anyhow::Result<Issued> {
        self.issue_until(names, 4096)
    }

    /// The same, expiring when a year begins.
    ///
    /// # Errors
    /// When a name is none.
    pub fn issue_until(&self, names: &[&str], year: i32) -> anyhow::Result<Issued> {
        let (uris, names): (Vec<&str>, Vec<&str>) =
            names.iter().partition(|name| name.starts_with("bodhi:"));
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let mut params = CertificateParams::new(names)?;
        for uri in uris {
            params.subject_alt_names.push(SanType::URI(uri.try_into()?));
        }
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        self.sign(params)
    }

    /// A certificate that says what these parameters say, with a new key.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn sign(&self, params: CertificateParams) -> anyhow::Result<Issued> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            certificate_der: certificate.der().clone(),
            key_der: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }
}

impl Issued {
    /// Writes `NAME.crt` and `NAME.key` into a folder.
    ///
    /// # Errors
    /// When it cannot.
    pub fn write(&self, folder: &Path, name: &str) -> anyhow::Result<()> {
        std::fs::write(folder.join(format!("{name}.crt")), &self.certificate)?;
        std::fs::write(folder.join(format!("{name}.key")), &self.key)?;
        Ok(())
    }
}
