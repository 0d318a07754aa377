//! The data plane's settings: flags and environment as given, and what they mean once judged.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bodhi_net::drain::Times;
use bodhi_net::identity::{
    Client, Credentials, HostError, Identity, PemError, PemFile, Purchase, PurchaseError,
};
use bodhi_net::places::Places;
use clap::Args;

use crate::admission::memory;
use crate::control::{Connect, Controllers};
use crate::proxy::Limits;
use crate::serve::TlsFiles;

/// Flags of serving, shared by `bodhi-dataplane` and `bodhi up`.
#[derive(Debug, Clone, Args)]
pub struct ServeFlags {
    /// Address of the public API.
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:1135",
        env = "BODHI_LISTEN"
    )]
    pub listen: SocketAddr,
    /// Address of /livez, /readyz and /metrics.
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:1136",
        env = "BODHI_ADMIN_LISTEN"
    )]
    pub admin_listen: SocketAddr,
    /// Serving threads; 0: one per core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Longest body of a request that generates or embeds, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 32 << 20)]
    pub max_body: usize,
    /// Bytes that request bodies may take together; 0: half of the memory limit.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub body_memory: usize,
    /// One JSON line per request on standard output, or none.
    #[arg(long, value_name = "WHERE", default_value = "stdout")]
    pub access_log: AccessLogTo,
    /// Certificate chain (PEM) for TLS on the public API; read again when it changes.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key (PEM) of that certificate.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Seconds of accepting connections after SIGTERM, while load balancers look away
    /// [default: 15; `bodhi up`: 0]
    #[arg(long, value_name = "SECONDS")]
    pub lame_duck: Option<u64>,
    /// Most seconds that streams may run on after that [default: 600; `bodhi up`: 30]
    #[arg(long, value_name = "SECONDS")]
    pub drain: Option<u64>,
}

/// Flags of the way to controllers.
#[derive(Debug, Clone, Args)]
pub struct ControllerFlags {
    /// Where controllers are: unix:PATH, or https://HOST:PORT. Several are separated by commas, and a name
    /// may have several addresses: one is connected, the leader if it answers.
    #[arg(long, value_name = "ADDRESS", env = "BODHI_CONTROLLER")]
    pub controller: String,
    /// Certificate chain (PEM) that this data plane shows to controllers and workers; its SAN must hold the
    /// DNS name `dataplane` or the URI `bodhi:dataplane`. Read again for each connection.
    #[arg(long, value_name = "FILE")]
    pub controller_cert: Option<PathBuf>,
    /// Private key (PEM) of that certificate.
    #[arg(long, value_name = "FILE")]
    pub controller_key: Option<PathBuf>,
    /// In place of these two: a projected ServiceAccount token, for which a controller signs a
    /// certificate; read again each time.
    #[arg(
        long,
        value_name = "FILE",
        env = "BODHI_CONTROLLER_TOKEN_FILE",
        conflicts_with_all = ["controller_cert", "controller_key"]
    )]
    pub controller_token_file: Option<PathBuf>,
    /// Certificates (PEM) of the authorities that sign controllers' and workers' certificates.
    #[arg(long, value_name = "FILE", env = "BODHI_CONTROLLER_CA")]
    pub controller_ca: Option<PathBuf>,
}

/// Why there is no way to a controller.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// Neither of the two forms.
    #[error(
        "--controller must read unix:PATH or https://HOST:PORT[,…], such as \
         unix:/run/bodhi/sync.sock or https://bodhi-controller:1138; it reads '{0}'"
    )]
    Address(String),
    /// One end proves nothing.
    #[error(
        "--controller https://… takes mutual TLS: --controller-ca must be given, and either \
         --controller-cert and --controller-key or --controller-token-file"
    )]
    FilesMissing,
    /// The operator believes in an encryption that is not there.
    #[error(
        "--controller-cert, --controller-key, --controller-token-file and --controller-ca go with \
         https://HOST:PORT; a Unix socket takes none"
    )]
    FilesUnused,
    /// The files cannot be used.
    #[error(transparent)]
    Files(#[from] PemError),
    /// A host cannot be one.
    #[error("--controller: {0}")]
    Host(#[from] HostError),
}

impl From<PurchaseError> for ControllerError {
    fn from(error: PurchaseError) -> Self {
        match error {
            PurchaseError::Authorities(error) => Self::Files(error),
            PurchaseError::Host(error) => Self::Host(error),
        }
    }
}

impl ControllerFlags {
    /// Judges the flags and reads the files. Where the certificate is bought, that begins, on this
    /// tokio runtime.
    ///
    /// # Errors
    /// [`ControllerError`] names the flag and what to write instead.
    pub fn judge(self) -> Result<Connect, ControllerError> {
        let file = |path, flag| PemFile { path, flag };
        let files = (
            self.controller_cert,
            self.controller_key,
            self.controller_token_file,
            self.controller_ca,
        );
        if let Some(path) = self.controller.strip_prefix("unix:")
            && !path.is_empty()
        {
            return match files {
                (None, None, None, None) => Ok(Connect::Unix(path.into())),
                _ => Err(ControllerError::FilesUnused),
            };
        }
        let Some(places) = Places::parse(&self.controller) else {
            return Err(ControllerError::Address(self.controller));
        };
        let authorities = |path| file(path, "--controller-ca");
        let credentials = match files {
            (Some(certificate), Some(key), None, Some(ca)) => Credentials::files(Identity {
                certificate: file(certificate, "--controller-cert"),
                key: file(key, "--controller-key"),
                authorities: authorities(ca),
            })?,
            (None, None, Some(token), Some(ca)) => {
                let purchase = Purchase {
                    token,
                    token_flag: "--controller-token-file",
                    authorities: authorities(ca),
                    controllers: places.clone(),
                };
                purchase.start()?
            }
            _ => return Err(ControllerError::FilesMissing),
        };
        let client = Arc::new(Client::new(credentials));
        Ok(Connect::Tls(Arc::new(Controllers::new(client, places)?)))
    }
}

/// Where the access log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum AccessLogTo {
    /// Standard output.
    Stdout,
    /// Nowhere.
    Off,
}

/// What a serving process is told, judged.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address of the public API.
    pub listen: SocketAddr,
    /// Address of probes and metrics.
    pub admin_listen: SocketAddr,
    /// Serving threads, at least one.
    pub threads: usize,
    /// Sizes and times of the request path.
    pub limits: Limits,
    /// Bytes that request bodies may take together.
    pub body_memory: usize,
    /// What tells how much memory is left.
    pub memory: memory::Source,
    /// Where the access log goes.
    pub access_log: AccessLogTo,
    /// Certificate and key for TLS.
    pub tls: Option<TlsFiles>,
    /// The phases of going down.
    pub drain: Times,
    /// Whether callers need no credential.
    pub anonymous: bool,
}

/// Settings that cannot be served with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Anybody on the network could spend the keys.
    #[error(
        "--anonymous asks for no credential, so --listen must be a loopback address; {0} is not. \
         Use 127.0.0.1 or leave --anonymous out"
    )]
    AnonymousBeyondLoopback(IpAddr),
    /// No request could be taken.
    #[error("--max-body must be at least 1024 bytes")]
    MaxBody,
}

impl ServeFlags {
    /// Judges the flags. `drain` is the program's own default.
    ///
    /// # Errors
    /// [`ConfigError`] names the flag and what to write instead.
    pub fn judge(self, anonymous: bool, drain: Times) -> Result<Config, ConfigError> {
        if anonymous && !self.listen.ip().is_loopback() {
            return Err(ConfigError::AnonymousBeyondLoopback(self.listen.ip()));
        }
        if self.max_body < 1024 {
            return Err(ConfigError::MaxBody);
        }
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Config {
            listen: self.listen,
            admin_listen: self.admin_listen,
            threads: match self.threads {
                0 => cores(),
                n => n,
            },
            limits: Limits {
                generation_body: self.max_body,
                ..Limits::default()
            },
            body_memory: match self.body_memory {
                0 => memory::default_budget(),
                n => n,
            },
            memory: memory::Source::find(),
            access_log: self.access_log,
            tls: self
                .tls_cert
                .zip(self.tls_key)
                .map(|(certificate, key)| TlsFiles {
                    certificate: PemFile {
                        path: certificate,
                        flag: "--tls-cert",
                    },
                    key: PemFile {
                        path: key,
                        flag: "--tls-key",
                    },
                }),
            drain: Times {
                lame_duck: self.lame_duck.map_or(drain.lame_duck, Duration::from_secs),
                drain: self.drain.map_or(drain.drain, Duration::from_secs),
            },
            anonymous,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        serve: ServeFlags,
    }

    fn judge(args: &[&str], anonymous: bool) -> Result<Config, ConfigError> {
        let cli = Cli::parse_from(["test"].iter().chain(args));
        cli.serve.judge(anonymous, Times::default())
    }

    #[test]
    fn anonymous_stays_on_loopback() {
        assert!(judge(&["--listen", "[::1]:0"], true).is_ok());
        assert!(judge(&["--listen", "0.0.0.0:0"], false).is_ok());
        let refused = judge(&["--listen", "0.0.0.0:0"], true).unwrap_err();
        assert!(refused.to_string().contains("127.0.0.1"));
    }

    #[test]
    fn defaults_are_safe_without_tuning() {
        let config = judge(&[], false).unwrap();
        assert!(config.listen.ip().is_loopback());
        assert!(config.threads >= 1 && config.body_memory > config.limits.generation_body);
    }

    /// With these of: certificate, key, token, authorities.
    fn controller(address: &str, given: [bool; 4]) -> Result<Connect, ControllerError> {
        let [cert, key, token, ca] = given.map(|given| given.then(|| PathBuf::from("/none")));
        let flags = ControllerFlags {
            controller: address.to_owned(),
            controller_cert: cert,
            controller_key: key,
            controller_token_file: token,
            controller_ca: ca,
        };
        flags.judge()
    }

    const NOTHING: [bool; 4] = [false; 4];
    const FILES: [bool; 4] = [true, true, false, true];
    const TOKEN: [bool; 4] = [false, false, true, true];

    #[test]
    fn a_controller_is_a_socket_or_hosts_with_a_certificate_or_a_token() {
        let unix = controller("unix:/run/bodhi/sync.sock", NOTHING).unwrap();
        assert!(matches!(unix, Connect::Unix(path) if path.ends_with("sync.sock")));
        for wrong in [
            "unix:",
            "/run/sync.sock",
            "http://a:1",
            "https://a:1,unix:/b",
        ] {
            let error = controller(wrong, FILES).unwrap_err();
            assert!(
                matches!(&error, ControllerError::Address(a) if a == wrong),
                "{error}"
            );
        }
        for given in [FILES, TOKEN] {
            let error = controller("unix:/a", given).unwrap_err();
            assert!(matches!(error, ControllerError::FilesUnused));
        }
        for some in [
            NOTHING,
            [true, true, false, false],
            [true, false, false, true],
            [false, false, true, false],
            [true, true, true, true],
        ] {
            let error = controller("https://a:1", some).unwrap_err();
            assert!(matches!(error, ControllerError::FilesMissing), "{some:?}");
        }
        let unreadable = controller("https://a:1,https://b:1", FILES);
        let error = unreadable.unwrap_err().to_string();
        assert!(
            error.starts_with("--controller-cert '/none' cannot be read"),
            "{error}"
        );
        let error = controller("https://a:1", TOKEN).unwrap_err().to_string();
        assert!(
            error.starts_with("--controller-ca '/none' cannot be read"),
            "{error}"
        );
    }
}
