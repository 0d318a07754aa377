//! Does the model fit? Arithmetic over the head, the settings and the memory there is.
//!
//! llama.cpp finds out by allocating, and the kernel answers by killing the process. Asked here,
//! the answer has numbers. It is an estimate from above: sliding windows and shared layers are
//! counted in full, and compute buffers as if none were reused. The KV cache dominates and is exact.
//!
//! What the Alias leaves open is chosen here: four slots, each with the context that the model was
//! trained with, as long as all of it takes at most half of what the weights leave free, so that a
//! default never takes a machine's last byte. Else contexts become shorter (down to 4,096 tokens),
//! then slots fewer, then contexts shorter still (down to 512 tokens). What is given is not changed.

mod memory;

pub use memory::{MemoryReport, available};

use super::Reason;
use super::gguf::{Header, Pooling, architectures};
use super::progress::Bytes;

/// Element type of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    #[default]
    F16,
    /// 16-bit brain floats.
    Bf16,
    /// 8 bits.
    Q8_0,
    /// 5 bits and an offset.
    Q5_1,
    /// 5 bits.
    Q5_0,
    /// 4 bits and an offset.
    Q4_1,
    /// 4 bits.
    Q4_0,
}

impl KvType {
    /// Bytes of 32 elements.
    fn of_32(self) -> u64 {
        match self {
            Self::F32 => 128,
            Self::F16 | Self::Bf16 => 64,
            Self::Q8_0 => 34,
            Self::Q5_1 => 24,
            Self::Q5_0 => 22,
            Self::Q4_1 => 20,
            Self::Q4_0 => 18,
        }
    }
}

/// What the model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Chat and completions: few tokens of a batch have outputs.
    Generate,
    /// Embeddings or reranking: every token of a batch has one, and a text must fit into one batch.
    Embed,
}

/// An Alias's `engine`; `None` is chosen by [`plan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineSettings {
    /// Tokens that one request may use, prompt and answer together.
    pub context_length: Option<u32>,
    /// Requests that run at a time.
    pub parallel_slots: Option<u32>,
    /// Tokens of one step.
    pub batch_size: Option<u32>,
    /// Tokens that are computed together.
    pub micro_batch_size: Option<u32>,
    /// Of keys and values.
    pub kv_type: KvType,
    /// Whether scores are never written out.
    pub flash_attention: bool,
    /// What for.
    pub work: Work,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            context_length: None,
            parallel_slots: None,
            batch_size: None,
            micro_batch_size: None,
            kv_type: KvType::default(),
            flash_attention: true,
            work: Work::Generate,
        }
    }
}

/// Bytes, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// The tensors.
    pub weights: u64,
    /// Keys and values, or states, of all slots.
    pub cache: u64,
    /// Buffers of a step, and the process itself: an estimate.
    pub compute: u64,
}

impl Needs {
    /// Together.
    pub fn total(&self) -> u64 {
        self.weights
            .saturating_add(self.cache)
            .saturating_add(self.compute)
    }
}

/// What to start the engine with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Tokens of one slot; a multiple of 256. llama.cpp's `n_ctx` is this times `slots`.
    pub context_length: u32,
    /// Sequences.
    pub slots: u32,
    /// llama.cpp's `n_batch`.
    pub batch_size: u32,
    /// llama.cpp's `n_ubatch`.
    pub micro_batch_size: u32,
    /// What that takes.
    pub needs: Needs,
    /// What there was.
    pub available: u64,
    /// The context the model was trained with, if it was made shorter to fit.
    pub shortened_from: Option<u32>,
}

/// Why the model cannot be run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// See [`Reason::UnsupportedArchitecture`].
    #[error("llama.cpp does not know the architecture '{}'", architecture.escape_debug())]
    UnsupportedArchitecture {
        /// As the file spells it.
        architecture: String,
    },
    /// See [`Reason::InsufficientMemory`].
    #[error(
        "needs {}, {} free (weights {}, cache {} for {slots} slots of {context_length} tokens, compute {})",
        Bytes(needs.total()), Bytes(*available), Bytes(needs.weights), Bytes(needs.cache), Bytes(needs.compute)
    )]
    InsufficientMemory {
        /// With the least that the settings allow.
        needs: Needs,
        /// What there is.
        available: u64,
        /// Counted with these.
        slots: u32,
        /// And this.
        context_length: u32,
    },
    /// A number of the settings or of the file that nothing can be made of.
    #[error("{0}")]
    Impossible(String),
}

impl PlanError {
    /// The word for the Alias's condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::UnsupportedArchitecture { .. } => Reason::UnsupportedArchitecture,
            Self::InsufficientMemory { .. } => Reason::InsufficientMemory,
            Self::Impossible(_) => Reason::ArtifactCorrupted,
        }
    }
}

/// llama.cpp rounds contexts up to this.
const STEP: u32 = 256;
/// Before slots are given up, contexts shrink to this.
const COMFORTABLE: u32 = 4096;
/// Below this a model is of no use.
const LEAST: u32 = 512;
/// Where the file does not say.
const UNTOLD_CONTEXT: u32 = 4096;
const SLOTS: u32 = 4;
/// All slots' tokens together stay below 2^31, which is llama.cpp's count.
const MOST_SLOTS: u32 = 64;
const MOST_CONTEXT: u32 = 1 << 24;
const BATCH: u32 = 2048;
const MICRO_BATCH: u32 = 512;
/// The process without a model: code, threads' stacks, tokenizer.
const PROCESS: u64 = 128 << 20;

/// What to run the model with on a machine that has `available` bytes, or why it cannot be run.
///
/// # Errors
/// [`PlanError`].
pub fn plan(header: &Header, settings: &EngineSettings, available: u64) -> Result<Plan, PlanError> {
    if !architectures::is_known(&header.architecture) {
        return Err(PlanError::UnsupportedArchitecture {
            architecture: header.architecture.clone(),
        });
    }
    let shape = Shape::of(header)?;
    let trained = header
        .context_length
        .filter(|n| *n > 0)
        .unwrap_or(UNTOLD_CONTEXT);
    let trained = trained.min(MOST_CONTEXT);
    let given = |name: &str, value: Option<u32>, most: u32| match value {
        Some(value) if value == 0 || value > most => Err(PlanError::Impossible(format!(
            "{name} is {value}: 1 to {most} are possible"
        ))),
        value => Ok(value),
    };
    let context = given("contextLength", settings.context_length, MOST_CONTEXT)?.map(round_up);
    let slots = given("parallelSlots", settings.parallel_slots, MOST_SLOTS)?;
    let batch = given("batchSize", settings.batch_size, 1 << 20)?;
    let micro = given("microBatchSize", settings.micro_batch_size, 1 << 20)?;

    let choice = |context_length: u32, slots: u32| {
        let tokens = context_length.saturating_mul(slots);
        let mut batch_size = batch.unwrap_or(BATCH);
        let mut micro_batch_size = micro.unwrap_or(MICRO_BATCH);
        if settings.work == Work::Embed || header.causal == Some(false) {
            // A text is embedded in one piece.
            batch_size = batch.unwrap_or_else(|| batch_size.max(context_length));
            micro_batch_size = micro.unwrap_or(batch_size);
        }
        let batch_size = batch_size.min(tokens);
        let micro_batch_size = micro_batch_size.min(batch_size);
        let needs = Needs {
            weights: header.tensor_bytes,
            cache: shape.cache(context_length, slots, settings.kv_type),
            compute: shape.compute(tokens, batch_size, micro_batch_size, settings),
        };
        Plan {
            context_length,
            slots,
            batch_size,
            micro_batch_size,
            needs,
            available,
            shortened_from: None,
        }
    };
    let wanted = context.unwrap_or_else(|| round_up(trained));
    let first = choice(wanted, slots.unwrap_or(SLOTS));
    // Given numbers may use everything; chosen ones leave half of what the weights leave.
    let spare = available.saturating_sub(first.needs.weights);
    let chosen =
        |plan: &Plan| plan.needs.total() - plan.needs.weights <= spare / 2 || is_given(settings);
    let fits = |plan: &Plan| plan.needs.total() <= available && chosen(plan);
    let told = |plan: Plan| Plan {
        shortened_from: (context.is_none() && plan.context_length < wanted).then_some(trained),
        ..plan
    };
    let fewest = slots.unwrap_or(1);
    let steps = [SLOTS, SLOTS / 2].map(|n| (slots.unwrap_or(n), COMFORTABLE));
    for (slots, least) in steps
        .into_iter()
        .chain([(fewest, COMFORTABLE), (fewest, LEAST)])
    {
        let contexts = match context {
            Some(context) => vec![context],
            None => shorter(wanted, least),
        };
        let mut plans = contexts.into_iter().map(|context| choice(context, slots));
        if let Some(plan) = plans.find(fits) {
            return Ok(told(plan));
        }
    }
    // The least there is may use everything too.
    let last = choice(context.unwrap_or(LEAST.min(wanted)), fewest);
    match last.needs.total() <= available {
        true => Ok(told(last)),
        false => Err(PlanError::InsufficientMemory {
            needs: last.needs,
            available,
            slots: last.slots,
            context_length: last.context_length,
        }),
    }
}

/// Nothing that decides the size is left open.
fn is_given(settings: &EngineSettings) -> bool {
    settings.context_length.is_some() && settings.parallel_slots.is_some()
}

/// For at most [`MOST_CONTEXT`].
fn round_up(tokens: u32) -> u32 {
    tokens.next_multiple_of(STEP)
}

/// `from`, then three quarters and half of each power of two's way down, not below `least`.
fn shorter(from: u32, least: u32) -> Vec<u32> {
    let mut lengths = vec![from];
    let mut power = from.max(1).next_power_of_two();
    while power > least.max(STEP) / 2 {
        for length in [power, power / 4 * 3] {
            let length = length / STEP * STEP;
            if length < from && length >= least && length > 0 {
                lengths.push(length);
            }
        }
        power /= 2;
    }
    lengths
}

/// The numbers of the head that sizes depend on.
struct Shape {
    layers: u32,
    /// Elements of a token's keys, and of its values, over all layers.
    keys: u64,
    values: u64,
    /// Bytes of a sequence's state-space states.
    states: u64,
    embedding: u64,
    feed_forward: u64,
    heads: u64,
    vocabulary: u64,
    pooled: bool,
}

impl Shape {
    fn of(header: &Header) -> Result<Self, PlanError> {
        let missing = |key: &str| {
            PlanError::Impossible(format!(
                "the file does not tell {}.{key}",
                header.architecture
            ))
        };
        let layers = header
            .block_count
            .filter(|n| *n > 0)
            .ok_or_else(|| missing("block_count"))?;
        let embedding = header.embedding_length.filter(|n| *n > 0);
        let embedding = embedding.ok_or_else(|| missing("embedding_length"))?;
        let heads = header.head_count.as_ref().map_or(0, |heads| heads.most());
        let default = embedding.checked_div(heads).unwrap_or(0);
        let width = |told: Option<u32>| u64::from(told.unwrap_or(default));
        let kv_heads = |layer| match (&header.head_count_kv, &header.head_count) {
            (Some(kv), _) => kv.at(layer),
            (None, Some(heads)) => heads.at(layer),
            (None, None) => 0,
        };
        let kv_heads: u64 = (0..layers).map(|layer| u64::from(kv_heads(layer))).sum();
        let states = header.state_space.map_or(0, |space| {
            let [conv, inner, state, groups] = [
                space.conv_kernel,
                space.inner_size,
                space.state_size,
                space.group_count,
            ]
            .map(u64::from);
            let window = conv
                .saturating_sub(1)
                .saturating_mul(inner.saturating_add(2 * groups * state.min(1 << 20)));
            let per_layer = window.saturating_add(inner.saturating_mul(state));
            per_layer
                .saturating_mul(4)
                .saturating_mul(u64::from(layers))
        });
        Ok(Self {
            layers,
            keys: kv_heads.saturating_mul(width(header.key_length)),
            values: kv_heads.saturating_mul(width(header.value_length)),
            states,
            embedding: embedding.into(),
            feed_forward: header
                .feed_forward_length
                .as_ref()
                .map_or(0, |ff| ff.most())
                .into(),
            heads: heads.into(),
            vocabulary: header.vocab_size.unwrap_or(0).into(),
            pooled: !matches!(header.pooling, None | Some(Pooling::None)),
        })
    }

    fn cache(&self, context: u32, slots: u32, kv: KvType) -> u64 {
        let elements = self.keys.saturating_add(self.values);
        let per_token = elements.saturating_mul(kv.of_32()).div_ceil(32);
        let tokens = u64::from(context).saturating_mul(slots.into());
        let states = self.states.saturating_mul(slots.into());
        per_token.saturating_mul(tokens).saturating_add(states)
    }

    /// Some activations of a micro-batch live at a time, then its logits; attention needs a mask, and
    /// scores if they are written out.
    fn compute(&self, tokens: u32, batch: u32, micro: u32, settings: &EngineSettings) -> u64 {
        let (tokens, batch, micro) = (u64::from(tokens), u64::from(batch), u64::from(micro));
        let floats = |n: u64| n.saturating_mul(4);
        let wide = self
            .embedding
            .saturating_mul(6)
            .saturating_add(self.feed_forward.saturating_mul(3));
        let activations = floats(micro.saturating_mul(wide));
        // A pooled embedding has no logits.
        let outputs = match settings.work == Work::Embed && self.pooled {
            true => batch.saturating_mul(self.embedding),
            false => micro.saturating_mul(self.vocabulary),
        };
        let attended = micro.saturating_mul(tokens);
        let scores = match settings.flash_attention {
            true => attended,
            false => attended.saturating_mul(self.heads.saturating_add(1)),
        };
        let graph = u64::from(self.layers) << 16;
        activations
            .saturating_add(floats(outputs))
            .saturating_add(floats(scores))
            .saturating_add(graph)
            .saturating_add(PROCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::super::gguf::sample::Sample;
    use super::super::gguf::{PerLayer, read};
    use super::*;

    const GIB: u64 = 1 << 30;

    /// The shape of Qwen3 4B, Q4_K_M.
    fn qwen() -> Header {
        let bytes = Sample::llama().bytes();
        let mut header = read(&bytes[..], bytes.len() as u64).unwrap();
        header.architecture = "qwen3".to_owned();
        header.context_length = Some(40_960);
        header.block_count = Some(36);
        header.embedding_length = Some(2560);
        header.feed_forward_length = Some(PerLayer::Same(9728));
        header.head_count = Some(PerLayer::Same(32));
        header.head_count_kv = Some(PerLayer::Same(8));
        header.key_length = Some(128);
        header.value_length = Some(128);
        header.vocab_size = Some(151_936);
        header.tensor_bytes = 2_491_000_000;
        header
    }

    fn fixed(context: u32, slots: u32) -> EngineSettings {
        EngineSettings {
            context_length: Some(context),
            parallel_slots: Some(slots),
            ..EngineSettings::default()
        }
    }

    #[test]
    fn the_cache_is_counted_exactly() {
        let plan = plan(&qwen(), &fixed(8192, 4), 64 * GIB).unwrap();
        // 36 layers, 8 heads of 128, keys and values, 2 bytes each: 144 KiB a token.
        assert_eq!(plan.needs.cache, 144 * 1024 * 8192 * 4);
        let q8 = EngineSettings {
            kv_type: KvType::Q8_0,
            ..fixed(8192, 4)
        };
        let plan = super::plan(&qwen(), &q8, 64 * GIB).unwrap();
        assert_eq!(plan.needs.cache, 144 * 1024 * 8192 * 4 / 64 * 34);
        let mut hybrid = qwen();
        hybrid.head_count_kv = Some(PerLayer::Each(
            vec![8; 4].into_iter().chain(vec![0; 32]).collect(),
        ));
        let plan = super::plan(&hybrid, &fixed(8192, 4), 64 * GIB).unwrap();
        assert_eq!(plan.needs.cache, 16 * 1024 * 8192 * 4);
    }

    #[test]
    fn too_little_memory_is_told_with_numbers() {
        let error = plan(&qwen(), &fixed(32_768, 2), 8 * GIB).unwrap_err();
        assert_eq!(error.reason(), Reason::InsufficientMemory);
        let text = error.to_string();
        assert!(text.starts_with("needs 11.9 GiB, 8.0 GiB free (weights 2.3 GiB, cache 9.0 GiB for 2 slots of 32768 tokens"), "{text}");
    }

    #[test]
    fn what_is_left_open_is_chosen_to_fit() {
        for (memory, context, slots) in [
            (128, 40_960, 4),
            (32, 24_576, 4),
            (16, 8192, 4),
            (8, 4096, 4),
            (6, 4096, 2),
            (5, 4096, 1),
            (4, 2048, 1),
        ] {
            let plan = plan(&qwen(), &EngineSettings::default(), memory * GIB).unwrap();
            assert_eq!(
                (plan.context_length, plan.slots),
                (context, slots),
                "{memory} GiB: {plan:?}"
            );
            assert!(plan.needs.total() <= memory * GIB);
            assert_eq!(plan.shortened_from, (context < 40_960).then_some(40_960));
        }
        let error = plan(&qwen(), &EngineSettings::default(), 2 * GIB).unwrap_err();
        assert_eq!(error.reason(), Reason::InsufficientMemory);
    }

    #[test]
    fn what_is_given_is_not_changed() {
        let given = EngineSettings {
            parallel_slots: Some(8),
            ..EngineSettings::default()
        };
        assert_eq!(plan(&qwen(), &given, 16 * GIB).unwrap().slots, 8);
        let given = EngineSettings {
            context_length: Some(5000),
            ..EngineSettings::default()
        };
        let plan = plan(&qwen(), &given, 16 * GIB).unwrap();
        assert_eq!((plan.context_length, plan.shortened_from), (5120, None));
        for bad in [fixed(0, 1), fixed(1, 0), fixed(u32::MAX, 1), fixed(1, 65)] {
            assert!(matches!(
                super::plan(&qwen(), &bad, 64 * GIB),
                Err(PlanError::Impossible(_))
            ));
        }
    }

    #[test]
    fn a_text_to_embed_fits_into_one_batch() {
        let mut bert = qwen();
        bert.architecture = "bert".to_owned();
        bert.pooling = Some(Pooling::Mean);
        bert.causal = Some(false);
        bert.context_length = Some(8192);
        let settings = EngineSettings {
            work: Work::Embed,
            ..fixed(8192, 1)
        };
        let plan = plan(&bert, &settings, 64 * GIB).unwrap();
        assert_eq!((plan.batch_size, plan.micro_batch_size), (8192, 8192));
        let short = super::plan(
            &bert,
            &EngineSettings {
                work: Work::Embed,
                ..fixed(512, 1)
            },
            64 * GIB,
        );
        assert_eq!(short.unwrap().micro_batch_size, 512);
    }

    #[test]
    fn an_architecture_of_the_future_is_named() {
        let mut header = qwen();
        header.architecture = "qwen99".to_owned();
        let error = plan(&header, &EngineSettings::default(), 64 * GIB).unwrap_err();
        assert_eq!(error.reason(), Reason::UnsupportedArchitecture);
        assert!(error.to_string().contains("'qwen99'"));
    }

    #[test]
    fn contexts_get_shorter_in_steps() {
        assert_eq!(
            shorter(40_960, 4096),
            [40_960, 32_768, 24_576, 16_384, 12_288, 8192, 6144, 4096]
        );
        assert_eq!(shorter(1024, 4096), [1024]);
        assert_eq!(shorter(1024, 512), [1024, 768, 512]);
    }

    proptest::proptest! {
        /// The file's numbers are anybody's.
        #[test]
        fn absurd_numbers_neither_overflow_nor_fit(
            numbers: [u32; 10],
            available: u64,
            context: Option<u32>,
            slots: Option<u32>,
        ) {
            let mut header = qwen();
            let [a, b, c, d, e, f, g, h, i, j] = numbers;
            header.context_length = Some(a);
            header.block_count = Some(b % 513);
            header.embedding_length = Some(c);
            header.feed_forward_length = Some(PerLayer::Same(d));
            header.head_count = Some(PerLayer::Same(e));
            header.head_count_kv = Some(PerLayer::Same(f));
            header.key_length = Some(g);
            header.vocab_size = Some(h);
            header.state_space = Some(super::super::gguf::StateSpace {
                conv_kernel: i, inner_size: j, state_size: a, group_count: b,
            });
            let settings = EngineSettings { context_length: context, parallel_slots: slots, ..EngineSettings::default() };
            if let Ok(plan) = plan(&header, &settings, available) {
                proptest::prop_assert!(plan.needs.total() <= available);
                proptest::prop_assert!(plan.micro_batch_size <= plan.batch_size);
            }
        }
    }
}
