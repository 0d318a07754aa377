//! A certificate signing request (PKCS #10, RFC 2986): the key that it asks a certificate for.
//!
//! Of a request only the key counts, and the signature that proves that whoever asks has its other
//! half. One kind of key is enough, since only our own programs ask: ECDSA with P-256 and SHA-256.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256,
};
use x509_parser::prelude::FromDer as _;

/// Longest request, in bytes. Ours have about 250.
const REQUEST_MAX: usize = 4 << 10;

/// A key whose other half the asker has.
#[derive(Debug)]
pub(super) struct RequestedKey(Vec<u8>);

/// Why a request is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Longer than any of ours.
    #[error("the signing request is {0} bytes long; the limit is {REQUEST_MAX}")]
    TooLong(usize),
    /// Not DER of a PKCS #10 request.
    #[error("the signing request cannot be read: {0}")]
    Form(String),
    /// Another kind of key or signature.
    #[error("the signing request is not of ECDSA with P-256 and SHA-256")]
    Algorithm,
    /// The asker does not have the key.
    #[error("the signing request is not signed with its own key")]
    Signature,
}

/// The key of a request.
///
/// # Errors
/// [`RequestError`].
pub(super) fn read(der: &[u8]) -> Result<RequestedKey, RequestError> {
    if der.len() > REQUEST_MAX {
        return Err(RequestError::TooLong(der.len()));
    }
    let read = X509CertificationRequest::from_der(der);
    let (rest, request) = read.map_err(|error| RequestError::Form(error.to_string()))?;
    if !rest.is_empty() {
        return Err(RequestError::Form("something follows it".into()));
    }
    let info = &request.certification_request_info;
    let key = &info.subject_pki;
    let curve = key.algorithm.parameters.as_ref();
    let curve = curve.and_then(|any| any.as_oid().ok());
    let is_ours = key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve == Some(OID_EC_P256)
        && request.signature_algorithm.algorithm == OID_SIG_ECDSA_WITH_SHA256;
    if !is_ours {
        return Err(RequestError::Algorithm);
    }
    let point = &*key.subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(info.raw, &request.signature_value.data)
        .map_err(|_| RequestError::Signature)?;
    Ok(RequestedKey(point.to_vec()))
}

impl PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}
