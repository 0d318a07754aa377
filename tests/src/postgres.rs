//! A PostgreSQL server of the test's own: Debian's programs on a temporary folder, a free port of
//! loopback and a socket in that folder. It can be stopped, killed and started again, and ends with
//! the test, however the test ends.

use std::fs::Permissions;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;

use crate::authority::Authority;
use crate::process::eventually;

/// The password of [`USER`]: no program may print it.
pub const PASSWORD: &str = "canary-database-password-51c8";
/// The user whose databases are made here.
pub const USER: &str = "bodhi";

/// How careful the server is with the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// As a server that matters.
    Careful,
    /// For tests that kill nothing.
    Fast,
}

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    server: Option<Running>,
    folder: TempDir,
    port: u16,
    disk: Disk,
    databases: AtomicUsize,
    /// Who signed its certificate for `localhost`.
    pub authority: Authority,
}

#[derive(Debug)]
struct Running {
    program: Child,
    /// Ends the server and removes its folder when this process is gone.
    guard: Child,
}

/// PostgreSQL refuses to run as root: there it runs as the user that Debian made for it.
#[derive(Debug, Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

impl Postgres {
    /// Makes and starts one.
    ///
    /// # Errors
    /// When PostgreSQL is not installed (`scripts/setup.sh test` does), or does not start.
    pub fn start(disk: Disk) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("a temporary folder")?;
        let authority = Authority::new("database authority")?;
        let account = account()?;
        let path = folder.path();
        // The folder must be reachable by the account, and its files must be the account's.
        std::fs::set_permissions(path, Permissions::from_mode(0o755))?;
        let given = |path: &Path| match account {
            Some(account) => chown(path, Some(account.uid), Some(account.gid)),
            None => Ok(()),
        };
        given(path)?;
        run(as_account("initdb", account)?
            .args(["--no-sync", "--username=postgres", "--auth-local=trust"])
            .args(["--auth-host=scram-sha-256", "--encoding=UTF8"])
            .arg("--pgdata")
            .arg(path.join("data")))?;
        let certificate = authority.issue(&["localhost"])?;
        certificate.write(path, "server")?;
        for name in ["server.crt", "server.key"] {
            let file = path.join(name);
            std::fs::set_permissions(&file, Permissions::from_mode(0o600))?;
            given(&file)?;
        }
        std::fs::write(path.join("ca.crt"), &authority.pem)?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let mut postgres = Self {
            server: None,
            folder,
            port,
            disk,
            databases: AtomicUsize::new(0),
            authority,
        };
        postgres.restart()?;
        postgres.sql(
            "postgres",
            &format!("CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'"),
        )?;
        Ok(postgres)
    }

    /// Starts it after [`Postgres::stop`] or [`Postgres::kill`], and waits until it answers.
    ///
    /// # Errors
    /// When it does not; the message holds its log.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let path = self.folder.path();
        let (folder, log) = (path.to_owned(), path.join("log"));
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)?;
        let settings = [
            format!("port={}", self.port),
            format!("unix_socket_directories={}", path.display()),
            "listen_addresses=127.0.0.1".to_owned(),
            format!(
                "fsync={}",
                if self.disk == Disk::Careful {
                    "on"
                } else {
                    "off"
                }
            ),
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", path.join("server.crt").display()),
            format!("ssl_key_file={}", path.join("server.key").display()),
        ];
        let mut command = as_account("postgres", account()?)?;
        command.arg("-D").arg(path.join("data"));
        for setting in &settings {
            command.args(["-c", setting]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(file));
        let started = eventually("PostgreSQL to start", || {
            // What a killed one left behind holds its folder for a moment.
            if self.server.as_mut().is_none_or(Running::has_ended) {
                self.server = Some(Running::start(&mut command, &folder).ok()?);
            }
            self.sql("postgres", "SELECT 1").ok()
        });
        started
            .map(drop)
            .with_context(|| std::fs::read_to_string(&log).unwrap_or_default())
    }

    /// Stops it in good order: connections are closed, what was committed is on disk.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut server) = self.server.take() else {
            return Ok(());
        };
        let pid = server.program.id().to_string();
        run(Command::new("kill").args(["-INT", &pid]))?;
        eventually("PostgreSQL to stop", || {
            server.program.try_wait().ok().flatten()
        })?;
        Ok(())
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        drop(self.server.take());
    }

    /// A new, empty database that [`USER`] owns; answers its name.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn database(&self) -> anyhow::Result<String> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name} OWNER {USER}"))?;
        Ok(name)
    }

    /// Its URL over TCP, without the password. `host` is `127.0.0.1`, or `localhost` for TLS that
    /// verifies.
    pub fn url(&self, host: &str, database: &str) -> String {
        format!("postgres://{USER}@{host}:{}/{database}", self.port)
    }

    /// The port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The file of its certificate's authority.
    pub fn authority_file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// Runs statements as the superuser; answers rows without headings.
    ///
    /// # Errors
    /// When the server refuses; the message holds its words.
    pub fn sql(&self, database: &str, statements: &str) -> anyhow::Result<String> {
        run(Command::new(program("psql")?)
            .env_clear()
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--set", "ON_ERROR_STOP=1", "--username", "postgres"])
            .args(["--port", &self.port.to_string(), "--dbname", database])
            .arg("--host")
            .arg(self.folder.path())
            .args(["--command", statements]))
    }
}

impl Running {
    fn start(command: &mut Command, folder: &Path) -> anyhow::Result<Self> {
        let program = command.spawn().with_context(|| format!("{command:?}"))?;
        let pid = program.id().to_string();
        // Reading ends when the writing end is closed, which the system does for the dead.
        let script = "read -r _; kill -INT \"$0\"; \
                      while kill -0 \"$0\"; do sleep 0.1; done; rm -rf \"$1\"";
        let guard = Command::new("sh")
            .args(["-c", script, &pid])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("sh")?;
        Ok(Self { program, guard })
    }

    fn has_ended(&mut self) -> bool {
        matches!(self.program.try_wait(), Ok(Some(_)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The guard first: later the number could be another process's.
        for child in [&mut self.guard, &mut self.program] {
            // Either may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A proxy in transaction mode in front of a server: each transaction may get another of its four
/// connections, and what belongs to a session (LISTEN, named statements) is lost.
#[derive(Debug)]
pub struct PgBouncer {
    // First, so that it ends before its folder goes.
    _running: Running,
    _folder: TempDir,
    port: u16,
}

impl PgBouncer {
    /// Starts one for a database of the server's.
    ///
    /// # Errors
    /// When pgbouncer is not installed (`scripts/setup.sh test` does), or does not start.
    pub fn start(server: &Postgres, database: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("a temporary folder")?;
        let path = folder.path();
        std::fs::set_permissions(path, Permissions::from_mode(0o755))?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        std::fs::write(path.join("users"), format!("\"{USER}\" \"{PASSWORD}\"\n"))?;
        std::fs::write(
            path.join("ini"),
            format!(
                "[databases]\n{database} = host=127.0.0.1 port={} dbname={database}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
                 auth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\n\
                 default_pool_size = 4\n",
                server.port,
                path.join("users").display()
            ),
        )?;
        let mut command = as_account("pgbouncer", account()?)?;
        command
            .arg(path.join("ini"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(std::fs::File::create(path.join("log"))?));
        let running = Running::start(&mut command, path)?;
        eventually("pgbouncer to listen", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        })
        .with_context(|| std::fs::read_to_string(path.join("log")).unwrap_or_default())?;
        Ok(Self {
            _running: running,
            port,
            _folder: folder,
        })
    }

    /// The URL of a database through it, without the password.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn as_account(name: &str, account: Option<Account>) -> anyhow::Result<Command> {
    let mut command = Command::new(program(name)?);
    command
        .env_clear()
        .env("LC_ALL", "C.UTF-8")
        .env("PATH", "/usr/bin:/bin")
        .current_dir("/");
    if let Some(Account { uid, gid }) = account {
        command.uid(uid).gid(gid);
    }
    Ok(command)
}

/// `None`: whoever runs the tests may run PostgreSQL too.
fn account() -> anyhow::Result<Option<Account>> {
    let own = run(Command::new("id").arg("-u"))?;
    if own != "0" {
        return Ok(None);
    }
    let number = |flag: &str| -> anyhow::Result<u32> {
        Ok(run(Command::new("id").args([flag, "postgres"]))?.parse()?)
    };
    Ok(Some(Account {
        uid: number("-u")?,
        gid: number("-g")?,
    }))
}

/// Debian keeps the server's programs out of PATH.
fn program(name: &str) -> anyhow::Result<PathBuf> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .collect();
    // The newest version first.
    folders.sort();
    folders.reverse();
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path));
    folders.push("/usr/sbin".into());
    match folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
    {
        Some(file) => Ok(file),
        None => bail!("PostgreSQL's '{name}' is missing: run scripts/setup.sh test"),
    }
}
