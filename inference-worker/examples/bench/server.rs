//! llama-server as a child process, and as much of HTTP as it takes.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;

/// Ends with its owner.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn start(
    path: &str,
    model: &str,
    slots: u32,
    context: u32,
    threads: u32,
) -> anyhow::Result<Server> {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let mut child = Command::new(path)
        .args(["--model", model, "--host", "127.0.0.1"])
        .args(["--port", &address.port().to_string()])
        .args(["--parallel", &slots.to_string()])
        .args(["--ctx-size", &(slots * context).to_string()])
        .args(["--threads", &threads.to_string()])
        .args(["--threads-batch", &threads.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {path}"))?;
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_ready(address) {
        if let Some(status) = child.try_wait()? {
            bail!("llama-server ended: {status}");
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            bail!("llama-server did not become ready");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(Server { address, child })
}

fn is_ready(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut socket = TcpStream::connect(address)?;
        socket
            .write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line)?;
        Ok(line)
    };
    ask().is_ok_and(|line| line.contains(" 200 "))
}

/// Continues a prompt; `token` is told when each came, and whether to go on is its answer.
pub(crate) fn complete(
    address: SocketAddr,
    prompt: &[u32],
    tokens: u32,
    mut token: impl FnMut(Instant) -> bool,
) -> anyhow::Result<()> {
    let body = json!({
        "prompt": prompt,
        "n_predict": tokens,
        "stream": true,
        "temperature": 0.0,
        "ignore_eos": true,
        "cache_prompt": true,
        "return_tokens": true,
    })
    .to_string();
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    write!(
        socket,
        "POST /completion HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut silent = true;
    for line in BufReader::new(socket).lines() {
        let line = line?;
        let Some(data) = line.strip_prefix("data: ") else {
            continue;
        };
        let now = Instant::now();
        let event: serde_json::Value = serde_json::from_str(data)?;
        if let Some(error) = event.get("error") {
            bail!("llama-server: {error}");
        }
        // Tokens of incomplete characters come together with the next, or are never sent.
        let is_last = event["stop"] == true;
        let count = event["tokens"].as_array().map_or(0, Vec::len);
        let count = if is_last && silent { 1 } else { count };
        silent &= count == 0;
        if !(0..count).all(|_| token(now)) {
            break;
        }
    }
    Ok(())
}
