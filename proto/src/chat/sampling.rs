//! How tokens are chosen: OpenAI's parameters and llama.cpp's. `None` is the model's default.

/// Parameters of the choice of tokens.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sampling {
    /// 0: always the likeliest.
    pub temperature: Option<f32>,
    /// Range of dynamic temperature around `temperature`; 0: none.
    pub dynatemp_range: Option<f32>,
    /// Exponent of dynamic temperature.
    pub dynatemp_exponent: Option<f32>,
    /// Keeps the likeliest tokens that sum up to this.
    pub top_p: Option<f32>,
    /// Keeps so many; 0: all.
    pub top_k: Option<u32>,
    /// Keeps those at least so likely, relative to the likeliest.
    pub min_p: Option<f32>,
    /// Locally typical sampling; 1: off.
    pub typical_p: Option<f32>,
    /// Top-n-sigma; negative: off.
    pub top_n_sigma: Option<f32>,
    /// OpenAI's.
    pub presence_penalty: Option<f32>,
    /// OpenAI's.
    pub frequency_penalty: Option<f32>,
    /// llama.cpp's; 1: off.
    pub repeat_penalty: Option<f32>,
    /// How many tokens back penalties look; -1: the whole context.
    pub repeat_last_n: Option<i32>,
    /// Penalty for repeating sequences.
    pub dry: Option<Dry>,
    /// Excludes the likeliest now and then.
    pub xtc: Option<Xtc>,
    /// Steers towards a perplexity.
    pub mirostat: Option<Mirostat>,
    /// Fixed: the same request gives the same answer.
    pub seed: Option<u32>,
    /// Added to the logits of tokens, by id.
    pub logit_bias: Vec<(u32, f32)>,
    /// Whether the model's end tokens are passed over.
    pub ignore_eos: bool,
    /// Keeps at least so many candidates in every filter.
    pub min_keep: Option<u32>,
}

/// DRY ("don't repeat yourself") sampling.
#[derive(Debug, Clone, PartialEq)]
pub struct Dry {
    /// 0: off.
    pub multiplier: f32,
    /// Base of the penalty's growth.
    pub base: f32,
    /// Sequences up to this long are free.
    pub allowed_length: u32,
    /// How many tokens back; -1: the whole context.
    pub penalty_last_n: i32,
    /// Where a sequence is broken; `None`: llama.cpp's.
    pub sequence_breakers: Option<Vec<String>>,
}

/// XTC ("exclude top choices") sampling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Xtc {
    /// How often.
    pub probability: f32,
    /// From how likely on.
    pub threshold: f32,
}

/// Mirostat.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mirostat {
    /// 1 or 2.
    pub version: u8,
    /// Target entropy.
    pub tau: f32,
    /// Learning rate.
    pub eta: f32,
}

/// The range of a parameter, both ends included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// The parameter, as clients spell it.
    pub name: &'static str,
    /// Least.
    pub min: f64,
    /// Greatest.
    pub max: f64,
}

/// Ranges that requests are held to (OpenAI's where it has one).
pub const RANGES: &[Range] = &[
    Range {
        name: "temperature",
        min: 0.0,
        max: 2.0,
    },
    Range {
        name: "dynatemp_range",
        min: 0.0,
        max: 10.0,
    },
    Range {
        name: "dynatemp_exponent",
        min: 0.0,
        max: 100.0,
    },
    Range {
        name: "top_p",
        min: 0.0,
        max: 1.0,
    },
    Range {
        name: "top_k",
        min: 0.0,
        max: 1_000_000.0,
    },
    Range {
        name: "min_p",
        min: 0.0,
        max: 1.0,
    },
    Range {
        name: "typical_p",
        min: 0.0,
        max: 1.0,
    },
    Range {
        name: "top_n_sigma",
        min: -1.0,
        max: 100.0,
    },
    Range {
        name: "presence_penalty",
        min: -2.0,
        max: 2.0,
    },
    Range {
        name: "frequency_penalty",
        min: -2.0,
        max: 2.0,
    },
    Range {
        name: "repeat_penalty",
        min: 0.01,
        max: 100.0,
    },
    Range {
        name: "repeat_last_n",
        min: -1.0,
        max: 1_000_000.0,
    },
    Range {
        name: "dry_multiplier",
        min: 0.0,
        max: 100.0,
    },
    Range {
        name: "dry_base",
        min: 1.0,
        max: 100.0,
    },
    Range {
        name: "dry_allowed_length",
        min: 0.0,
        max: 1_000_000.0,
    },
    Range {
        name: "dry_penalty_last_n",
        min: -1.0,
        max: 1_000_000.0,
    },
    Range {
        name: "xtc_probability",
        min: 0.0,
        max: 1.0,
    },
    Range {
        name: "xtc_threshold",
        min: 0.0,
        max: 1.0,
    },
    Range {
        name: "mirostat",
        min: 0.0,
        max: 2.0,
    },
    Range {
        name: "mirostat_tau",
        min: 0.0,
        max: 100.0,
    },
    Range {
        name: "mirostat_eta",
        min: 0.0,
        max: 1.0,
    },
    Range {
        name: "min_keep",
        min: 0.0,
        max: 1_000_000.0,
    },
    Range {
        name: "logit_bias",
        min: -100.0,
        max: 100.0,
    },
    Range {
        name: "n",
        min: 1.0,
        max: 16.0,
    },
    Range {
        name: "top_logprobs",
        min: 0.0,
        max: 20.0,
    },
];
