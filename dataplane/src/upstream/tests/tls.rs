//! Whom a call trusts.

use super::*;

/// A certificate for `localhost`, and the CA that vouches for it, PEM.
fn certificates() -> (rcgen::Certificate, rcgen::KeyPair, String) {
    let mut ca = rcgen::CertificateParams::new(vec![]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
    (leaf.signed_by(&key, &issuer).unwrap(), key, ca_pem)
}

#[test]
fn tls_trusts_the_bundle_alone_and_checks_the_name() {
    let (certificate, key, ca) = certificates();
    let mut config = rustls::ServerConfig::builder_with_provider(bodhi_net::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    local(async {
        let server = Server::start(move |_, tcp| {
            let acceptor = acceptor.clone();
            async move {
                // A client that does not trust us hangs up.
                let Ok(mut tls) = acceptor.accept(tcp).await else {
                    return;
                };
                assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
                while read_request(&mut tls).await.ends_with("abc") {
                    tls.write_all(OK.as_bytes()).await.unwrap();
                }
            }
        })
        .await;
        let upstreams = upstreams();
        let port = server.address.port();
        let trusting = Upstream {
            roots: Roots::Bundle(ca.into()),
            ..upstream(&format!("https://localhost:{port}/v1"))
        };
        for _ in 0..2 {
            let response = upstreams.call(&trusting, post(&["a", "b", "c"])).await;
            assert_eq!(text(response.unwrap()).await, "ok");
        }
        let established = server.connections.get();
        let other_name = Upstream {
            roots: trusting.roots.clone(),
            ..upstream(&format!("https://127.0.0.1:{port}/v1"))
        };
        let (_, _, other_ca) = certificates();
        let other_roots = Upstream {
            roots: Roots::Bundle(other_ca.into()),
            ..trusting.clone()
        };
        let no_roots = Upstream {
            roots: Roots::Bundle("".into()),
            ..trusting.clone()
        };
        for bad in [other_name, other_roots, no_roots] {
            let failure = upstreams.call(&bad, post(&["abc"])).await.unwrap_err();
            assert!(matches!(failure, Failure::TlsFailed(_)), "{failure}");
            assert!(failure.never_written());
        }
        // One each, none tried twice; without roots there is no point in connecting.
        assert_eq!(server.connections.get(), established + 2);
    });
}
