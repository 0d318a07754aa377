//! Where the database is and how it is reached: a URL as libpq knows it, judged.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use bodhi_proto::secret::Secret;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

/// How long one address may take to accept, unless the URL says `connect_timeout`.
const CONNECT: Duration = Duration::from_secs(3);
/// How long what was sent may stay unacknowledged before a connection counts as dead.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// A connection on which nothing moves is asked for signs of life this often.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A PostgreSQL database, and who asks for it.
#[derive(Clone)]
pub struct PostgresConfig {
    /// All but password and TLS.
    pub(super) server: tokio_postgres::Config,
    pub(super) password: Password,
    pub(super) tls: Tls,
    /// Certificates (PEM) of the authorities that sign the server's; `None`: the system's.
    pub(super) authorities: Option<PathBuf>,
}

/// Where the password is. A file is read for each connection, so a changed one is used.
#[derive(Clone)]
pub enum Password {
    /// The server asks for none.
    None,
    /// As given.
    Text(Secret),
    /// In this file.
    File(PathBuf),
}

/// What a connection proves and hides; libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// `disable`: everything can be read and changed on the way.
    Disable,
    /// `prefer`: encrypted if the server offers it. Whoever sits between can have it in clear.
    Prefer,
    /// `require`: encrypted, to whoever answers.
    Require,
    /// `verify-ca`: to a server with a certificate of the authorities.
    VerifyCa,
    /// `verify-full`: to one with such a certificate that names the host.
    VerifyFull,
}

/// A database that cannot be meant so; the text names the flag and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostgresConfigError {
    /// No URL, or an option that is none. The URL may hold a password: it is not repeated.
    #[error(
        "--store must read postgres://USER@HOST:PORT/DATABASE, with options of libpq after a '?'; \
         characters such as @ : / ? # % in names and passwords are written %40 %3A %2F %3F %23 %25"
    )]
    Url,
    /// No host.
    #[error(
        "--store names no host: write postgres://USER@HOST:PORT/DATABASE, or for a Unix socket \
         postgres://USER@/DATABASE?host=/run/postgresql"
    )]
    NoHost,
    /// libpq would ask the operating system.
    #[error("--store names no user: write postgres://USER@HOST:PORT/DATABASE")]
    NoUser,
    /// Not one of the five.
    #[error(
        "--store: sslmode is disable, prefer, require, verify-ca or verify-full; it reads '{0}'"
    )]
    SslMode(String),
    /// Another spelling of our flag.
    #[error("--store: name the authorities with --store-ca FILE instead of sslrootcert")]
    RootCert,
    /// Files that would not be looked at.
    #[error("--store-ca goes with TLS; sslmode={0} in --store does not verify anything")]
    CaUnused(&'static str),
    /// Twice the same.
    #[error(
        "the store's password is given twice: keep one of the URL, BODHI_STORE_PASSWORD and \
         --store-password-file"
    )]
    TwoPasswords,
}

impl PostgresConfig {
    /// Judges a URL. `password` comes from elsewhere than the URL.
    ///
    /// # Errors
    /// [`PostgresConfigError`].
    pub fn parse(
        url: &Secret,
        password: Password,
        authorities: Option<PathBuf>,
    ) -> Result<Self, PostgresConfigError> {
        let (rest, sslmode) = take_sslmode(url.expose())?;
        let mut server =
            tokio_postgres::Config::from_str(&rest).map_err(|_| PostgresConfigError::Url)?;
        if server.get_hosts().is_empty() && server.get_hostaddrs().is_empty() {
            return Err(PostgresConfigError::NoHost);
        }
        if server.get_user().is_none_or(str::is_empty) {
            return Err(PostgresConfigError::NoUser);
        }
        let password = match (server.get_password(), password) {
            (None, password) => password,
            (Some(_), Password::Text(_) | Password::File(_)) => {
                return Err(PostgresConfigError::TwoPasswords);
            }
            (Some(own), Password::None) => {
                let own = std::str::from_utf8(own).map_err(|_| PostgresConfigError::Url)?;
                Password::Text(Secret::new(own))
            }
        };
        let tls = tls(&server, sslmode.as_deref(), authorities.is_some())?;
        server
            .ssl_mode(match tls {
                Tls::Disable => SslMode::Disable,
                Tls::Prefer => SslMode::Prefer,
                Tls::Require | Tls::VerifyCa | Tls::VerifyFull => SslMode::Require,
            })
            // A standby would refuse every change: with several hosts the primary is looked for.
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .tcp_user_timeout(UNACKNOWLEDGED)
            .keepalives_idle(KEEPALIVE)
            .keepalives_interval(KEEPALIVE / 2)
            .keepalives_retries(3);
        if server.get_connect_timeout().is_none() {
            server.connect_timeout(CONNECT);
        }
        if server.get_application_name().is_none() {
            server.application_name("bodhi-controller");
        }
        Ok(Self {
            server,
            password,
            tls,
            authorities,
        })
    }
}

/// The URL without `sslmode`, of which tokio-postgres knows only some values, and the mode.
fn take_sslmode(url: &str) -> Result<(String, Option<String>), PostgresConfigError> {
    let Some((base, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), None));
    };
    let mut sslmode = None;
    let mut kept = Vec::new();
    for option in query.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("sslmode", mode)) => sslmode = Some(mode.to_owned()),
            Some(("sslrootcert", _)) => return Err(PostgresConfigError::RootCert),
            _ => kept.push(option),
        }
    }
    let rest = match kept.is_empty() {
        true => base.to_owned(),
        false => format!("{base}?{}", kept.join("&")),
    };
    Ok((rest, sslmode))
}

/// What the URL asks for. Where it says nothing, libpq's `prefer` would send what seals keys to
/// whoever answers: other machines have to prove who they are.
fn tls(
    server: &tokio_postgres::Config,
    sslmode: Option<&str>,
    with_authorities: bool,
) -> Result<Tls, PostgresConfigError> {
    let hosts = server.get_hosts();
    let is_socket = |host: &Host| matches!(host, Host::Unix(_));
    let is_local = |host: &Host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost"
                || name
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|ip| ip.is_loopback())
        }
    };
    // PostgreSQL speaks no TLS over Unix sockets; libpq ignores the mode there.
    if !hosts.is_empty() && hosts.iter().all(is_socket) {
        return Ok(Tls::Disable);
    }
    let tls = match sslmode {
        None if with_authorities => Tls::VerifyFull,
        None if !hosts.is_empty() && hosts.iter().all(is_local) => Tls::Prefer,
        None | Some("verify-full") => Tls::VerifyFull,
        Some("verify-ca") => Tls::VerifyCa,
        // As libpq: who names an authority wants it asked.
        Some("require") if with_authorities => Tls::VerifyCa,
        Some("require") => Tls::Require,
        Some("prefer") => Tls::Prefer,
        Some("disable") => Tls::Disable,
        Some(other) => return Err(PostgresConfigError::SslMode(other.to_owned())),
    };
    match tls {
        Tls::Disable if with_authorities => Err(PostgresConfigError::CaUnused("disable")),
        Tls::Prefer if with_authorities => Err(PostgresConfigError::CaUnused("prefer")),
        tls => Ok(tls),
    }
}

/// Where it is, for logs: hosts, ports, database and user.
impl fmt::Display for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = &self.server;
        write!(f, "postgres://{}@", server.get_user().unwrap_or_default())?;
        let ports = server.get_ports();
        for (i, host) in server.get_hosts().iter().enumerate() {
            let separator = if i == 0 { "" } else { "," };
            match host {
                Host::Tcp(name) => write!(f, "{separator}{name}")?,
                Host::Unix(path) => write!(f, "{separator}{}", path.display())?,
            }
            let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432);
            write!(f, ":{port}")?;
        }
        write!(f, "/{}", server.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresConfig({self}, {:?})", self.tls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str, ca: bool) -> Result<PostgresConfig, PostgresConfigError> {
        let authorities = ca.then(|| PathBuf::from("ca.crt"));
        PostgresConfig::parse(&Secret::new(url), Password::None, authorities)
    }

    #[test]
    fn other_machines_prove_who_they_are_unless_the_url_says_otherwise() {
        for (url, ca, expected) in [
            ("postgres://u@db.example.com/b", false, Tls::VerifyFull),
            (
                "postgres://u@db.example.com/b?sslmode=require",
                false,
                Tls::Require,
            ),
            (
                "postgres://u@db.example.com/b?sslmode=require",
                true,
                Tls::VerifyCa,
            ),
            (
                "postgresql://u@a:1,b:2/b?sslmode=verify-ca&application_name=x",
                true,
                Tls::VerifyCa,
            ),
            (
                "postgres://u@db.example.com/b?sslmode=disable",
                false,
                Tls::Disable,
            ),
            (
                "postgres://u@db.example.com/b?sslmode=prefer",
                false,
                Tls::Prefer,
            ),
            ("postgres://u@127.0.0.1:5433/b", false, Tls::Prefer),
            ("postgres://u@localhost/b", true, Tls::VerifyFull),
            ("postgres://u@localhost,db/b", false, Tls::VerifyFull),
            (
                "postgres://u@/b?host=/run/postgresql&sslmode=require",
                false,
                Tls::Disable,
            ),
        ] {
            assert_eq!(parse(url, ca).unwrap().tls, expected, "{url}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_flag_and_without_the_password() {
        use PostgresConfigError as E;
        for (url, ca, expected) in [
            ("postgres://u:canary@h:port/b", false, E::Url),
            ("postgres://u@h/b?frobnicate=1", false, E::Url),
            ("postgres://u@/b", false, E::NoHost),
            ("postgres://h/b", false, E::NoUser),
            (
                "postgres://u@h/b?sslmode=allow",
                false,
                E::SslMode("allow".into()),
            ),
            ("postgres://u@h/b?sslrootcert=ca.crt", false, E::RootCert),
            (
                "postgres://u@h/b?sslmode=disable",
                true,
                E::CaUnused("disable"),
            ),
        ] {
            let error = parse(url, ca).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("--store") && !text.contains("canary"),
                "{text}"
            );
            assert_eq!(error, expected, "{url}");
        }
        let twice = PostgresConfig::parse(
            &Secret::new("postgres://u:p@h/b"),
            Password::Text(Secret::new("q")),
            None,
        );
        assert_eq!(twice.unwrap_err(), E::TwoPasswords);
    }

    #[test]
    fn what_logs_show_holds_no_password() {
        let config = parse("postgres://u:canary@a:1,b/bodhi?sslmode=verify-full", false).unwrap();
        assert_eq!(config.to_string(), "postgres://u@a:1,b:5432/bodhi");
        assert!(!format!("{config:?}").contains("canary"));
    }
}
