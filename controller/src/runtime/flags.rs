//! The flags of a worker that say what it serves and how, whatever starts it.

use bodhi_proto::names::ObjectRef;
use bodhi_proto::snapshot::{EgressScope, LocalFeatures};

use crate::api::{FlashAttention, KvCacheType, PoolingType};
use crate::compile::WorkerSpec;

/// The variable that carries the token of a download.
pub(super) const TOKEN: &str = "BODHI_WORKER_TOKEN";

/// `--NAME=VALUE`, in an order that stays: pods are compared by it.
pub(super) fn flags(object: &ObjectRef, spec: &WorkerSpec) -> Vec<String> {
    let engine = &spec.engine;
    let mut flags = Vec::new();
    let mut set = |name: &str, value: String| flags.push(format!("--{name}={value}"));
    set("model", spec.source.clone());
    set("alias", object.to_string());
    set("features", features(spec.features));
    set("egress", egress(&spec.egress));
    set("gpu-layers", engine.gpu_layers.to_string());
    set("batch-size", engine.batch_size.to_string());
    set("micro-batch-size", engine.micro_batch_size.to_string());
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
    may_set("token-env", spec.credentials.as_ref().map(|_| TOKEN.into()));
    if spec.allow_floating {
        flags.push("--allow-floating".into());
    }
    flags
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

/// The operator's word on where the source may lead.
fn egress(scope: &EgressScope) -> String {
    match scope {
        EgressScope::Standalone => "standalone".into(),
        EgressScope::Release => "release".into(),
        EgressScope::Tenant(ranges) => {
            let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            ranges.join(",")
        }
    }
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
