//! llama.cpp.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams, LlamaPoolingType};
use llama_cpp_2::context::session::{LlamaStateSeqFlags, SeqState};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::{LlamaBackendDeviceType, LogOptions, send_logs_to_tracing};

use super::{
    DecodeError, Engine, Infill, Model, Pooling, Purpose, Row, Sampler, SamplerRequest, Shape,
    Special, Token,
};
use crate::sampling::{ChainSampler, Params, SamplerError};
use crate::slots::SlotId;

/// How a model is loaded.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A GGUF file, the first of several where a model is split.
    pub path: PathBuf,
    /// What it is for.
    pub purpose: Purpose,
    /// Sequences at once; at least one.
    pub slots: u32,
    /// Tokens in one sequence; `None`: as many as the model was trained on.
    pub context: Option<u32>,
    /// Tokens in one step.
    pub batch: u32,
    /// Threads; `None`: as many as the process may use. More than that makes llama.cpp many times slower.
    pub threads: Option<u32>,
    /// Layers on the GPU; `None`: all that fit.
    pub gpu_layers: Option<u32>,
    /// Whether the file is mapped into memory instead of being read.
    pub mmap: bool,
    /// How keys and values are kept.
    pub cache_type: CacheType,
    /// Whether attention is computed in one pass (flash attention).
    pub flash_attention: FlashAttention,
}

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheType {
    /// 32 bits.
    F32,
    /// 16 bits.
    #[default]
    F16,
    /// 16 bits, in the range of 32.
    Bf16,
    /// 8 bits and a scale; needs flash attention.
    Q8,
    /// 4 bits and a scale; needs flash attention.
    Q4,
}

/// Whether attention is computed in one pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlashAttention {
    /// Where the device can.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl Settings {
    /// With every setting at its default.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            purpose: Purpose::Generate,
            slots: 8,
            context: None,
            batch: 512,
            threads: None,
            gpu_layers: None,
            mmap: true,
            cache_type: CacheType::default(),
            flash_attention: FlashAttention::default(),
        }
    }
}

/// Why a model was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// llama.cpp cannot be started.
    #[error("llama.cpp cannot be started: {0}")]
    Backend(String),
    /// There is no such file.
    #[error("{0} is not there")]
    Missing(PathBuf),
    /// llama.cpp refuses the file; its reasons are in the log.
    #[error("{path} cannot be loaded: {reason}")]
    Model {
        /// The file.
        path: PathBuf,
        /// In llama.cpp's words.
        reason: String,
    },
    /// There is no memory for the cache, or its settings do not fit the model.
    #[error("a context of {context} tokens for each of {slots} slots cannot be made: {reason}")]
    Context {
        /// Tokens in one sequence.
        context: usize,
        /// Sequences.
        slots: u32,
        /// In llama.cpp's words.
        reason: String,
    },
    /// A setting is impossible.
    #[error("{0}")]
    Setting(&'static str),
}

/// A model on llama.cpp.
pub struct LlamaEngine {
    context: LlamaContext<'static>,
    batch: LlamaBatch<'static>,
    model: Arc<LlamaVocabulary>,
    shape: Shape,
    /// Copies between sequences are carried out with the next step; until then, states in host memory
    /// would be those from before.
    copying: bool,
}

/// What of the model may be used from any thread.
#[derive(Debug)]
pub struct LlamaVocabulary {
    model: &'static LlamaModel,
    /// All pieces, one after another, and where each ends.
    pieces: Vec<u8>,
    bounds: Vec<u32>,
    controls: Vec<bool>,
    ends: &'static [Token],
}

/// What GPUs there are for this build of llama.cpp.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gpus {
    /// How many.
    pub count: usize,
    /// Bytes of their own memory that are free, all together.
    pub free: u64,
}

impl Gpus {
    /// Asks llama.cpp.
    ///
    /// # Errors
    /// [`LoadError::Backend`].
    pub fn find() -> Result<Self, LoadError> {
        backend()?;
        let mut gpus = Self::default();
        for device in llama_cpp_2::list_llama_ggml_backend_devices() {
            match device.device_type {
                LlamaBackendDeviceType::Gpu => {
                    gpus.count += 1;
                    gpus.free += device.memory_free as u64;
                }
                // Its memory is the machine's.
                LlamaBackendDeviceType::IntegratedGpu => gpus.count += 1,
                _ => {}
            }
        }
        Ok(gpus)
    }
}

fn backend() -> Result<&'static LlamaBackend, LoadError> {
    static BACKEND: OnceLock<Result<LlamaBackend, String>> = OnceLock::new();
    BACKEND
        .get_or_init(|| {
            send_logs_to_tracing(LogOptions::default());
            LlamaBackend::init().map_err(|error| error.to_string())
        })
        .as_ref()
        .map_err(|error| LoadError::Backend(error.clone()))
}

impl LlamaEngine {
    /// The model's vocabulary.
    pub fn vocabulary(&self) -> Arc<LlamaVocabulary> {
        Arc::clone(&self.model)
    }

    /// Loads a model and makes its context. `progress` is told how much has been
    /// loaded, from 0 to 1. Takes as long as reading the file does.
    ///
    /// The model stays in memory until the process ends: one process serves one model.
    pub fn load(
        settings: &Settings,
        mut progress: impl FnMut(f32) + 'static,
    ) -> Result<Self, LoadError> {
        if settings.slots == 0 {
            return Err(LoadError::Setting("there must be a slot"));
        }
        if settings.batch <= settings.slots {
            return Err(LoadError::Setting(
                "a step must hold a token for each slot, and one more",
            ));
        }
        let backend = backend()?;
        let model = load_model(backend, settings, move |part| {
            progress(part);
            true
        })?;
        let context = settings.context.unwrap_or_else(|| model.n_ctx_train());
        // llama.cpp rounds up to this.
        let context = context.max(1).next_multiple_of(256);
        let cells = context
            .checked_mul(settings.slots)
            .ok_or(LoadError::Setting(
                "slots times context is more than can be counted",
            ))?;
        let is_embedding = settings.purpose != Purpose::Generate;
        // Whole inputs are embedded in one pass.
        let batch = if is_embedding {
            settings.batch.max(context)
        } else {
            settings.batch.min(context.max(settings.slots + 1))
        };
        let shape = Shape {
            purpose: settings.purpose,
            slots: settings.slots,
            context: context as usize,
            batch: batch as usize,
        };
        let context = model
            .new_context(backend, context_params(settings, cells, batch))
            .map_err(|error| LoadError::Context {
                context: shape.context,
                slots: shape.slots,
                reason: error.to_string(),
            })?;
        Ok(Self {
            context,
            batch: LlamaBatch::new(shape.batch, 1),
            model: Arc::new(LlamaVocabulary::new(model)),
            shape,
            copying: false,
        })
    }

    fn run(&mut self) -> Result<(), DecodeError> {
        self.context
            .decode(&mut self.batch)
            .map_err(|error| DecodeError::Failed(error.to_string()))?;
        // So that what a step takes is known, and its end is when the logits are there.
        self.context.synchronize();
        self.copying = false;
        Ok(())
    }

    fn forget(&mut self, slot: SlotId) -> usize {
        // A whole sequence can always be removed.
        let _ = self.context.kv_cache_seq_rm(sequence(slot), None, None);
        0
    }
}

fn load_model(
    backend: &LlamaBackend,
    settings: &Settings,
    progress: impl FnMut(f32) -> bool + 'static,
) -> Result<&'static LlamaModel, LoadError> {
    let path: &Path = &settings.path;
    if !path.is_file() {
        return Err(LoadError::Missing(path.to_owned()));
    }
    let mut params = LlamaModelParams::default()
        .with_use_mmap(settings.mmap)
        .with_progress_callback(progress);
    if let Some(layers) = settings.gpu_layers {
        params = params.with_n_gpu_layers(layers);
    }
    let model =
        LlamaModel::load_from_file(backend, path, &params).map_err(|error| LoadError::Model {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    // The context borrows it for as long as the engine lives, and so do samplers on other threads.
    Ok(Box::leak(Box::new(model)))
}

fn context_params(settings: &Settings, cells: u32, batch: u32) -> LlamaContextParams {
    let threads = settings.threads.map_or_else(
        || std::thread::available_parallelism().map_or(1, |threads| threads.get()),
        |threads| threads as usize,
    );
    let threads = i32::try_from(threads.clamp(1, 512)).expect("it was clamped");
    let cache_type = match settings.cache_type {
        CacheType::F32 => KvCacheType::F32,
        CacheType::F16 => KvCacheType::F16,
        CacheType::Bf16 => KvCacheType::BF16,
        CacheType::Q8 => KvCacheType::Q8_0,
        CacheType::Q4 => KvCacheType::Q4_0,
    };
    let flash_attention = match settings.flash_attention {
        FlashAttention::Auto => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_AUTO,
        FlashAttention::On => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        FlashAttention::Off => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_DISABLED,
    };
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(cells))
        .with_n_batch(batch)
        .with_n_ubatch(batch)
        .with_n_seq_max(settings.slots)
        // Steps with answers of several slots use the second.
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_type_k(cache_type)
        .with_type_v(cache_type)
        .with_flash_attention_policy(flash_attention)
        // In one pool of cells every answer would pass over those of all others, of idle slots too:
        // of eight slots, one answer alone is then a tenth slower. What is embedded comes at once
        // and leaves nothing behind.
        .with_kv_unified(settings.purpose != Purpose::Generate)
        // Sliding windows keep everything, so that a beginning can be gone back to.
        .with_swa_full(true)
        .with_no_perf(true);
    match settings.purpose {
        Purpose::Generate => params,
        Purpose::Embed(pooling) => params
            .with_embeddings(true)
            .with_pooling_type(match pooling {
                Pooling::Model => LlamaPoolingType::Unspecified,
                Pooling::Mean => LlamaPoolingType::Mean,
                Pooling::First => LlamaPoolingType::Cls,
                Pooling::Last => LlamaPoolingType::Last,
            }),
        Purpose::Rank => params
            .with_embeddings(true)
            .with_pooling_type(LlamaPoolingType::Rank),
    }
}

impl Engine for LlamaEngine {
    type Saved = SeqState;

    fn shape(&self) -> Shape {
        self.shape
    }

    fn model(&self) -> Arc<dyn Model> {
        Arc::clone(&self.model) as Arc<dyn Model>
    }

    fn warm_up(&mut self) -> Result<(), DecodeError> {
        let vocab = self.model.model.vocab();
        let token = [vocab.bos(), vocab.eos()]
            .into_iter()
            .find(|token| token.0 >= 0)
            .map_or(0, |token| token.0 as Token);
        if self.shape.purpose == Purpose::Generate {
            self.decode(&[Row {
                slot: SlotId(0),
                token,
                position: 0,
                output: true,
            }])?;
        } else {
            self.embed(&[&[token]])?;
        }
        self.context.clear_kv_cache();
        Ok(())
    }

    fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeError> {
        self.batch.clear();
        for row in rows {
            self.batch
                .add(
                    llama(row.token),
                    signed(row.position as usize),
                    &[sequence(row.slot)],
                    row.output,
                )
                .map_err(|error| DecodeError::Failed(error.to_string()))?;
        }
        self.run()
    }

    fn logits(&self, row: usize) -> &[f32] {
        self.context.get_logits_ith(signed(row))
    }

    fn keep(&mut self, slot: SlotId, keep: usize) -> usize {
        let start = u32::try_from(keep).expect("contexts are counted in u32");
        let cut = keep > 0
            && self
                .context
                .kv_cache_seq_rm(sequence(slot), Some(start), None)
                .is_ok()
            // Some caches have let go of the beginning, or cannot go back.
            && self.context.kv_cache_seq_pos_min(sequence(slot)) == 0
            && self.context.kv_cache_seq_pos_max(sequence(slot)) + 1 == signed(keep);
        if cut { keep } else { self.forget(slot) }
    }

    fn copy(&mut self, from: SlotId, to: SlotId, keep: usize) -> usize {
        self.forget(to);
        // Parts of the cache can only be copied whole.
        if self
            .context
            .kv_cache_seq_cp(sequence(from), sequence(to), None, None)
            .is_err()
        {
            return self.forget(to);
        }
        self.copying = true;
        self.keep(to, keep)
    }

    fn save(&mut self, slot: SlotId, most: usize) -> Option<(SeqState, usize)> {
        let everything = LlamaStateSeqFlags::empty();
        let bytes = self
            .context
            .state_seq_get_size_ext(sequence(slot), everything);
        if self.copying || bytes > most {
            return None;
        }
        let state = self
            .context
            .state_seq_get(sequence(slot), everything)
            .ok()?;
        Some((state, bytes))
    }

    fn restore(&mut self, slot: SlotId, saved: &SeqState) -> bool {
        self.forget(slot);
        let restored = !self.copying && self.context.state_seq_set(saved, sequence(slot)).is_ok();
        if !restored {
            self.forget(slot);
        }
        restored
    }

    fn embed(&mut self, inputs: &[&[Token]]) -> Result<Vec<Vec<f32>>, DecodeError> {
        self.context.clear_kv_cache();
        self.batch.clear();
        for (sequence, input) in (0..).zip(inputs) {
            for (position, token) in (0..).zip(*input) {
                self.batch
                    .add(llama(*token), position, &[sequence], true)
                    .map_err(|error| DecodeError::Failed(error.to_string()))?;
            }
        }
        self.run()?;
        (0..)
            .zip(inputs)
            .map(|(sequence, _)| {
                self.context
                    .embeddings_seq_ith(sequence)
                    .map(<[f32]>::to_vec)
                    .map_err(|error| DecodeError::Failed(error.to_string()))
            })
            .collect()
    }
}

impl LlamaVocabulary {
    fn new(model: &'static LlamaModel) -> Self {
        let vocab = model.vocab();
        let mut pieces = Vec::new();
        let mut bounds = vec![0];
        let mut controls = Vec::new();
        let mut ends = Vec::new();
        for token in vocab.tokens() {
            let piece = vocab.token_to_piece(token, true, None);
            pieces.extend_from_slice(&piece);
            bounds.push(u32::try_from(pieces.len()).expect("vocabularies have megabytes"));
            controls.push(vocab.is_control(token));
            if vocab.is_eog(token) {
                ends.push(token.0 as Token);
            }
        }
        Self {
            model,
            pieces,
            bounds,
            controls,
            // As long-lived as the model; samplers refer to it.
            ends: Vec::leak(ends),
        }
    }

    /// The model itself, for what reads its metadata.
    pub fn llama(&self) -> &'static LlamaModel {
        self.model
    }
}

impl Model for LlamaVocabulary {
    fn size(&self) -> u32 {
        u32::try_from(self.controls.len()).expect("tokens are counted in u32")
    }

    fn tokenize(&self, text: &str, special: Special) -> Vec<Token> {
        let (add, parse) = match special {
            Special::Text => (false, false),
            Special::Parse => (false, true),
            Special::ParseAndAdd => (true, true),
        };
        if text.len() > i32::MAX as usize {
            // llama.cpp counts in i32; a context holds nothing of that size anyway.
            return Vec::new();
        }
        self.model
            .vocab()
            .tokenize(text.as_bytes(), add, parse)
            .into_iter()
            .map(|token| token.0 as Token)
            .collect()
    }

    fn piece(&self, token: Token) -> &[u8] {
        let index = token as usize;
        match (self.bounds.get(index), self.bounds.get(index + 1)) {
            (Some(start), Some(end)) => &self.pieces[*start as usize..*end as usize],
            _ => &[],
        }
    }

    fn is_control(&self, token: Token) -> bool {
        self.controls.get(token as usize).copied().unwrap_or(true)
    }

    fn is_end(&self, token: Token) -> bool {
        self.ends.contains(&token)
    }

    fn sampler(&self, request: SamplerRequest<'_>) -> Result<Box<dyn Sampler>, SamplerError> {
        let params = Params::resolve(request.sampling, request.choice, request.context)?;
        Ok(Box::new(ChainSampler::new(
            self.model,
            self.ends,
            params,
            request.grammar,
            request.prompt,
        )?))
    }

    fn infill(&self) -> Option<Infill> {
        let vocab = self.model.vocab();
        let known = |token: LlamaToken| Token::try_from(token.0).ok();
        Some(Infill {
            prefix: known(vocab.fim_pre())?,
            suffix: known(vocab.fim_suf())?,
            middle: known(vocab.fim_mid())?,
        })
    }

    fn pair(&self, query: &str, document: &str) -> Vec<Token> {
        // As llama-server's `format_prompt_rerank`: by the model's own template, else BOS query EOS SEP
        // document EOS, of those that the vocabulary has.
        if let Ok(template) = self.model.chat_template(Some("rerank"))
            && let Ok(template) = template.to_str()
        {
            return self.tokenize(&fill_in(template, query, document), Special::Parse);
        }
        let vocab = self.model.vocab();
        let mark =
            |token: LlamaToken, wanted: bool| (wanted && token.0 >= 0).then_some(token.0 as Token);
        let end = if vocab.eos().0 >= 0 {
            vocab.eos()
        } else {
            vocab.sep()
        };
        let mut tokens = Vec::new();
        tokens.extend(mark(vocab.bos(), vocab.should_add_bos()));
        tokens.extend(self.tokenize(query, Special::Text));
        tokens.extend(mark(end, vocab.should_add_eos()));
        tokens.extend(mark(vocab.sep(), vocab.should_add_sep()));
        tokens.extend(self.tokenize(document, Special::Text));
        tokens.extend(mark(end, vocab.should_add_eos()));
        tokens
    }
}

/// In one pass, so that a query with a placeholder in it stays as it is.
fn fill_in(template: &str, query: &str, document: &str) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        text.push_str(&rest[..start]);
        rest = &rest[start..];
        if let Some(after) = rest.strip_prefix("{query}") {
            text.push_str(query);
            rest = after;
        } else if let Some(after) = rest.strip_prefix("{document}") {
            text.push_str(document);
            rest = after;
        } else {
            text.push('{');
            rest = &rest[1..];
        }
    }
    text + rest
}

fn llama(token: Token) -> LlamaToken {
    LlamaToken::new(i32::try_from(token).unwrap_or(i32::MAX))
}

fn sequence(slot: SlotId) -> i32 {
    signed(slot.index())
}

fn signed(value: usize) -> i32 {
    i32::try_from(value).expect("llama.cpp's own counts are i32")
}
