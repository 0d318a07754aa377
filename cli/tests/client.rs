//! The program itself against a gateway that is told what to answer: what is sent, what is
//! printed where, and the exit status.

#![expect(clippy::unwrap_used, reason = "tests")]

mod gateway;

use gateway::{Gateway, bodhi, run};

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_new_token_is_printed_alone_so_that_a_shell_can_take_it() {
    let gateway = Gateway::answering("201 Created", r#"{"id":"t1","token":"bodhi_abc"}"#);
    let arguments = [
        "token",
        "create",
        "--name",
        "ci",
        "--scope",
        "power_user",
        "--expires",
        "1h",
        "--models",
        "gpt-*",
        "fast",
    ];
    let output = run(bodhi(&gateway.url, Some("secret"), &arguments), "");
    assert_eq!(text(&output.stdout), "bodhi_abc\n");
    assert_eq!(output.status.code(), Some(0));
    let request = gateway.request();
    assert_eq!(request.line, "POST /bodhi/v1/tokens");
    assert!(
        request
            .headers
            .contains(&"authorization: Bearer secret".to_owned())
    );
    let sent: serde_json::Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(sent["scope"], "power_user");
    assert_eq!(sent["models"], serde_json::json!(["gpt-*", "fast"]));
}

#[test]
fn a_providers_key_comes_from_stdin_and_is_printed_nowhere() {
    let gateway = Gateway::answering("200 OK", r#"{"origin":"https://openrouter.ai"}"#);
    let command = bodhi(&gateway.url, Some("secret"), &["key", "set", "openrouter"]);
    let output = run(command, "sk-canary\n");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!text(&output.stdout).contains("canary") && !text(&output.stderr).contains("canary"));
    let request = gateway.request();
    assert_eq!(request.line, "PUT /bodhi/v1/keys/bodhi/openrouter");
    assert_eq!(request.body, r#"{"key":"sk-canary"}"#);
}

#[test]
fn errors_say_what_to_do_and_exit_with_1() {
    let body = r#"{"error":{"message":"Unknown token.","code":"invalid_token"}}"#;
    let gateway = Gateway::answering("401 Unauthorized", body);
    let output = run(bodhi(&gateway.url, Some("x"), &["token", "list"]), "");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert!(
        text(&output.stderr).contains("Set BODHI_TOKEN"),
        "{output:?}"
    );
}

#[test]
fn errors_are_json_when_json_is_asked_for() {
    let gateway = Gateway::answering("404 Not Found", "<html>");
    let output = run(bodhi(&gateway.url, Some("x"), &["-o", "json", "get"]), "");
    assert_eq!(output.status.code(), Some(1));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("404"));
}

#[test]
fn a_redirect_is_not_followed_with_the_token() {
    let other = Gateway::answering("200 OK", "{}");
    let moved = format!("307 Temporary Redirect\r\nlocation: {}/", other.url);
    let gateway = Gateway::answering(&moved, "");
    let output = run(bodhi(&gateway.url, Some("secret"), &["token", "list"]), "");
    assert_eq!(output.status.code(), Some(1));
    gateway.request();
    // Whoever connects now is the first: nothing came before.
    std::net::TcpStream::connect(other.url.trim_start_matches("http://")).unwrap();
    assert_eq!(other.request().line, "");
}

#[test]
fn the_kept_token_is_used_on_this_machine_and_sent_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("admin-token"), "bodhi_kept\n").unwrap();
    let data = folder.path().to_str().unwrap();

    let gateway = Gateway::answering("200 OK", r#"{"data":[]}"#);
    let output = run(
        bodhi(&gateway.url, None, &["token", "list", "--data", data]),
        "",
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let headers = gateway.request().headers;
    assert!(headers.contains(&"authorization: Bearer bodhi_kept".to_owned()));

    let elsewhere = bodhi(
        "http://gateway.invalid",
        None,
        &["token", "list", "--data", data],
    );
    let output = run(elsewhere, "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("not sent to"), "{output:?}");
}

#[test]
fn a_gateway_that_does_not_run_is_named() {
    let url = "http://127.0.0.1:9";
    let output = run(bodhi(url, Some("x"), &["get"]), "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("bodhi up"), "{output:?}");
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    for arguments in [
        &["token"][..],
        &["token", "create"],
        &["token", "create", "--name", "a", "--expires", "soon"],
        &["key", "set", "../x"],
        &["get", "Not A Name"],
        &["validate"],
    ] {
        let output = run(bodhi("http://127.0.0.1:9", Some("x"), arguments), "");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn the_crds_are_two_yaml_documents() {
    let output = run(bodhi("http://127.0.0.1:9", None, &["crds"]), "");
    assert_eq!(output.status.code(), Some(0));
    let documents = text(&output.stdout).split("---\n").count();
    assert_eq!(documents, 2);
}

#[test]
fn ping_knows_a_gateway_by_its_refusal() {
    let refusal = r#"{"error":{"message":"No token.","code":"missing_credentials"}}"#;
    let loading = r#"{"error":{"message":"No configuration yet.","code":"not_ready"}}"#;
    for (status, body, code, words) in [
        ("401 Unauthorized", refusal, 0, "is ready"),
        (
            "503 Service Unavailable",
            loading,
            1,
            "503 not_ready: No configuration",
        ),
        ("200 OK", "<html>", 1, "it is no gateway"),
    ] {
        let gateway = Gateway::answering(status, body);
        // The variable would be sent by any other command.
        let output = run(
            bodhi("http://unused", Some("canary"), &["ping", &gateway.url]),
            "",
        );
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(text(&output.stdout).contains(words), "{output:?}");
        let request = gateway.request();
        assert!(!request.headers.iter().any(|h| h.contains("canary")));
    }
    let output = run(bodhi("http://127.0.0.1:1", None, &["ping"]), "");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stdout).contains("cannot be reached"),
        "{output:?}"
    );
}

#[test]
fn a_socket_is_asked_where_nothing_else_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let served = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 4096];
        let read = stream.read(&mut head).unwrap();
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"data\":[]}";
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&head[..read]).to_lowercase()
    });
    let mut command = bodhi("", None, &["token", "list"]);
    command
        .env_remove("BODHI_SERVER")
        .env("BODHI_ADMIN_SOCKET", &path);
    let output = run(command, "");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let asked = served.join().unwrap();
    assert!(asked.starts_with("get /bodhi/v1/tokens"), "{asked}");
    assert!(!asked.contains("authorization"), "{asked}");
    // Nobody listens there any more: a token means another gateway.
    let other = Gateway::answering("200 OK", r#"{"data":[]}"#);
    let mut command = bodhi(&other.url, Some("secret"), &["token", "list"]);
    command.env("BODHI_ADMIN_SOCKET", &path);
    assert_eq!(run(command, "").status.code(), Some(0));
}
