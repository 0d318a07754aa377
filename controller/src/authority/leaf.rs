//! The certificates that an authority signs. What they say is decided here and nowhere else.

use std::net::IpAddr;
use std::time::Duration;

use bodhi_net::identity::{Role, worker_uri};
use bodhi_proto::snapshot::WorkerId;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateDer;

use super::Root;
use super::rotation::LEAF;

/// A certificate is valid from so many seconds before it was signed: clocks differ.
const BACKDATED: i64 = 300;

/// Whom a certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A data plane: a client of controllers and workers.
    DataPlane,
    /// This worker: a server to data planes and controllers.
    Worker(WorkerId),
    /// A controller: a server to all, and a client of workers.
    Controller(ServerNames),
}

/// Under which names a controller is dialled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerNames {
    names: Vec<String>,
    addresses: Vec<IpAddr>,
}

/// Not a name that a certificate can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither a DNS name nor an IP address")]
pub struct NameError(String);

impl ServerNames {
    /// DNS names and IP addresses, such as `bodhi-controller.bodhi.svc`.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, NameError> {
        let mut parsed = Self::default();
        for name in names {
            match name.parse() {
                Ok(address) => parsed.addresses.push(address),
                Err(_) if is_dns(name) => parsed.names.push(name.to_owned()),
                Err(_) => return Err(NameError(name.to_owned())),
            }
        }
        Ok(parsed)
    }
}

fn is_dns(name: &str) -> bool {
    rustls::pki_types::DnsName::try_from(name).is_ok()
}

/// A certificate could not be made: there is no randomness, or a name is none.
#[derive(Debug, thiserror::Error)]
#[error("no certificate could be made: {0}")]
pub struct MakeError(#[from] rcgen::Error);

impl Subject {
    pub(super) fn names(&self) -> Result<Vec<SanType>, rcgen::Error> {
        let uri = |uri: &str| Ok::<_, rcgen::Error>(SanType::URI(uri.try_into()?));
        Ok(match self {
            Self::DataPlane => vec![uri(Role::DataPlane.uri())?],
            Self::Worker(worker) => vec![uri(&worker_uri(worker))?],
            Self::Controller(dialled) => {
                let mut names = vec![uri(Role::Controller.uri())?];
                for name in &dialled.names {
                    names.push(SanType::DnsName(name.as_str().try_into()?));
                }
                names.extend(dialled.addresses.iter().copied().map(SanType::IpAddress));
                names
            }
        })
    }

    fn usages(&self) -> Vec<ExtendedKeyUsagePurpose> {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        match self {
            Self::DataPlane => vec![ClientAuth],
            Self::Worker(_) => vec![ServerAuth],
            Self::Controller(_) => vec![ServerAuth, ClientAuth],
        }
    }

    /// For people who look at a certificate; nobody decides by it.
    fn common_name(&self) -> &'static str {
        match self {
            Self::DataPlane => "bodhi data plane",
            Self::Worker(_) => "bodhi worker",
            Self::Controller(_) => "bodhi controller",
        }
    }
}

/// Certifies a key for [`LEAF`] from `now` (Unix seconds), or for as long as the root is valid.
///
/// # Errors
/// [`MakeError`].
pub(super) fn sign(
    root: &Root,
    subject: &Subject,
    key: &impl PublicKeyData,
    now: i64,
) -> Result<CertificateDer<'static>, MakeError> {
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    // Positive (RFC 5280, 4.1.2.2), and no shorter for it.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, subject.common_name());
    params.subject_alt_names = subject.names()?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = subject.usages();
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    valid(
        &mut params,
        now - BACKDATED,
        (now + LEAF).min(root.life().expires),
    );
    let certificate = params.signed_by(key, root.issuer())?;
    Ok(certificate.der().clone())
}

/// Sets from when to when, in Unix seconds.
pub(super) fn valid(params: &mut CertificateParams, from: i64, until: i64) {
    let epoch = date_time_ymd(1970, 1, 1);
    let at = |seconds: i64| epoch + Duration::from_secs(seconds.max(0).unsigned_abs());
    (params.not_before, params.not_after) = (at(from), at(until));
}
