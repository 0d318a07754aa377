//! What the head of a GGUF file says, read with suspicion.
//!
//! llama.cpp trusts its input in places and aborts the process in others, so a downloaded file
//! is read here first. A head that passes is one that llama.cpp's own reader (`ggml/src/gguf.cpp`)
//! takes too: same magic, versions, types and names, tensors that lie one behind the other without gap or overlap
//! and wholly within the file. Work is bounded by the head's size and memory by what
//! [`Header`] keeps: arrays are walked over, never stored, whatever lengths they claim.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

pub mod architectures;
mod cursor;
mod read;
#[cfg(test)]
pub(crate) mod sample;
mod types;

pub use read::read;

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// It does not begin as GGUF does.
    #[error("the file begins with {found:02x?}, not with \"GGUF\"")]
    NotGguf {
        /// Its first bytes, four at most.
        found: Vec<u8>,
    },
    /// A version, or byte order, that llama.cpp does not read either.
    #[error("GGUF version {0} is not supported: 2 and 3, little endian, are")]
    Version(u32),
    /// The head breaks the format's rules or this reader's limits.
    #[error("byte {at}: {what}")]
    Malformed {
        /// Offset of the value in the file.
        at: u64,
        /// What it is and what it should be.
        what: String,
    },
    /// The file ends before what its head announces.
    #[error("the file has {size} bytes, {what} needs {needed}")]
    Truncated {
        /// As it is on disk.
        size: u64,
        /// The last byte that is needed, as a count from the beginning; a lower bound.
        needed: u64,
        /// Which part.
        what: String,
    },
    /// The system's error while reading, in its words.
    #[error("cannot read the file: {0}")]
    Io(String),
}

/// How a model turns token vectors into one (`pooling_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// One vector per token.
    None,
    /// Their mean.
    Mean,
    /// The first token's.
    Cls,
    /// The last token's.
    Last,
    /// A score instead of a vector: a reranker.
    Rank,
}

/// A number per layer, or one for all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PerLayer {
    /// The same everywhere.
    Same(u32),
    /// One for each layer, at most [`PerLayer::MOST`].
    Each(Vec<u32>),
}

impl PerLayer {
    /// As many layers as llama.cpp takes (`LLAMA_MAX_LAYERS`).
    pub const MOST: u32 = 512;

    /// The number for `layer`; 0 beyond the list's end.
    pub fn at(&self, layer: u32) -> u32 {
        match self {
            Self::Same(value) => *value,
            Self::Each(values) => values.get(layer as usize).copied().unwrap_or(0),
        }
    }

    /// The greatest of them.
    pub fn most(&self) -> u32 {
        match self {
            Self::Same(value) => *value,
            Self::Each(values) => values.iter().copied().max().unwrap_or(0),
        }
    }
}

/// A chat template of the file; Jinja source, at most 1 MiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    /// `None` is the default one; `tool_use` and the like are named.
    pub name: Option<String>,
    /// As written by whoever made the file: untrusted.
    pub source: String,
}

/// What state-space layers keep per sequence (`ssm.*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateSpace {
    /// Width of the convolution.
    pub conv_kernel: u32,
    /// Inner channels.
    pub inner_size: u32,
    /// States per channel.
    pub state_size: u32,
    /// Groups of channels.
    pub group_count: u32,
}

/// The place of a file among the parts of a split model (`split.*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Counted from 0.
    pub number: u32,
    /// How many parts there are.
    pub count: u32,
}

/// A head that passed. Numbers are as the file gives them and may still be absurd, but not
/// contradict the file's size.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// `general.architecture`, at most 64 bytes; see [`architectures::is_known`].
    pub architecture: String,
    /// `general.name`.
    pub name: Option<String>,
    /// Tokens that it was trained with.
    pub context_length: Option<u32>,
    /// Layers.
    pub block_count: Option<u32>,
    /// Width of a token's vector.
    pub embedding_length: Option<u32>,
    /// Width of the feed-forward part.
    pub feed_forward_length: Option<PerLayer>,
    /// Query heads.
    pub head_count: Option<PerLayer>,
    /// Key and value heads; absent: as many as query heads.
    pub head_count_kv: Option<PerLayer>,
    /// Width of a key; absent: embedding length by heads.
    pub key_length: Option<u32>,
    /// Width of a value; absent: embedding length by heads.
    pub value_length: Option<u32>,
    /// Whether a token sees only those before it; absent: yes.
    pub causal: Option<bool>,
    /// State-space layers, if there are any.
    pub state_space: Option<StateSpace>,
    /// Length of `tokenizer.ggml.tokens`, else `vocab_size`.
    pub vocab_size: Option<u32>,
    /// `general.file_type`.
    pub file_type: Option<u32>,
    /// Its name, as `Q4_K_M`.
    pub quantisation: Option<&'static str>,
    /// For embeddings and reranking.
    pub pooling: Option<Pooling>,
    /// The default one first, if there is one; 16 at most.
    pub chat_templates: Vec<ChatTemplate>,
    /// `tokenizer.ggml.model`.
    pub tokenizer: Option<String>,
    /// `tokenizer.ggml.pre`.
    pub pre_tokenizer: Option<String>,
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Whether the tokenizer puts `bos` first by itself.
    pub add_bos: Option<bool>,
    /// Absent: the model is one file.
    pub split: Option<Split>,
    /// How many tensors this file holds.
    pub tensors: u64,
    /// Their bytes, without padding.
    pub tensor_bytes: u64,
    /// Their elements.
    pub parameters: u64,
    /// Where their data begins.
    pub data_offset: u64,
}

impl Header {
    /// The tensors of a further part counted in.
    pub(super) fn absorb(&mut self, part: &Header) {
        self.tensors = self.tensors.saturating_add(part.tensors);
        self.tensor_bytes = self.tensor_bytes.saturating_add(part.tensor_bytes);
        self.parameters = self.parameters.saturating_add(part.parameters);
    }
}

#[cfg(test)]
mod tests;
