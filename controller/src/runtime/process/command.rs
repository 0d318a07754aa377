//! A worker's program, flags and environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bodhi_proto::chat::Failure;
use bodhi_proto::names::ObjectRef;
use bodhi_proto::snapshot::LocalFeatures;
use tokio::process::Command;

use crate::api::{FlashAttention, KvCacheType, PoolingType, Reason};
use crate::compile::WorkerSpec;

/// The program's name, beside our own.
const PROGRAM: &str = "bodhi-worker";
/// The variable that carries the token of a download.
const TOKEN: &str = "BODHI_WORKER_TOKEN";
/// What a worker may need of our environment. The rest is left out: keys of providers are
/// nothing to a program that reads files of strangers.
const VARIABLES: [&str; 13] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "XDG_CACHE_HOME",
    "LD_LIBRARY_PATH",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
];
/// The same by how it begins: the model runtime's, the sources', the worker's own flags.
const PREFIXES: [&str; 8] = [
    "GGML_",
    "CUDA_",
    "NVIDIA_",
    "HIP_",
    "ROCR_",
    "HF_",
    "AWS_",
    "BODHI_WORKER_",
];

/// What one process is started with.
pub(super) struct Start<'a> {
    pub(super) program: &'a Path,
    pub(super) object: &'a ObjectRef,
    pub(super) spec: &'a WorkerSpec,
    pub(super) socket: &'a Path,
    pub(super) threads: usize,
    pub(super) drain: Duration,
}

/// The program: beside the running one, else where the operator says.
pub(super) fn find(configured: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = configured {
        return match path.is_file() {
            true => Ok(path.to_owned()),
            false => Err(not_installed(format!(
                "there is no file {}",
                path.display()
            ))),
        };
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.join(PROGRAM)))
        .filter(|path| path.is_file());
    beside.ok_or_else(|| not_installed(format!("there is no {PROGRAM} beside this program")))
}

fn not_installed(what: String) -> Failure {
    Failure {
        reason: Reason::WorkerNotInstalled.as_str().into(),
        message: format!("{what}: build it with `make worker`, or name it with --worker-binary"),
    }
}

impl Start<'_> {
    /// A command in a process group of its own, so that a Ctrl-C in the terminal reaches the
    /// gateway alone. The worker goes when its standard input ends: it ends with us, however we
    /// end.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command
            .args(self.flags())
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| is_passed_on(name)))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(token) = &self.spec.token {
            command.env(TOKEN, token.expose());
        }
        command
    }

    fn flags(&self) -> Vec<OsString> {
        let Self { spec, .. } = self;
        let engine = &spec.engine;
        let mut flags: Vec<OsString> = vec!["--exit-with-parent".into()];
        let mut set = |name: &str, value: String| flags.push(format!("--{name}={value}").into());
        set("model", spec.source.clone());
        set("alias", self.object.to_string());
        set("features", features(spec.features));
        set("drain", self.drain.as_secs().to_string());
        set("gpu-layers", engine.gpu_layers.to_string());
        set("batch-size", engine.batch_size.to_string());
        set("micro-batch-size", engine.micro_batch_size.to_string());
        set("threads", self.threads.to_string());
        set("kv-cache-type", kv_cache_type(engine.kv_cache_type).into());
        let flash = match engine.flash_attention {
            FlashAttention::Auto => "auto",
            FlashAttention::Enabled => "on",
            FlashAttention::Disabled => "off",
        };
        set("flash-attention", flash.into());
        let mut may_set = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                set(name, value);
            }
        };
        may_set("revision", spec.revision.clone());
        may_set("sha256", spec.sha256.clone());
        may_set(
            "context-length",
            engine.context_length.map(|n| n.to_string()),
        );
        may_set(
            "parallel-slots",
            engine.parallel_slots.map(|n| n.to_string()),
        );
        may_set("pooling-type", engine.pooling_type.and_then(pooling_type));
        may_set("token-env", spec.token.as_ref().map(|_| TOKEN.into()));
        if spec.allow_floating {
            flags.push("--allow-floating".into());
        }
        let mut listen = OsString::from("--listen=unix:");
        listen.push(self.socket);
        flags.push(listen);
        flags
    }
}

fn is_passed_on(name: &OsString) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    VARIABLES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn features(features: LocalFeatures) -> String {
    let named = [
        (features.chat, "chat"),
        (features.completions, "completions"),
        (features.embeddings, "embeddings"),
        (features.rerank, "rerank"),
    ];
    let offered = named.into_iter().filter(|(offered, _)| *offered);
    let offered: Vec<&str> = offered.map(|(_, name)| name).collect();
    offered.join(",")
}

fn kv_cache_type(type_: KvCacheType) -> &'static str {
    match type_ {
        KvCacheType::F16 => "f16",
        KvCacheType::F32 => "f32",
        KvCacheType::Bf16 => "bf16",
        KvCacheType::Q8_0 => "q8_0",
        KvCacheType::Q4_0 => "q4_0",
    }
}

/// The compiler refuses `None`.
fn pooling_type(type_: PoolingType) -> Option<String> {
    let word = match type_ {
        PoolingType::None => return None,
        PoolingType::Mean => "mean",
        PoolingType::Cls => "cls",
        PoolingType::Last => "last",
        PoolingType::Rank => "rank",
    };
    Some(word.into())
}
