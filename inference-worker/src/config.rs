//! The worker's settings: flags and environment as given, and what they mean once judged.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use bodhi_net::identity::{
    Credentials, Identity, PemError, PemFile, Purchase, PurchaseError, Role,
};
use bodhi_net::places::Places;
use bodhi_proto::snapshot::EgressScope;
use clap::{Args, ValueEnum};

/// Flags of `bodhi-worker`. Each can be given by environment too, as pods have it.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// The model: a file's path, or file://, https://, hf://, s3://, pvc://
    #[arg(long, env = "BODHI_WORKER_MODEL", value_name = "SOURCE")]
    pub model: String,
    /// What logs call the model [default: the source]
    #[arg(long, env = "BODHI_WORKER_ALIAS", value_name = "NAME")]
    pub alias: Option<String>,

    /// Where the model comes from
    #[command(flatten)]
    pub download: DownloadFlags,

    /// Where callers connect: unix:PATH, or IP:PORT with a certificate
    #[arg(long, env = "BODHI_WORKER_LISTEN", value_name = "ADDRESS")]
    pub listen: String,
    /// Certificate chain (PEM) that callers are shown; its SAN must hold the URI
    /// bodhi:worker/NAMESPACE/ALIAS/POD-UID. The files are read again for each connection
    #[arg(long, env = "BODHI_WORKER_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key (PEM) of that certificate
    #[arg(long, env = "BODHI_WORKER_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// In place of these two: a projected ServiceAccount token, for which a controller signs a
    /// certificate; read again each time
    #[arg(
        long,
        env = "BODHI_WORKER_TLS_TOKEN_FILE",
        value_name = "FILE",
        conflicts_with_all = ["tls_cert", "tls_key"],
        requires = "controller"
    )]
    pub tls_token_file: Option<PathBuf>,
    /// Controllers that sign it: https://HOST:PORT, several separated by commas
    #[arg(
        long,
        env = "BODHI_WORKER_CONTROLLER",
        value_name = "ADDRESS",
        requires = "tls_token_file"
    )]
    pub controller: Option<String>,
    /// Certificates (PEM) of the authorities that sign data planes' and controllers' certificates
    #[arg(long, env = "BODHI_WORKER_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Address of /livez, /startupz, /readyz and /metrics [default: none]
    #[arg(long, env = "BODHI_WORKER_ADMIN_LISTEN", value_name = "ADDR")]
    pub admin_listen: Option<SocketAddr>,

    /// How the model is run
    #[command(flatten)]
    pub engine: EngineFlags,

    /// What is served [default: what the model can]
    #[arg(
        long,
        env = "BODHI_WORKER_FEATURES",
        value_name = "FEATURE,…",
        value_delimiter = ','
    )]
    pub features: Vec<Feature>,

    /// How long answers may run on after SIGTERM
    #[arg(
        long,
        env = "BODHI_WORKER_DRAIN",
        value_name = "SECONDS",
        default_value_t = 600
    )]
    pub drain: u64,
    /// End when the engine does nothing for this long although requests wait
    #[arg(
        long,
        env = "BODHI_WORKER_HANG",
        value_name = "SECONDS",
        default_value_t = 60
    )]
    pub hang: u64,
    /// End when the start makes no progress for this long
    #[arg(
        long,
        env = "BODHI_WORKER_STALL",
        value_name = "SECONDS",
        default_value_t = 300
    )]
    pub stall: u64,
    /// File for the last word, such as /dev/termination-log
    #[arg(long, env = "BODHI_WORKER_TERMINATION_LOG", value_name = "FILE")]
    pub termination_log: Option<PathBuf>,
    /// Go down, as at SIGTERM, when standard input closes: the parent holds its other end
    #[arg(long, env = "BODHI_WORKER_EXIT_WITH_PARENT")]
    pub exit_with_parent: bool,
}

/// Where the model comes from.
#[derive(Debug, Clone, Args)]
pub struct DownloadFlags {
    /// Commit of a hf:// source
    #[arg(long, env = "BODHI_WORKER_REVISION", value_name = "COMMIT")]
    pub revision: Option<String>,
    /// SHA-256 that the file is held to
    #[arg(long, env = "BODHI_WORKER_SHA256", value_name = "HEX")]
    pub sha256: Option<String>,
    /// Take a hf:// source without revision and sha256, whatever it holds today
    #[arg(long, env = "BODHI_WORKER_ALLOW_FLOATING")]
    pub allow_floating: bool,
    /// Folder of downloaded models
    #[arg(long, env = "BODHI_WORKER_CACHE", value_name = "DIR", default_value_os_t = default_cache())]
    pub cache: PathBuf,
    /// Variable that holds the bearer token for the source
    #[arg(long, env = "BODHI_WORKER_TOKEN_ENV", value_name = "NAME")]
    pub token_env: Option<String>,
    /// File that holds it
    #[arg(
        long,
        env = "BODHI_WORKER_TOKEN_FILE",
        value_name = "FILE",
        conflicts_with = "token_env"
    )]
    pub token_file: Option<PathBuf>,
    /// Folder below which pvc:// volumes are mounted
    #[arg(
        long,
        env = "BODHI_WORKER_CLAIMS",
        value_name = "DIR",
        default_value = "/claims"
    )]
    pub claims: PathBuf,
    /// Addresses that may be dialled: `standalone`, `release`, or private ranges
    #[arg(
        long,
        env = "BODHI_WORKER_EGRESS",
        value_name = "SCOPE",
        default_value = "standalone",
        value_parser = egress
    )]
    pub egress: EgressScope,
    /// Let sources on other machines be http://
    #[arg(long, env = "BODHI_WORKER_ALLOW_PLAIN_HTTP")]
    pub allow_plain_http: bool,
}

/// How the model is run.
#[derive(Debug, Clone, Args)]
pub struct EngineFlags {
    /// Tokens of one request, prompt and answer together [default: the model's, if it fits]
    #[arg(long, env = "BODHI_WORKER_CONTEXT_LENGTH", value_name = "TOKENS")]
    pub context_length: Option<NonZeroU32>,
    /// Requests served at once [default: 4, if they fit]
    #[arg(long, env = "BODHI_WORKER_PARALLEL_SLOTS", value_name = "N")]
    pub parallel_slots: Option<NonZeroU32>,
    /// Layers on the GPU; -1: all that fit
    #[arg(
        long,
        env = "BODHI_WORKER_GPU_LAYERS",
        value_name = "N",
        default_value_t = -1,
        allow_negative_numbers = true
    )]
    pub gpu_layers: i32,
    /// Most tokens of one step
    #[arg(
        long,
        env = "BODHI_WORKER_BATCH_SIZE",
        value_name = "TOKENS",
        default_value = "2048"
    )]
    pub batch_size: NonZeroU32,
    /// Most tokens computed together within a step
    #[arg(
        long,
        env = "BODHI_WORKER_MICRO_BATCH_SIZE",
        value_name = "TOKENS",
        default_value = "512"
    )]
    pub micro_batch_size: NonZeroU32,
    /// Numbers in the cache
    #[arg(
        long,
        env = "BODHI_WORKER_KV_CACHE_TYPE",
        value_name = "TYPE",
        default_value = "f16"
    )]
    pub kv_cache_type: KvCacheType,
    /// Flash attention
    #[arg(
        long,
        env = "BODHI_WORKER_FLASH_ATTENTION",
        value_name = "WHEN",
        default_value = "auto"
    )]
    pub flash_attention: When,
    /// How vectors are pooled [default: as the model says]
    #[arg(long, env = "BODHI_WORKER_POOLING_TYPE", value_name = "HOW")]
    pub pooling_type: Option<PoolingType>,
    /// Threads [default: as many as this process may use]
    #[arg(long, env = "BODHI_WORKER_THREADS", value_name = "N")]
    pub threads: Option<NonZeroU32>,
    /// Requests that may wait; more are refused
    #[arg(
        long,
        env = "BODHI_WORKER_QUEUE",
        value_name = "N",
        default_value_t = 64
    )]
    pub queue: u32,
    /// Longest pause that a new prompt may cause in running answers
    #[arg(
        long,
        env = "BODHI_WORKER_PREFILL_GAP",
        value_name = "MILLISECONDS",
        default_value_t = 100
    )]
    pub prefill_gap: u64,
    /// Memory for the caches of prompts that are not running
    #[arg(
        long,
        env = "BODHI_WORKER_PROMPT_CACHE",
        value_name = "BYTES",
        default_value_t = 512 << 20
    )]
    pub prompt_cache: u64,
}

/// Something that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Feature {
    /// Conversations.
    Chat,
    /// Raw prompts.
    Completions,
    /// Vectors.
    Embeddings,
    /// Orders documents.
    Rerank,
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Rerank => "rerank",
        })
    }
}

/// `--kv-cache-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the names of ggml's types")]
pub enum KvCacheType {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
}

/// `--flash-attention`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// Where it is faster.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// `--pooling-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PoolingType {
    /// The mean of all tokens.
    Mean,
    /// The first token's.
    Cls,
    /// The last token's.
    Last,
    /// A score, for reranking.
    Rank,
}

/// The flags, judged.
#[derive(Debug)]
pub struct Config {
    /// Where callers connect.
    pub listen: Listen,
    /// The rest is used as it was given.
    pub flags: Flags,
}

/// Where callers connect, judged.
#[derive(Debug)]
pub enum Listen {
    /// A Unix socket that only the same user reaches.
    Unix(PathBuf),
    /// Mutual TLS.
    Tls(SocketAddr, Credentials),
}

impl Listen {
    /// Who may call over TLS.
    pub const CALLERS: &[Role] = &[Role::DataPlane, Role::Controller];

    /// Resolves once callers can be shown who this is.
    pub fn provable(&self) -> impl Future<Output = ()> + Send + 'static {
        let credentials = match self {
            Self::Unix(_) => None,
            Self::Tls(_, credentials) => Some(credentials.clone()),
        };
        async move {
            if let Some(credentials) = credentials {
                credentials.ready().await;
            }
        }
    }
}

/// Flags that cannot be served with; the text names the flag and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Neither of the two forms.
    #[error(
        "--listen must read unix:PATH or IP:PORT, such as unix:/run/bodhi/worker.sock or \
         0.0.0.0:1139; it reads '{0}'"
    )]
    Listen(String),
    /// One end would prove nothing.
    #[error(
        "--listen {0} takes mutual TLS: --tls-ca must be given, and either --tls-cert and --tls-key \
         or --tls-token-file and --controller"
    )]
    FilesMissing(SocketAddr),
    /// The operator believes in an encryption that is not there.
    #[error(
        "--tls-cert, --tls-key, --tls-token-file and --tls-ca go with --listen IP:PORT; a Unix \
         socket takes none"
    )]
    FilesUnused,
    /// Where certificates are bought.
    #[error("--controller must read https://HOST:PORT[,…]; it reads '{0}'")]
    Controller(String),
    /// The files cannot be used.
    #[error(transparent)]
    Files(#[from] PemError),
    /// Nothing can be bought with these.
    #[error(transparent)]
    Purchase(#[from] PurchaseError),
}

impl Flags {
    /// Judges the flags and reads the files. Where the certificate is bought, that begins, on this
    /// tokio runtime.
    ///
    /// # Errors
    /// [`ConfigError`] names the flag and what to write instead.
    pub fn judge(self) -> Result<Config, ConfigError> {
        Ok(Config {
            listen: self.listen()?,
            flags: self,
        })
    }

    fn listen(&self) -> Result<Listen, ConfigError> {
        let files = (
            &self.tls_cert,
            &self.tls_key,
            &self.tls_token_file,
            &self.tls_ca,
        );
        if let Some(path) = self.listen.strip_prefix("unix:")
            && !path.is_empty()
        {
            return match files {
                (None, None, None, None) => Ok(Listen::Unix(path.into())),
                _ => Err(ConfigError::FilesUnused),
            };
        }
        let unknown = |_| ConfigError::Listen(self.listen.clone());
        let address = self.listen.parse().map_err(unknown)?;
        let file = |path: &PathBuf, flag| PemFile {
            path: path.clone(),
            flag,
        };
        let credentials = match files {
            (Some(certificate), Some(key), None, Some(ca)) => Credentials::files(Identity {
                certificate: file(certificate, "--tls-cert"),
                key: file(key, "--tls-key"),
                authorities: file(ca, "--tls-ca"),
            })?,
            (None, None, Some(token), Some(ca)) => {
                let given = self.controller.as_deref().unwrap_or_default();
                let places = Places::parse(given);
                let purchase = Purchase {
                    token: token.clone(),
                    token_flag: "--tls-token-file",
                    authorities: file(ca, "--tls-ca"),
                    controllers: places.ok_or_else(|| ConfigError::Controller(given.to_owned()))?,
                };
                purchase.start()?
            }
            _ => return Err(ConfigError::FilesMissing(address)),
        };
        Ok(Listen::Tls(address, credentials))
    }

    /// How long answers may run on.
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain)
    }

    /// What logs call the model.
    pub fn alias(&self) -> &str {
        self.alias.as_deref().unwrap_or(&self.model)
    }
}

/// As other programs keep what can be fetched again.
fn default_cache() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.filter(|path| path.is_absolute()).or_else(home);
    base.unwrap_or_else(std::env::temp_dir).join("bodhi/models")
}

fn egress(text: &str) -> Result<EgressScope, String> {
    match text {
        "standalone" => Ok(EgressScope::Standalone),
        "release" => Ok(EgressScope::Release),
        ranges => {
            let range = |range: &str| {
                let parsed = range.trim().parse();
                parsed.map_err(|_| format!("'{range}' is no CIDR range, such as 10.0.0.0/8"))
            };
            let ranges = ranges.split(',').filter(|range| !range.is_empty());
            Ok(EgressScope::Tenant(
                ranges.map(range).collect::<Result<_, _>>()?,
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        flags: Flags,
    }

    fn flags(more: &[&str]) -> Flags {
        let fixed = ["worker", "--model", "m.gguf"];
        Cli::parse_from(fixed.iter().chain(more)).flags
    }

    fn refused(more: &[&str]) -> String {
        flags(more).judge().expect_err("a fault").to_string()
    }

    #[test]
    fn callers_connect_to_a_socket_or_to_an_address_with_three_files() {
        let config = flags(&["--listen", "unix:/run/w.sock"]).judge().unwrap();
        assert!(matches!(config.listen, Listen::Unix(path) if path.ends_with("w.sock")));
        for wrong in ["unix:", "/run/w.sock", "localhost:1139", "0.0.0.0"] {
            let text = refused(&["--listen", wrong]);
            assert!(text.ends_with(&format!("it reads '{wrong}'")), "{text}");
        }
        let text = refused(&["--listen", "[::1]:0", "--tls-cert", "/none"]);
        assert!(text.contains("--tls-ca must be given"), "{text}");
        let text = refused(&["--listen", "unix:/run/w.sock", "--tls-cert", "/none"]);
        assert!(text.contains("a Unix socket takes none"), "{text}");
        let files = [
            "--tls-cert",
            "/none",
            "--tls-key",
            "/none",
            "--tls-ca",
            "/none",
        ];
        let text = refused(&[&["--listen", "[::1]:0"], &files[..]].concat());
        assert!(
            text.starts_with("--tls-cert '/none' cannot be read"),
            "{text}"
        );
        let bought = |controller| {
            refused(&[
                "--listen",
                "[::1]:0",
                "--tls-token-file",
                "/none",
                "--tls-ca",
                "/none",
                "--controller",
                controller,
            ])
        };
        assert!(bought("https://c").ends_with("it reads 'https://c'"));
        assert!(bought("https://c:1").starts_with("--tls-ca '/none' cannot be read"));
    }

    #[test]
    fn egress_is_a_word_or_ranges() {
        assert!(matches!(egress("standalone"), Ok(EgressScope::Standalone)));
        assert!(matches!(egress("release"), Ok(EgressScope::Release)));
        let ranges = |text| match egress(text) {
            Ok(EgressScope::Tenant(ranges)) => ranges.len(),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(ranges(""), 0, "public addresses only");
        assert_eq!(ranges("10.0.0.0/8, fd00::/8"), 2);
        assert!(
            egress("10.0.0.0/8,anywhere")
                .unwrap_err()
                .contains("'anywhere'")
        );
    }
}
