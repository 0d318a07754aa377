//! A certificate authority and a server certificate made for one run.

use std::sync::Arc;

use anyhow::Context as _;
use tokio_rustls::TlsAcceptor;

use crate::authority::Authority;

/// An acceptor for `localhost` and `127.0.0.1`, and the authority's certificate as PEM.
pub(super) fn acceptor() -> anyhow::Result<(TlsAcceptor, String)> {
    let authority = Authority::new("scripted authority")?;
    let issued = authority.issue(&["localhost", "127.0.0.1"])?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![issued.certificate_der], issued.key_der)
        .context("server certificate")?;
    Ok((TlsAcceptor::from(Arc::new(config)), authority.pem))
}
