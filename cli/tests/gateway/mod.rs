//! A gateway that answers one request as told and remembers what it was asked.

use std::io::{BufReader, Write as _};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

/// What a command sent.
pub(crate) struct Request {
    /// Method and path, as in `GET /bodhi/v1/tokens`.
    pub(crate) line: String,
    /// Header lines, names in lower case.
    pub(crate) headers: Vec<String>,
    /// The body as text.
    pub(crate) body: String,
}

/// Listens on a free port and answers one connection with `status` and `body`.
pub(crate) struct Gateway {
    /// Its address as BODHI_SERVER takes it.
    pub(crate) url: String,
    served: JoinHandle<Request>,
}

impl Gateway {
    /// Starts it. `status` is a status line's end with headers, such as `200 OK`.
    pub(crate) fn answering(status: &str, body: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let request = read(&mut BufReader::new(&stream));
            stream.write_all(answer.as_bytes()).unwrap();
            request
        });
        Self { url, served }
    }

    /// What it was asked.
    pub(crate) fn request(self) -> Request {
        self.served.join().unwrap()
    }
}

fn read(stream: &mut impl std::io::BufRead) -> Request {
    let mut line = || {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    let first = line();
    let mut headers = Vec::new();
    loop {
        let header = line();
        let Some((name, value)) = header.split_once(':') else {
            break;
        };
        headers.push(format!("{}:{value}", name.to_ascii_lowercase()));
    }
    let length = headers
        .iter()
        .find_map(|h| h.strip_prefix("content-length: "));
    let length = length.map_or(0, |digits| digits.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    Request {
        line: first.trim_end_matches(" HTTP/1.1").to_owned(),
        headers,
        body: String::from_utf8(body).unwrap(),
    }
}

/// `bodhi` with a clean environment, BODHI_SERVER at `url` and `token` in BODHI_TOKEN.
pub(crate) fn bodhi(url: &str, token: Option<&str>, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bodhi"));
    command.env_clear().env("BODHI_SERVER", url).args(arguments);
    command.envs(token.map(|token| ("BODHI_TOKEN", token)));
    command
}

/// Runs a command with this text on its stdin.
pub(crate) fn run(mut command: Command, stdin: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads no stdin may have ended.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}
