//! The controller's settings: flags and environment as given, and what they mean once judged.

mod accounts;
mod cluster;
mod store;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bodhi_net::identity::{Credentials, Identity, PemError, PemFile, Role};
use bodhi_proto::names::{ModelName, TokenId};
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::{
    Globs, ModelCap, Policy, ResponsesIsolation, Scope, Token, TokenHash, TokenLimits,
};
use clap::Args;

use crate::authority::{NameError, ServerNames};
use crate::store::StoreConfig;

pub use accounts::{AccountError, AccountFlags, AuthorityFlags};
pub use cluster::{AuthorityConfig, ClusterConfig, ClusterError, ClusterFlags};
pub use store::{StoreFlagError, StoreFlags};

/// Flags of policy, shared by `bodhi-controller` and `bodhi up`.
#[derive(Debug, Clone, Default, Args)]
pub struct PolicyFlags {
    /// Models that any token may call, as globs; without it all that tokens allow
    #[arg(long, value_name = "GLOB,…", value_delimiter = ',')]
    pub allowed_models: Vec<String>,
    /// Most output tokens of a model's answers; may be given several times
    #[arg(long, value_name = "MODEL=N")]
    pub max_output_tokens: Vec<String>,
    /// What becomes of a response id that no record names
    #[arg(long, value_name = "HOW", default_value = "shared")]
    pub responses_isolation: Isolation,
    /// Keys of scope `user` that work besides tokens, separated by commas
    #[arg(
        long,
        env = "API_KEYS",
        value_name = "KEY,…",
        hide_env_values = true,
        hide = true
    )]
    pub api_keys: Option<String>,
}

/// Flags of local models, shared by `bodhi-controller` and `bodhi up`.
#[derive(Debug, Clone, Args)]
pub struct WorkerFlags {
    /// The program that runs local models [default: `bodhi-worker` beside this one]
    #[arg(long, env = "BODHI_WORKER", value_name = "FILE")]
    pub worker_binary: Option<PathBuf>,
    /// Seconds without an answer after which a worker counts as hung, is killed and replaced
    #[arg(
        long,
        env = "BODHI_WORKER_PATIENCE",
        value_name = "SECONDS",
        default_value = "30"
    )]
    pub worker_patience: NonZeroU32,
}

impl WorkerFlags {
    /// The patience with workers.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.worker_patience.get().into())
    }
}

/// Flags of where data planes connect.
#[derive(Debug, Clone, Default, Args)]
pub struct SyncFlags {
    /// Where data planes connect: unix:PATH, or IP:PORT with either the three files or the names below
    /// [default: `sync.sock` in the data folder]
    #[arg(long, value_name = "ADDRESS")]
    pub listen_sync: Option<String>,
    /// Certificate chain (PEM) that data planes are shown; its SAN must hold the host that they dial.
    /// All three files are read again for each connection
    #[arg(long, value_name = "FILE")]
    pub sync_cert: Option<PathBuf>,
    /// Private key (PEM) of that certificate
    #[arg(long, value_name = "FILE")]
    pub sync_key: Option<PathBuf>,
    /// Certificates (PEM) of the authorities that sign data planes' certificates
    #[arg(long, value_name = "FILE")]
    pub sync_ca: Option<PathBuf>,
    /// In a cluster, instead of files: the DNS names and IP addresses by which data planes dial this
    /// controller. The managed authority then makes its certificate, and sells theirs
    #[arg(
        long,
        env = "BODHI_SYNC_NAMES",
        value_name = "NAME,…",
        value_delimiter = ','
    )]
    pub sync_names: Vec<String>,
}

/// Where data planes connect, judged.
#[derive(Debug)]
pub enum ListenSync {
    /// A Unix socket that only the same user reaches.
    Unix(PathBuf),
    /// Mutual TLS.
    Tls(SocketAddr, Credentials),
    /// The same, with a certificate of the managed authority that holds these names.
    Managed(SocketAddr, ServerNames),
}

impl ListenSync {
    /// Who may call over TLS; each service says which of them.
    pub const CALLERS: &[Role] = &[Role::DataPlane, Role::Controller];
}

/// Why data planes could not connect.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Neither of the two forms.
    #[error(
        "--listen-sync must read unix:PATH or IP:PORT, such as unix:/run/bodhi/sync.sock or \
         0.0.0.0:1138; it reads '{0}'"
    )]
    Address(String),
    /// One end would prove nothing.
    #[error(
        "--listen-sync {0} takes mutual TLS: --sync-cert, --sync-key and --sync-ca must all be given, \
         or in a cluster --sync-names"
    )]
    FilesMissing(SocketAddr),
    /// The operator believes in an encryption that is not there.
    #[error(
        "--sync-cert, --sync-key, --sync-ca and --sync-names go with --listen-sync IP:PORT; a Unix \
         socket takes none"
    )]
    FilesUnused,
    /// Which certificate?
    #[error("--sync-names makes a certificate: leave out --sync-cert, --sync-key and --sync-ca")]
    FilesAndNames,
    /// Not a name.
    #[error("--sync-names: {0}")]
    Names(#[from] NameError),
    /// The files cannot be used.
    #[error(transparent)]
    Files(#[from] PemError),
}

impl SyncFlags {
    /// Judges the flags and reads the files. `data` is the data folder.
    ///
    /// # Errors
    /// [`SyncError`] names the flag and what to write instead.
    pub fn judge(self, data: &Path) -> Result<ListenSync, SyncError> {
        let files = (self.sync_cert, self.sync_key, self.sync_ca);
        let socket = match &self.listen_sync {
            None => Some(data.join("sync.sock")),
            Some(address) => address
                .strip_prefix("unix:")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
        };
        if let Some(socket) = socket {
            return match files {
                (None, None, None) if self.sync_names.is_empty() => Ok(ListenSync::Unix(socket)),
                _ => Err(SyncError::FilesUnused),
            };
        }
        let text = self.listen_sync.unwrap_or_default();
        let address = text.parse().map_err(|_| SyncError::Address(text))?;
        if !self.sync_names.is_empty() {
            let names = ServerNames::parse(self.sync_names.iter().map(String::as_str))?;
            return match files {
                (None, None, None) => Ok(ListenSync::Managed(address, names)),
                _ => Err(SyncError::FilesAndNames),
            };
        }
        let (Some(certificate), Some(key), Some(authorities)) = files else {
            return Err(SyncError::FilesMissing(address));
        };
        let file = |path, flag| PemFile { path, flag };
        let identity = Identity {
            certificate: file(certificate, "--sync-cert"),
            key: file(key, "--sync-key"),
            authorities: file(authorities, "--sync-ca"),
        };
        Ok(ListenSync::Tls(address, Credentials::files(identity)?))
    }
}

/// `--responses-isolation`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Isolation {
    /// Providers are asked for it.
    #[default]
    Shared,
    /// It is not found.
    Strict,
}

/// Flags that cannot be served with; the text names the flag and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not `MODEL=N`.
    #[error(
        "--max-output-tokens must read MODEL=N with N at least 1, such as gpt-4o=4096; it reads '{0}'"
    )]
    Cap(String),
    /// A key that anybody could guess.
    #[error(
        "API_KEYS: key number {0} is shorter than 16 characters; use longer ones, such as `openssl rand -hex 32` prints"
    )]
    ShortKey(usize),
}

impl PolicyFlags {
    /// The gateway-wide policy.
    ///
    /// # Errors
    /// [`ConfigError::Cap`].
    pub fn policy(&self) -> Result<Policy, ConfigError> {
        let cap = |text: &String| {
            let fault = || ConfigError::Cap(text.clone());
            // Model names may hold '=' themselves.
            let (model, limit) = text.rsplit_once('=').ok_or_else(fault)?;
            Ok(ModelCap {
                model: ModelName::parse(model).map_err(|_| fault())?,
                limit: limit.parse::<NonZeroU32>().map_err(|_| fault())?,
            })
        };
        let globs = || Globs::new(self.allowed_models.iter().map(String::as_str));
        Ok(Policy {
            allowed_models: (!self.allowed_models.is_empty()).then(globs),
            output_caps: self
                .max_output_tokens
                .iter()
                .map(cap)
                .collect::<Result<_, _>>()?,
            responses_isolation: match self.responses_isolation {
                Isolation::Shared => ResponsesIsolation::Shared,
                Isolation::Strict => ResponsesIsolation::Strict,
            },
            service_accounts: None,
        })
    }

    /// `API_KEYS` as tokens of scope `user`, which the store does not know.
    ///
    /// # Errors
    /// [`ConfigError::ShortKey`].
    pub fn static_tokens(&self) -> Result<Vec<Arc<Token>>, ConfigError> {
        let keys = self.api_keys.as_deref().unwrap_or("").split(',');
        let keys = keys.map(str::trim).filter(|key| !key.is_empty());
        keys.enumerate()
            .map(|(i, key)| static_token(i + 1, &Secret::new(key)))
            .collect()
    }
}

fn static_token(number: usize, key: &Secret) -> Result<Arc<Token>, ConfigError> {
    if key.expose().len() < 16 {
        return Err(ConfigError::ShortKey(number));
    }
    let id = format!("static-{number}");
    Ok(Arc::new(Token {
        owner: id.as_str().into(),
        id: TokenId::parse(&id).expect("letters, a dash and digits"),
        hash: TokenHash::of(key.expose().as_bytes()),
        scope: Scope::User,
        expires: None,
        models: None,
        output_caps: Vec::new(),
        limits: TokenLimits::default(),
    }))
}

/// What a controller on one machine is told, judged.
pub struct Config {
    /// Folder of the admin token and, unless they are elsewhere, store and master key; made if
    /// missing (mode 0700).
    pub data: PathBuf,
    /// What is remembered, and where.
    pub store: StoreConfig,
    /// Folder of manifests; made if missing.
    pub manifests: PathBuf,
    /// Documents that the program brings itself.
    pub built_in: Vec<crate::source::BuiltIn>,
    /// Where objects without a namespace belong.
    pub namespace: String,
    /// Gateway-wide lists and caps.
    pub policy: Policy,
    /// Tokens that the environment sets.
    pub static_tokens: Vec<Arc<Token>>,
    /// The workers' program; `None`: `bodhi-worker` beside the running one.
    pub worker_binary: Option<PathBuf>,
    /// How long a worker may be silent before it counts as hung.
    pub worker_patience: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_may_name_models_with_an_equals_sign() {
        let flags = PolicyFlags {
            max_output_tokens: vec!["a=b=7".into()],
            allowed_models: vec!["gpt-*".into()],
            ..PolicyFlags::default()
        };
        let policy = flags.policy().unwrap();
        assert_eq!(policy.output_caps[0].model.as_str(), "a=b");
        assert_eq!(policy.output_caps[0].limit.get(), 7);
        assert!(policy.allowed_models.unwrap().matches("gpt-4o"));
    }

    #[test]
    fn caps_that_are_none_are_refused_by_name() {
        for bad in ["gpt-4o", "gpt-4o=", "gpt-4o=0", "gpt-4o=-1", "=5"] {
            let flags = PolicyFlags {
                max_output_tokens: vec![bad.into()],
                ..PolicyFlags::default()
            };
            assert_eq!(flags.policy(), Err(ConfigError::Cap(bad.into())));
        }
    }

    #[test]
    fn static_keys_become_tokens_that_hold_no_key() {
        let flags = |keys: &str| PolicyFlags {
            api_keys: Some(keys.into()),
            ..PolicyFlags::default()
        };
        let tokens = flags("first-key-0123456, second-key-0123456,")
            .static_tokens()
            .unwrap();
        assert_eq!(tokens.len(), 2);
        assert_eq!(tokens[1].hash, TokenHash::of(b"second-key-0123456"));
        assert_eq!(
            flags("short").static_tokens(),
            Err(ConfigError::ShortKey(1))
        );
    }
    fn sync(address: Option<&str>, file: Option<&str>) -> Result<ListenSync, SyncError> {
        let flags = SyncFlags {
            listen_sync: address.map(str::to_owned),
            sync_cert: file.map(PathBuf::from),
            sync_key: file.map(PathBuf::from),
            sync_ca: file.map(PathBuf::from),
            sync_names: Vec::new(),
        };
        flags.judge(Path::new("/data"))
    }

    #[test]
    fn names_stand_in_for_files() {
        let judge = |address: &str, names: &[&str], file: Option<&str>| {
            let flags = SyncFlags {
                listen_sync: Some(address.into()),
                sync_cert: file.map(PathBuf::from),
                sync_names: names.iter().map(|name| (*name).to_owned()).collect(),
                ..SyncFlags::default()
            };
            flags.judge(Path::new("/data"))
        };
        let names = ["bodhi-controller.bodhi.svc", "10.0.0.1"];
        let listen = judge("[::]:1138", &names, None).unwrap();
        let parsed = ServerNames::parse(names).unwrap();
        assert!(matches!(listen, ListenSync::Managed(a, n) if a.port() == 1138 && n == parsed));
        let both = judge("[::]:1138", &names, Some("/cert")).unwrap_err();
        assert!(matches!(both, SyncError::FilesAndNames));
        let socket = judge("unix:/a", &names, None).unwrap_err();
        assert!(matches!(socket, SyncError::FilesUnused));
        let wrong = judge("[::]:1138", &["https://a"], None).unwrap_err();
        assert!(wrong.to_string().contains("'https://a'"), "{wrong}");
    }

    #[test]
    fn data_planes_connect_to_a_socket_or_to_an_address_with_three_files() {
        for (address, path) in [(None, "/data/sync.sock"), (Some("unix:/a"), "/a")] {
            let listen = sync(address, None).unwrap();
            assert!(matches!(listen, ListenSync::Unix(p) if p == Path::new(path)));
            let error = sync(address, Some("/none")).unwrap_err();
            assert!(matches!(error, SyncError::FilesUnused));
        }
        for wrong in ["unix:", "/a", ":1138", "localhost:1138", "127.0.0.1", ""] {
            let error = sync(Some(wrong), Some("/none")).unwrap_err();
            assert!(
                matches!(&error, SyncError::Address(a) if a == wrong),
                "{error}"
            );
        }
        let error = sync(Some("[::1]:0"), None).unwrap_err();
        assert!(matches!(error, SyncError::FilesMissing(_)));
        let error = sync(Some("[::1]:0"), Some("/none"))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("--sync-cert '/none' cannot be read"),
            "{error}"
        );
    }
}
