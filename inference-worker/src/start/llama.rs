//! A model on llama.cpp.

use std::sync::Arc;
use std::time::Duration;

use bodhi_proto::chat::{ModelInfo, Phase, Progress};

use super::Starter;
use super::fetch::fetch;
use crate::config::{Feature, Flags, KvCacheType, PoolingType, When};
use crate::engine::llama::{
    CacheType, FlashAttention, Gpus, LlamaEngine, LlamaVocabulary, LoadError, Settings,
};
use crate::engine::{Engine as _, Model as _, Options, Pooling, Purpose, Runner};
use crate::exit::{Fatal, Reason};
use crate::models::gguf::{self, Header};
use crate::models::preflight::{self, EngineSettings, KvType, MemoryReport, Plan, Work};
use crate::models::{self, Artifact};
use crate::serving::Serving;
use crate::state::State;
use crate::template::{Pool, Source, Template, TemplateError};

/// Threads for chat templates and parsers.
const TEMPLATE_THREADS: usize = 2;

/// A start with llama.cpp.
#[derive(Debug, Clone, Copy)]
pub struct Llama;

impl Starter for Llama {
    async fn start(self, flags: &Flags, state: &Arc<State>) -> Result<Serving, Fatal> {
        let artifact = fetch(flags, state).await?;
        let purpose = purpose(flags, &artifact.header)?;
        let plan = plan(flags, &artifact.header, purpose)?;
        let engine = load(settings(flags, &artifact, purpose, &plan), state).await?;
        let vocabulary = engine.vocabulary();
        let pool = Pool::new(TEMPLATE_THREADS);
        let template = match purpose {
            Purpose::Generate => {
                let source = source(&artifact.header, &vocabulary);
                let loaded = Template::load(source, pool.clone()).await;
                loaded.map_err(invalid_template)?
            }
            Purpose::Embed(_) | Purpose::Rank => Template::plain(),
        };
        let info = info(&artifact, engine.shape().context);
        let options = options(flags);
        let runner = tokio::task::spawn_blocking(move || Runner::start(engine, options))
            .await
            .map_err(|error| Fatal::new(Reason::EngineFailed, error.to_string()))?
            .map_err(|error| Fatal::new(Reason::EngineFailed, error.to_string()))?;
        Ok(Serving {
            info,
            runner,
            template,
            pool: Some(pool),
            features: super::features(flags, purpose),
        })
    }
}

/// What the engine is for: what was asked for, else what the file is made for.
fn purpose(flags: &Flags, header: &Header) -> Result<Purpose, Fatal> {
    let asked = |feature| flags.features.contains(&feature);
    let text = asked(Feature::Chat) || asked(Feature::Completions);
    let given = [text, asked(Feature::Embeddings), asked(Feature::Rerank)];
    if given.iter().filter(|given| **given).count() > 1 {
        let message =
            "--features: one worker serves either chat and completions, or embeddings, or rerank";
        return Err(Fatal::new(Reason::InvalidSettings, message));
    }
    let [text, embeddings, rerank] = given;
    if rerank && header.pooling != Some(gguf::Pooling::Rank) {
        let message = "--features rerank: the file is no reranker (its pooling_type is not rank)";
        return Err(Fatal::new(Reason::InvalidSettings, message));
    }
    let encodes = header.causal == Some(false);
    let pooled = header
        .pooling
        .filter(|pooling| *pooling != gguf::Pooling::None);
    Ok(match pooled {
        _ if text => Purpose::Generate,
        _ if rerank => Purpose::Rank,
        _ if embeddings => Purpose::Embed(pooling(flags, header)),
        Some(gguf::Pooling::Rank) => Purpose::Rank,
        None if !encodes => Purpose::Generate,
        _ => Purpose::Embed(pooling(flags, header)),
    })
}

fn pooling(flags: &Flags, header: &Header) -> Pooling {
    match (flags.engine.pooling_type, header.pooling) {
        (Some(PoolingType::Mean), _) => Pooling::Mean,
        (Some(PoolingType::Cls), _) => Pooling::First,
        (Some(PoolingType::Last), _) => Pooling::Last,
        (_, Some(gguf::Pooling::Mean | gguf::Pooling::Cls | gguf::Pooling::Last)) => Pooling::Model,
        // The file does not say. Where tokens see only what is before them, the last has seen all.
        _ if header.causal == Some(false) => Pooling::Mean,
        _ => Pooling::Last,
    }
}

/// Whether it fits, and how large it may be made.
fn plan(flags: &Flags, header: &Header, purpose: Purpose) -> Result<Plan, Fatal> {
    let engine = &flags.engine;
    let settings = EngineSettings {
        context_length: engine.context_length.map(Into::into),
        parallel_slots: engine.parallel_slots.map(Into::into),
        batch_size: Some(engine.batch_size.into()),
        micro_batch_size: Some(engine.micro_batch_size.into()),
        kv_type: match engine.kv_cache_type {
            KvCacheType::F32 => KvType::F32,
            KvCacheType::F16 => KvType::F16,
            KvCacheType::Bf16 => KvType::Bf16,
            KvCacheType::Q8_0 => KvType::Q8_0,
            KvCacheType::Q4_0 => KvType::Q4_0,
        },
        flash_attention: engine.flash_attention != When::Off,
        work: match purpose {
            Purpose::Generate => Work::Generate,
            Purpose::Embed(_) | Purpose::Rank => Work::Embed,
        },
    };
    let gpus = match engine.gpu_layers {
        0 => Gpus::default(),
        _ => Gpus::find().map_err(fatal)?,
    };
    if engine.gpu_layers > 0 && gpus.count == 0 {
        let layers = engine.gpu_layers;
        let message = format!("--gpu-layers {layers}: this build of llama.cpp finds no GPU here");
        return Err(Fatal::new(Reason::GpuUnavailable, message));
    }
    let here = preflight::available(&MemoryReport::read());
    let available = here.saturating_add(gpus.free);
    let plan = preflight::plan(header, &settings, available)?;
    if let Some(trained) = plan.shortened_from {
        let context = plan.context_length;
        tracing::warn!(
            context,
            trained,
            "the context was made shorter to fit into memory"
        );
    }
    Ok(plan)
}

fn settings(flags: &Flags, artifact: &Artifact, purpose: Purpose, plan: &Plan) -> Settings {
    let engine = &flags.engine;
    Settings {
        purpose,
        slots: plan.slots,
        context: Some(plan.context_length),
        batch: plan.micro_batch_size,
        threads: engine.threads.map(Into::into),
        gpu_layers: u32::try_from(engine.gpu_layers).ok(),
        cache_type: match engine.kv_cache_type {
            KvCacheType::F32 => CacheType::F32,
            KvCacheType::F16 => CacheType::F16,
            KvCacheType::Bf16 => CacheType::Bf16,
            KvCacheType::Q8_0 => CacheType::Q8,
            KvCacheType::Q4_0 => CacheType::Q4,
        },
        flash_attention: match engine.flash_attention {
            When::Auto => FlashAttention::Auto,
            When::On => FlashAttention::On,
            When::Off => FlashAttention::Off,
        },
        ..Settings::new(&artifact.path)
    }
}

fn options(flags: &Flags) -> Options {
    Options {
        queue: flags.engine.queue,
        gap: Duration::from_millis(flags.engine.prefill_gap),
        cache: usize::try_from(flags.engine.prompt_cache).unwrap_or(usize::MAX),
    }
}

/// On a thread that may block, for as long as reading the file takes.
async fn load(settings: Settings, state: &Arc<State>) -> Result<LlamaEngine, Fatal> {
    let progress = {
        let state = Arc::clone(state);
        move |part: f32| {
            // From 0 to 1 by llama.cpp's word; a cast holds it to what there is.
            let thousandths = (part * 1000.0) as u64;
            state.move_to(match thousandths {
                1000.. => Phase::WarmingUp,
                some => Phase::Loading(Progress::new(some, 1000)),
            });
        }
    };
    let loaded = tokio::task::spawn_blocking(move || LlamaEngine::load(&settings, progress)).await;
    let loaded = loaded.map_err(|error| Fatal::new(Reason::EngineFailed, error.to_string()))?;
    loaded.map_err(fatal)
}

fn fatal(error: LoadError) -> Fatal {
    let reason = match error {
        LoadError::Missing(_) => Reason::Model(models::Reason::NotFound),
        LoadError::Model { .. } => Reason::Model(models::Reason::ArtifactCorrupted),
        LoadError::Context { .. } => Reason::Model(models::Reason::InsufficientMemory),
        LoadError::Setting(_) => Reason::InvalidSettings,
        LoadError::Backend(_) => Reason::EngineFailed,
    };
    Fatal::new(reason, error.to_string())
}

/// What the file says about its chat template.
fn source(header: &Header, vocabulary: &LlamaVocabulary) -> Source {
    let template = |name: Option<&str>| {
        let mut templates = header.chat_templates.iter();
        templates
            .find(|template| template.name.as_deref() == name)
            .map(|template| template.source.clone())
    };
    let text = |token| String::from_utf8_lossy(vocabulary.piece(token)).into_owned();
    let vocab = vocabulary.llama().vocab();
    let control = (0..vocabulary.size()).filter(|token| vocabulary.is_control(*token));
    Source {
        default: template(None),
        tool_use: template(Some("tool_use")),
        bos: header.bos.map(text).unwrap_or_default(),
        eos: header.eos.map(text).unwrap_or_default(),
        adds_bos: vocab.should_add_bos(),
        adds_eos: vocab.should_add_eos(),
        control: control.map(text).filter(|text| !text.is_empty()).collect(),
    }
}

fn invalid_template(error: TemplateError) -> Fatal {
    Fatal::new(Reason::ChatTemplateInvalid, error.to_string())
}

fn info(artifact: &Artifact, context: usize) -> ModelInfo {
    let sha256 = match &artifact.parts[..] {
        [only] => only.sha256.map(|digest| digest.to_string()),
        _ => None,
    };
    ModelInfo {
        architecture: artifact.header.architecture.clone(),
        context_length: u32::try_from(context).unwrap_or(u32::MAX),
        file_bytes: artifact.parts.iter().map(|part| part.size).sum(),
        embedding_length: artifact.header.embedding_length.unwrap_or(0),
        sha256: sha256.unwrap_or_default(),
        parameters: artifact.header.parameters,
    }
}
