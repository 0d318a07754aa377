//! HTTP/2 with prior knowledge.

use h2::client::SendRequest;

use super::*;

async fn connect(tcp: TcpStream) -> SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(tcp).await.unwrap();
    spawn_local(async move {
        // It ends when the server goes away, which some tests are about.
        let _ = connection.await;
    });
    client.ready().await.unwrap()
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://a{path}")).body(()).unwrap()
}

#[test]
fn prior_knowledge_is_recognised_in_a_preface_of_any_split() {
    for cut in [0, 1, 2, 3, 10] {
        paused(async {
            let served = serve().await;
            let mut tcp = served.connect().await;
            let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
            tcp.write_all(&preface[..cut]).await.unwrap();
            sleep(Duration::from_millis(25)).await;
            // The rest, and an empty SETTINGS frame.
            tcp.write_all(&preface[cut..]).await.unwrap();
            tcp.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            let mut head = [0; 9];
            tcp.read_exact(&mut head).await.unwrap();
            assert_eq!(head[3], 4, "a SETTINGS frame answers, cut at {cut}");
        });
    }
}

#[test]
fn requests_are_answered_and_cancelled_streams_drop_their_handlers() {
    local(async {
        let served = serve().await;
        let mut client = connect(served.connect().await).await;
        let (response, mut body) = client.send_request(get("/echo"), false).unwrap();
        body.send_data("hello".into(), true).unwrap();
        let mut answer = response.await.unwrap().into_body();
        assert_eq!(answer.data().await.unwrap().unwrap(), "hello");
        served.until_dropped(1).await;
        for path in ["/hang", "/stream"] {
            let before = served.dropped.get();
            let (response, _) = client.send_request(get(path), true).unwrap();
            match path {
                "/stream" => drop(response.await.unwrap()),
                _ => {
                    timeout(Duration::from_millis(50), response)
                        .await
                        .unwrap_err();
                }
            }
            served.until_dropped(before + 1).await;
        }
        let (response, _) = client.send_request(get("/fail"), true).unwrap();
        // The reset may overtake the head.
        if let Ok(cut) = response.await {
            let mut cut = cut.into_body();
            while let Some(part) = cut.data().await {
                if part.is_err() {
                    return;
                }
            }
            panic!("a failed stream looks complete");
        }
    });
}

#[test]
fn a_stalled_stream_is_reset_and_its_neighbours_are_not() {
    paused(async {
        let served = serve().await;
        // So that the flood spends its own window and not the connection's.
        let (client, connection) = h2::client::Builder::new()
            .initial_connection_window_size(1 << 20)
            .handshake(served.connect().await)
            .await
            .unwrap();
        spawn_local(connection);
        let mut client: SendRequest<Bytes> = client.ready().await.unwrap();
        let started = Instant::now();
        let (flood, _) = client.send_request(get("/flood"), true).unwrap();
        let flood = flood.await.unwrap();
        let (stream, _) = client.send_request(get("/stream"), true).unwrap();
        let mut stream = stream.await.unwrap().into_body();
        assert_eq!(stream.data().await.unwrap().unwrap(), "part");
        served.until_dropped(1).await;
        assert_eq!(started.elapsed().as_secs(), 30);
        drop(flood);
        let (response, mut body) = client.send_request(get("/echo"), false).unwrap();
        body.send_data("hello".into(), true).unwrap();
        let mut answer = response.await.unwrap().into_body();
        assert_eq!(answer.data().await.unwrap().unwrap(), "hello");
        timeout(SECOND, stream.data()).await.unwrap_err();
    });
}

#[test]
fn trace_and_too_many_fields_are_refused() {
    local(async {
        let served = serve().await;
        let mut client = connect(served.connect().await).await;
        let mut trace = get("/");
        *trace.method_mut() = http::Method::TRACE;
        let mut many = get("/");
        for n in 0..101 {
            let name = http::HeaderName::try_from(format!("x-{n}")).unwrap();
            many.headers_mut().insert(name, 1.into());
        }
        for (request, status) in [(trace, 400), (many, 431)] {
            let (response, _) = client.send_request(request, true).unwrap();
            assert_eq!(response.await.unwrap().status(), status);
        }
    });
}

#[test]
fn an_idle_connection_is_closed_in_time() {
    paused(async {
        let served = serve().await;
        let mut client = connect(served.connect().await).await;
        let (response, _) = client.send_request(get("/echo"), true).unwrap();
        response.await.unwrap();
        let started = Instant::now();
        served.connections.emptied().await;
        let after = started.elapsed().as_secs();
        assert!((75..=80).contains(&after), "{after}");
    });
}
