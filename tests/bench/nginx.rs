//! The yardstick: nginx as a plain reverse proxy, set up as kindly as we know how.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::program::{Program, free_address};

/// Debian puts it where users' search paths do not lead.
pub(crate) const PROGRAM: &str = "/usr/sbin/nginx";

/// A running nginx.
#[derive(Debug)]
pub(crate) struct Nginx {
    pub(crate) program: Program,
    /// For answers that are whole: buffered, as is the default.
    pub(crate) whole: SocketAddr,
    /// For streams: not buffered.
    pub(crate) stream: SocketAddr,
}

impl Nginx {
    /// Starts one with `threads` workers in `folder`, which it may write to.
    pub(crate) async fn start(
        folder: &Path,
        upstream: SocketAddr,
        threads: usize,
        access_log: bool,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let (whole, stream) = (free_address()?, free_address()?);
        let log = match access_log {
            true => "access_log access.log combined;",
            false => "access_log off;",
        };
        fs::write(
            folder.join("nginx.conf"),
            configuration(whole, stream, upstream, threads, log),
        )?;
        let mut command = Command::new(PROGRAM);
        command
            .arg("-p")
            .arg(folder)
            .args(["-c", "nginx.conf", "-e", "error.log"]);
        let program = Program::start("nginx", command, folder)?;
        program.answers(whole, "/").await?;
        Ok(Self {
            program,
            whole,
            stream,
        })
    }
}

/// Bodies stay in memory, connections are kept on both sides for ever, and the key is put in as our
/// gateway does it.
fn configuration(
    whole: SocketAddr,
    stream: SocketAddr,
    upstream: SocketAddr,
    threads: usize,
    log: &str,
) -> String {
    format!(
        r#"daemon off;
user root;
pid nginx.pid;
worker_processes {threads};
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    {log}
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    tcp_nodelay on;
    keepalive_timeout 75s;
    keepalive_requests 1000000000;
    client_max_body_size 32m;
    client_body_buffer_size 2m;
    upstream provider {{
        server {upstream};
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Authorization "Bearer sk-bench";
    proxy_read_timeout 120s;
    server {{
        listen {whole} backlog=4096;
        location / {{ proxy_pass http://provider; }}
    }}
    server {{
        listen {stream} backlog=4096;
        location / {{ proxy_pass http://provider; proxy_buffering off; }}
    }}
}}
"#
    )
}
