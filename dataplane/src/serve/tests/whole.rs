//! The acceptor, its threads and TLS.

use std::collections::HashSet;

use bodhi_net::identity::PemFile;

use super::*;

fn config(tls: Option<TlsFiles>) -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        tls,
        threads: 2.try_into().unwrap(),
        limits: Limits::default(),
    }
}

fn make(_: usize) -> Rc<Script> {
    Rc::new(Script::default())
}

#[test]
fn threads_share_the_connections_and_end_with_the_drain() {
    local(async {
        let listener = bind(config(None)).unwrap();
        let address = listener.address();
        let taken = Config {
            listen: address,
            ..config(None)
        };
        let error = bind(taken).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot listen on {address}")),
            "{error}"
        );
        let (drain, signal) = drain::channel();
        let serving = spawn_local(listener.serve(signal, Arc::default(), make));
        let mut threads = HashSet::new();
        let mut open = Vec::new();
        for _ in 0..4 {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            let request = b"GET /thread HTTP/1.1\r\nhost: a\r\n\r\n";
            tcp.write_all(request).await.unwrap();
            let answer = until(&mut tcp, "serve-").await;
            threads.insert(answer[answer.find("serve-").unwrap()..].to_owned());
            open.push(tcp);
        }
        assert_eq!(threads.len(), 2, "{threads:?}");
        drain.move_to(Phase::Draining);
        timeout(PATIENCE, serving).await.unwrap().unwrap().unwrap();
        TcpStream::connect(address).await.unwrap_err();
    });
}

#[test]
fn tls_offers_both_protocols() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let file = |flag, name, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        PemFile { path, flag }
    };
    let files = TlsFiles {
        certificate: file("--tls-cert", "tls.crt", made.cert.pem()),
        key: file("--tls-key", "tls.key", made.signing_key.serialize_pem()),
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = |alpn: &[u8]| {
        let mut config = rustls::ClientConfig::builder_with_provider(bodhi_net::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        tokio_rustls::TlsConnector::from(Arc::new(config))
    };
    local(async {
        let listener = bind(config(Some(files))).unwrap();
        let address = listener.address();
        let (_drain, signal) = drain::channel();
        spawn_local(listener.serve(signal, Arc::default(), make));
        let name = || "localhost".try_into().unwrap();

        let tcp = TcpStream::connect(address).await.unwrap();
        let mut tls = client(b"http/1.1").connect(name(), tcp).await.unwrap();
        tls.write_all(HELLO.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        tls.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");

        let tcp = TcpStream::connect(address).await.unwrap();
        let tls = client(b"h2").connect(name(), tcp).await.unwrap();
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(executor, TokioIo::new(tls))
                .await
                .unwrap();
        spawn_local(connection);
        let request = Request::get("https://localhost/echo").body(Full::<Bytes>::default());
        let response = sender.send_request(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
    });
}
