//! A model file with random weights: small, but a real one.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, version 3.

use std::path::Path;

/// Bytes of the vocabulary, and after them [`END`] and a merge.
pub(crate) const END: u32 = 256;
pub(crate) const CONTEXT: u32 = 512;

const WIDTH: u64 = 64;
const HEADS: u64 = 4;
const HEADS_KV: u64 = 2;
const INNER: u64 = 128;
const LAYERS: u32 = 2;
const ALIGNMENT: usize = 32;

const U32: u32 = 4;
const F32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

pub(crate) fn write(path: &Path) {
    let mut tokens: Vec<String> = (0..=255).map(|byte| letter(byte).to_string()).collect();
    tokens.push("<|end|>".into());
    tokens.push("th".into());
    let mut types = vec![1_u32; tokens.len()];
    types[END as usize] = 3;

    let mut fields = Fields::default();
    fields.text("general.architecture", "llama");
    fields.text("general.name", "random");
    fields.number("llama.context_length", CONTEXT);
    fields.number("llama.embedding_length", WIDTH as u32);
    fields.number("llama.block_count", LAYERS);
    fields.number("llama.feed_forward_length", INNER as u32);
    fields.number("llama.attention.head_count", HEADS as u32);
    fields.number("llama.attention.head_count_kv", HEADS_KV as u32);
    fields.number("llama.rope.dimension_count", (WIDTH / HEADS) as u32);
    fields.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
    fields.text("tokenizer.ggml.model", "gpt2");
    fields.text("tokenizer.ggml.pre", "qwen2");
    fields.texts("tokenizer.ggml.tokens", &tokens);
    fields.numbers("tokenizer.ggml.token_type", &types);
    fields.texts("tokenizer.ggml.merges", &["t h".into()]);
    fields.number("tokenizer.ggml.eos_token_id", END);
    fields.flag("tokenizer.ggml.add_bos_token", false);

    let kv = WIDTH / HEADS * HEADS_KV;
    let mut tensors = Tensors::default();
    tensors.random("token_embd.weight", &[WIDTH, tokens.len() as u64]);
    tensors.random("output.weight", &[WIDTH, tokens.len() as u64]);
    tensors.ones("output_norm.weight", WIDTH);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        tensors.ones(&name("attn_norm"), WIDTH);
        tensors.random(&name("attn_q"), &[WIDTH, WIDTH]);
        tensors.random(&name("attn_k"), &[WIDTH, kv]);
        tensors.random(&name("attn_v"), &[WIDTH, kv]);
        tensors.random(&name("attn_output"), &[WIDTH, WIDTH]);
        tensors.ones(&name("ffn_norm"), WIDTH);
        tensors.random(&name("ffn_gate"), &[WIDTH, INNER]);
        tensors.random(&name("ffn_up"), &[WIDTH, INNER]);
        tensors.random(&name("ffn_down"), &[INNER, WIDTH]);
    }

    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend(tensors.count.to_le_bytes());
    file.extend(fields.count.to_le_bytes());
    file.extend(fields.bytes);
    file.extend(tensors.headers);
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    file.extend(tensors.data);
    std::fs::write(path, file).expect("a file");
}

/// How GPT-2's vocabulary spells a byte.
fn letter(byte: u8) -> char {
    let is_printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    if is_printable(byte) {
        return char::from(byte);
    }
    let unprintable = (0..byte).filter(|other| !is_printable(*other)).count();
    char::from_u32(256 + unprintable as u32).expect("a letter")
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

#[derive(Default)]
struct Fields {
    count: u64,
    bytes: Vec<u8>,
}

impl Fields {
    fn field(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.count += 1;
        self.bytes.extend(string(key));
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(value);
    }

    fn array(&mut self, key: &str, kind: u32, values: &[Vec<u8>]) {
        let length = (values.len() as u64).to_le_bytes();
        let value = [&kind.to_le_bytes()[..], &length, &values.concat()].concat();
        self.field(key, ARRAY, &value);
    }

    fn text(&mut self, key: &str, value: &str) {
        self.field(key, STRING, &string(value));
    }

    fn number(&mut self, key: &str, value: u32) {
        self.field(key, U32, &value.to_le_bytes());
    }

    fn float(&mut self, key: &str, value: f32) {
        self.field(key, F32, &value.to_le_bytes());
    }

    fn flag(&mut self, key: &str, value: bool) {
        self.field(key, BOOL, &[u8::from(value)]);
    }

    fn texts(&mut self, key: &str, values: &[String]) {
        let values: Vec<Vec<u8>> = values.iter().map(|value| string(value)).collect();
        self.array(key, STRING, &values);
    }

    fn numbers(&mut self, key: &str, values: &[u32]) {
        // The type is 5: tokens' types are signed.
        let values: Vec<Vec<u8>> = values.iter().map(|it| it.to_le_bytes().to_vec()).collect();
        self.array(key, 5, &values);
    }
}

#[derive(Default)]
struct Tensors {
    count: u64,
    headers: Vec<u8>,
    data: Vec<u8>,
    state: u64,
}

impl Tensors {
    fn random(&mut self, name: &str, shape: &[u64]) {
        let count = shape.iter().product();
        let scale = 1.7 / (shape[0] as f32).sqrt();
        let values = (0..count)
            .map(|_| {
                // Knuth's MMIX generator; its upper bits are good enough for weights.
                self.state = self
                    .state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                ((self.state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0) * scale
            })
            .collect();
        self.add(name, shape, values);
    }

    fn ones(&mut self, name: &str, length: u64) {
        self.add(name, &[length], vec![1.0; length as usize]);
    }

    fn add(&mut self, name: &str, shape: &[u64], values: Vec<f32>) {
        self.count += 1;
        self.headers.extend(string(name));
        self.headers.extend((shape.len() as u32).to_le_bytes());
        shape
            .iter()
            .for_each(|length| self.headers.extend(length.to_le_bytes()));
        self.headers.extend(0_u32.to_le_bytes());
        self.headers.extend((self.data.len() as u64).to_le_bytes());
        values
            .iter()
            .for_each(|value| self.data.extend(value.to_le_bytes()));
        self.data
            .resize(self.data.len().next_multiple_of(ALIGNMENT), 0);
    }
}
