//! Small well-formed files for tests, built value by value.

/// A file under construction: keys, then tensors, then their data.
#[derive(Clone)]
pub(crate) struct Sample {
    keys: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

pub(crate) fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
}

impl Sample {
    /// No keys, no tensors.
    pub(crate) fn empty() -> Self {
        Self {
            keys: Vec::new(),
            tensors: Vec::new(),
            data: Vec::new(),
        }
    }

    /// A llama of two layers, with a tokenizer and a chat template.
    pub(crate) fn llama() -> Self {
        Self::empty()
            .string("general.architecture", "llama")
            .string("general.name", "Sample")
            .u32("general.file_type", 7)
            .u32("llama.context_length", 1024)
            .u32("llama.block_count", 2)
            .u32("llama.embedding_length", 64)
            .u32("llama.feed_forward_length", 96)
            .u32("llama.attention.head_count", 4)
            .numbers("llama.attention.head_count_kv", &[2, 1])
            .string("tokenizer.ggml.model", "gpt2")
            .strings("tokenizer.ggml.tokens", &["a", "b", "<eos>"])
            .u32("tokenizer.ggml.eos_token_id", 2)
            .pair("tokenizer.ggml.add_bos_token", 7, &[0])
            .pair("llama.rope.freq_base", 6, &10_000f32.to_le_bytes())
            .string("tokenizer.chat_template", "{{ messages }}")
            .strings("tokenizer.chat_templates", &["tool_use"])
            .string("tokenizer.chat_template.tool_use", "{{ tools }}")
            .tensor("token_embd.weight", &[64, 3], 8)
            .tensor("output_norm.weight", &[64], 0)
    }

    pub(crate) fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        let pair = [&text(key), &kind.to_le_bytes()[..], value].concat();
        self.keys.push(pair);
        self
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Self {
        self.pair(key, 4, &value.to_le_bytes())
    }

    pub(crate) fn string(self, key: &str, value: &str) -> Self {
        self.pair(key, 8, &text(value))
    }

    pub(crate) fn array(self, key: &str, kind: u32, length: u64, items: &[u8]) -> Self {
        let value = [&kind.to_le_bytes()[..], &length.to_le_bytes(), items].concat();
        self.pair(key, 9, &value)
    }

    pub(crate) fn numbers(self, key: &str, values: &[u32]) -> Self {
        let items: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.array(key, 4, values.len() as u64, &items)
    }

    pub(crate) fn strings(self, key: &str, values: &[&str]) -> Self {
        let items: Vec<u8> = values.iter().flat_map(|v| text(v)).collect();
        self.array(key, 8, values.len() as u64, &items)
    }

    /// A tensor behind the others, its data all 7.
    pub(crate) fn tensor(mut self, name: &str, shape: &[u64], kind: u32) -> Self {
        let offset = self.data.len() as u64;
        self = self.tensor_at(name, shape, kind, offset);
        let block = super::types::block(kind).expect("a known type");
        let elements: u64 = shape.iter().product();
        let bytes = elements / block.elements * block.bytes;
        self.data.resize(self.data.len() + bytes as usize, 7);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self
    }

    /// Only the entry in the head.
    pub(crate) fn tensor_at(mut self, name: &str, shape: &[u64], kind: u32, offset: u64) -> Self {
        let mut entry = text(name);
        entry.extend((shape.len() as u32).to_le_bytes());
        entry.extend(shape.iter().flat_map(|n| n.to_le_bytes()));
        entry.extend(kind.to_le_bytes());
        entry.extend(offset.to_le_bytes());
        self.tensors.push(entry);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.keys.len() as u64).to_le_bytes());
        file.extend(self.keys.concat());
        file.extend(self.tensors.concat());
        if !self.tensors.is_empty() {
            file.resize(file.len().next_multiple_of(32), 0);
        }
        file.extend(&self.data);
        file
    }
}
