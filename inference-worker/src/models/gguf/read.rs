//! Walks over a head once, front to back.

use std::collections::HashSet;
use std::io::Read;

use super::cursor::Cursor;
use super::{ChatTemplate, GgufError, Header, PerLayer, Pooling, Split, StateSpace, types};

/// Keys that a head may have; real ones have some fifty.
const MOST_KEYS: u64 = 4096;
/// Tensors that a file may have; real ones have some thousands.
const MOST_TENSORS: u64 = 1 << 17;
/// Bytes of a key, and of a kept string other than a template.
const MOST_NAME: u64 = 1024;
/// Bytes of a tensor's name and its NUL (`GGML_MAX_NAME`).
const TENSOR_NAME: u64 = 64;
const MOST_TEMPLATE: u64 = 1 << 20;
const MOST_TEMPLATES: usize = 16;
/// Bytes of all kept strings together.
const MOST_TEXT: usize = 8 << 20;
/// `GGML_MAX_DIMS`.
const MOST_DIMENSIONS: u32 = 4;
const DEFAULT_ALIGNMENT: u32 = 32;
const MOST_ALIGNMENT: u32 = 1 << 20;

/// Reads the head of a file of `size` bytes from its first byte. Give a buffered reader.
///
/// # Errors
/// Each variant of [`GgufError`].
pub fn read(reader: impl Read, size: u64) -> Result<Header, GgufError> {
    let mut cursor = Cursor::new(reader, size);
    preamble(&mut cursor)?;
    let tensors = count(&mut cursor, MOST_TENSORS, "the count of tensors")?;
    let keys = count(&mut cursor, MOST_KEYS, "the count of keys")?;
    let mut facts = Facts::default();
    let mut seen = HashSet::new();
    for _ in 0..keys {
        let at = cursor.at();
        let key = cursor.string(MOST_NAME, "a key")?;
        if key.is_empty() {
            return Err(malformed(at, "a key is empty".to_owned()));
        }
        pair(&mut cursor, &key, &mut facts)?;
        if !seen.insert(key) {
            return Err(malformed(at, "a key comes twice".to_owned()));
        }
    }
    let alignment = alignment(&facts, &cursor)?;
    let mut total = Totals::default();
    let mut names = HashSet::new();
    for _ in 0..tensors {
        tensor(&mut cursor, alignment, &mut total, &mut names)?;
    }
    let data_offset = cursor.at().next_multiple_of(alignment);
    // The padding behind the last tensor may be missing.
    let needed = data_offset.saturating_add(total.end);
    if tensors > 0 && needed > size {
        return Err(GgufError::Truncated {
            size,
            needed,
            what: "the tensors' data".to_owned(),
        });
    }
    facts.into_header(tensors, &total, data_offset, cursor.at())
}

fn malformed(at: u64, what: String) -> GgufError {
    GgufError::Malformed { at, what }
}

fn preamble<R: Read>(cursor: &mut Cursor<R>) -> Result<(), GgufError> {
    let len = cursor.size().min(4);
    let mut found = Vec::with_capacity(4);
    for _ in 0..len {
        found.extend(cursor.array::<1>("the magic")?);
    }
    if found != b"GGUF" {
        return Err(GgufError::NotGguf { found });
    }
    match cursor.u32("the version")? {
        2 | 3 => Ok(()),
        other => Err(GgufError::Version(other)),
    }
}

fn count<R: Read>(cursor: &mut Cursor<R>, most: u64, what: &str) -> Result<u64, GgufError> {
    let at = cursor.at();
    let count = cursor.u64(what)?;
    match count > most {
        true => Err(malformed(
            at,
            format!("{what} is {count}, at most {most} are taken"),
        )),
        false => Ok(count),
    }
}

fn alignment<R: Read>(facts: &Facts, cursor: &Cursor<R>) -> Result<u64, GgufError> {
    let alignment = match facts.find("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(Value::U32(value)) => *value,
        Some(_) => return Err(cursor.malformed("general.alignment is not a u32".to_owned())),
    };
    match alignment.is_power_of_two() && alignment <= MOST_ALIGNMENT {
        true => Ok(alignment.into()),
        false => Err(cursor.malformed(format!(
            "general.alignment is {alignment}, not a power of two up to {MOST_ALIGNMENT}"
        ))),
    }
}

/// The tensors so far.
#[derive(Default)]
struct Totals {
    bytes: u64,
    parameters: u64,
    /// Where the next one must begin, relative to the data.
    next: u64,
    /// Where the last one ends.
    end: u64,
}

fn tensor<R: Read>(
    cursor: &mut Cursor<R>,
    alignment: u64,
    total: &mut Totals,
    names: &mut HashSet<String>,
) -> Result<(), GgufError> {
    let at = cursor.at();
    let name = cursor.string(TENSOR_NAME - 1, "a tensor's name")?;
    let bad = |what: String| malformed(at, format!("tensor '{}': {what}", name.escape_debug()));
    let dimensions = cursor.u32("a tensor's dimensions")?;
    if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
        return Err(bad(format!(
            "{dimensions} dimensions, 1 to {MOST_DIMENSIONS} are taken"
        )));
    }
    let mut elements: u64 = 1;
    let mut row = 1;
    for dimension in 0..dimensions {
        let length = cursor.u64("a tensor's shape")?;
        if length == 0 {
            return Err(bad(format!("dimension {dimension} is 0")));
        }
        elements = elements
            .checked_mul(length)
            .filter(|n| i64::try_from(*n).is_ok())
            .ok_or_else(|| bad("more than 2^63 elements".to_owned()))?;
        if dimension == 0 {
            row = length;
        }
    }
    let id = cursor.u32("a tensor's type")?;
    let block = types::block(id).ok_or_else(|| bad(format!("type {id} is not known")))?;
    if row % block.elements != 0 {
        let whole = block.elements;
        return Err(bad(format!(
            "rows of {row} elements, type {id} takes multiples of {whole}"
        )));
    }
    let bytes = (elements / block.elements).checked_mul(block.bytes);
    let bytes = bytes.ok_or_else(|| bad("more than 2^64 bytes".to_owned()))?;
    let offset = cursor.u64("a tensor's offset")?;
    // llama.cpp takes no other order either; it makes gaps and overlaps impossible.
    if offset != total.next {
        return Err(bad(format!(
            "offset {offset}, the tensor before ends at {}",
            total.next
        )));
    }
    let end = offset
        .checked_add(bytes)
        .filter(|end| *end <= cursor.size());
    total.end = end.ok_or_else(|| GgufError::Truncated {
        size: cursor.size(),
        needed: offset.saturating_add(bytes),
        what: format!("tensor '{}'", name.escape_debug()),
    })?;
    total.next = total
        .end
        .checked_next_multiple_of(alignment)
        .unwrap_or(u64::MAX);
    // No overflow: tensors lie one behind the other within the file, and a byte holds at most eight elements.
    total.bytes += bytes;
    total.parameters = total.parameters.saturating_add(elements);
    match names.insert(name) {
        true => Ok(()),
        false => Err(malformed(at, "a tensor's name comes twice".to_owned())),
    }
}

/// What is kept of a value.
enum Value {
    U32(u32),
    /// Any other whole number that is not negative.
    Whole(u64),
    Bool(bool),
    Text(String),
    Numbers(Vec<u32>),
    Texts(Vec<String>),
    /// An array's length.
    Length(u64),
    /// Negative numbers, floats, and what does not fit.
    Other,
}

/// Value types of the format that have a fixed width.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// How a key's value is kept.
enum Keep {
    No,
    Scalar,
    Text(u64),
    PerLayer,
    Texts,
    Length,
}

fn keep(key: &str, architecture: Option<&str>) -> Keep {
    match key {
        "general.alignment" | "general.file_type" => Keep::Scalar,
        "split.no" | "split.count" => Keep::Scalar,
        "general.architecture" | "general.name" => Keep::Text(MOST_NAME),
        "tokenizer.ggml.model" | "tokenizer.ggml.pre" => Keep::Text(MOST_NAME),
        "tokenizer.ggml.tokens" => Keep::Length,
        "tokenizer.chat_templates" => Keep::Texts,
        _ if key.starts_with("tokenizer.chat_template") => Keep::Text(MOST_TEMPLATE),
        _ if key.starts_with("tokenizer.ggml.") => Keep::Scalar,
        // `general.architecture` comes first in every file that llama.cpp's tools write; before it,
        // the tail of the key decides.
        _ => match architecture.map_or_else(
            || key.split_once('.').map(|(_, tail)| tail),
            |name| key.strip_prefix(name)?.strip_prefix('.'),
        ) {
            Some("attention.head_count" | "attention.head_count_kv" | "feed_forward_length") => {
                Keep::PerLayer
            }
            Some(_) => Keep::Scalar,
            None => Keep::No,
        },
    }
}

fn pair<R: Read>(cursor: &mut Cursor<R>, key: &str, facts: &mut Facts) -> Result<(), GgufError> {
    let at = cursor.at();
    let kind = cursor.u32("a value's type")?;
    let architecture = facts.text("general.architecture");
    let keep = keep(key, architecture.as_deref());
    let value = match (kind, keep) {
        (ARRAY, keep) => array(cursor, &keep)?,
        (STRING, Keep::Text(most)) => {
            let text = cursor.string(most, "a value")?;
            facts.text_bytes += text.len();
            if facts.text_bytes > MOST_TEXT {
                return Err(malformed(
                    at,
                    format!("templates of more than {MOST_TEXT} bytes"),
                ));
            }
            Value::Text(text)
        }
        (STRING, _) => {
            cursor.skip_string("a value")?;
            Value::Other
        }
        (_, Keep::No) => {
            let width = width(kind).ok_or_else(|| unknown_kind(at, kind))?;
            cursor.skip(width, "a value")?;
            return Ok(());
        }
        (_, _) => scalar(cursor, kind)
            .transpose()
            .ok_or_else(|| unknown_kind(at, kind))??,
    };
    facts.values.push((key.to_owned(), value));
    Ok(())
}

fn unknown_kind(at: u64, kind: u32) -> GgufError {
    malformed(at, format!("value type {kind} is not one of the format's"))
}

/// `None`: no such type, or not a scalar one.
fn scalar<R: Read>(cursor: &mut Cursor<R>, kind: u32) -> Result<Option<Value>, GgufError> {
    let what = "a value";
    let signed = |value: i64| u64::try_from(value).map_or(Value::Other, Value::Whole);
    Ok(Some(match kind {
        0 => Value::Whole(cursor.array::<1>(what)?[0].into()),
        1 => signed(i8::from_le_bytes(cursor.array(what)?).into()),
        2 => Value::Whole(u16::from_le_bytes(cursor.array(what)?).into()),
        3 => signed(i16::from_le_bytes(cursor.array(what)?).into()),
        4 => Value::U32(cursor.u32(what)?),
        5 => signed(i32::from_le_bytes(cursor.array(what)?).into()),
        BOOL => Value::Bool(cursor.array::<1>(what)?[0] != 0),
        10 => Value::Whole(cursor.u64(what)?),
        11 => signed(i64::from_le_bytes(cursor.array(what)?)),
        6 | 12 => {
            cursor.skip(if kind == 6 { 4 } else { 8 }, what)?;
            Value::Other
        }
        _ => return Ok(None),
    }))
}

fn array<R: Read>(cursor: &mut Cursor<R>, keep: &Keep) -> Result<Value, GgufError> {
    let at = cursor.at();
    let kind = cursor.u32("an array's type")?;
    let length = cursor.u64("an array's length")?;
    if kind == STRING {
        // Each has at least its length: a claim that the file cannot hold ends here.
        cursor.demand(length.saturating_mul(8), "an array of strings")?;
        if matches!(keep, Keep::Texts) && length <= MOST_TEMPLATES as u64 {
            let texts = (0..length).map(|_| cursor.string(MOST_NAME, "a template's name"));
            return texts.collect::<Result<_, _>>().map(Value::Texts);
        }
        for _ in 0..length {
            cursor.skip_string("a string of an array")?;
        }
        return Ok(Value::Length(length));
    }
    // Arrays within arrays are in no file that llama.cpp reads.
    let width = width(kind).ok_or_else(|| unknown_kind(at, kind))?;
    let bytes = length.saturating_mul(width);
    if matches!(keep, Keep::PerLayer) && (4..=5).contains(&kind) && length <= PerLayer::MOST.into()
    {
        cursor.demand(bytes, "an array")?;
        let mut numbers = Vec::new();
        for _ in 0..length {
            let number = cursor.u32("a number per layer")?;
            // A negative i32 stands for none.
            numbers.push(if kind == 5 && number > i32::MAX as u32 {
                0
            } else {
                number
            });
        }
        return Ok(Value::Numbers(numbers));
    }
    cursor.skip(bytes, "an array")?;
    Ok(Value::Length(length))
}

/// The kept pairs, in the file's order.
#[derive(Default)]
struct Facts {
    values: Vec<(String, Value)>,
    text_bytes: usize,
}

impl Facts {
    fn find(&self, key: &str) -> Option<&Value> {
        self.values
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, value)| value)
    }

    fn number(&self, key: &str) -> Option<u32> {
        match self.find(key)? {
            Value::U32(value) => Some(*value),
            Value::Whole(value) => u32::try_from(*value).ok(),
            _ => None,
        }
    }

    fn flag(&self, key: &str) -> Option<bool> {
        match self.find(key)? {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    fn text(&self, key: &str) -> Option<String> {
        match self.find(key)? {
            Value::Text(value) => Some(value.clone()),
            _ => None,
        }
    }

    fn per_layer(&self, key: &str) -> Option<PerLayer> {
        match self.find(key)? {
            Value::Numbers(values) => Some(PerLayer::Each(values.clone())),
            _ => self.number(key).map(PerLayer::Same),
        }
    }

    fn into_header(
        self,
        tensors: u64,
        total: &Totals,
        data_offset: u64,
        at: u64,
    ) -> Result<Header, GgufError> {
        let missing = |what: &str| malformed(at, what.to_owned());
        let split = match (self.number("split.no"), self.number("split.count")) {
            (Some(number), Some(count)) if number < count => Some(Split { number, count }),
            (None, None) => None,
            _ => return Err(missing("split.no and split.count do not fit together")),
        };
        let architecture = self.text("general.architecture");
        // Further parts of a split model may hold tensors only.
        let architecture = match (architecture, split) {
            (Some(name), _) if !name.is_empty() && name.len() <= 64 => name,
            (None, Some(Split { number: 1.., .. })) => String::new(),
            _ => {
                return Err(missing(
                    "general.architecture is missing or no string of 1 to 64 bytes",
                ));
            }
        };
        let of = |tail: &str| format!("{architecture}.{tail}");
        let number = |tail: &str| self.number(&of(tail));
        let block_count = number("block_count");
        if block_count.is_some_and(|n| n > PerLayer::MOST) {
            return Err(missing("block_count is more than 512"));
        }
        let state_space = number("ssm.state_size").map(|state_size| StateSpace {
            conv_kernel: number("ssm.conv_kernel").unwrap_or(0),
            inner_size: number("ssm.inner_size").unwrap_or(0),
            state_size,
            group_count: number("ssm.group_count").unwrap_or(0),
        });
        let pooling = number("pooling_type").and_then(|id| match id {
            0 => Some(Pooling::None),
            1 => Some(Pooling::Mean),
            2 => Some(Pooling::Cls),
            3 => Some(Pooling::Last),
            4 => Some(Pooling::Rank),
            _ => None,
        });
        let vocab_size = match self.find("tokenizer.ggml.tokens") {
            Some(Value::Length(length)) => u32::try_from(*length).ok(),
            _ => number("vocab_size"),
        };
        let file_type = self.number("general.file_type");
        Ok(Header {
            name: self.text("general.name"),
            context_length: number("context_length"),
            block_count,
            embedding_length: number("embedding_length"),
            feed_forward_length: self.per_layer(&of("feed_forward_length")),
            head_count: self.per_layer(&of("attention.head_count")),
            head_count_kv: self.per_layer(&of("attention.head_count_kv")),
            key_length: number("attention.key_length"),
            value_length: number("attention.value_length"),
            causal: self.flag(&of("attention.causal")),
            state_space,
            vocab_size,
            file_type,
            quantisation: file_type.and_then(types::file_type_name),
            pooling,
            chat_templates: self.chat_templates(),
            tokenizer: self.text("tokenizer.ggml.model"),
            pre_tokenizer: self.text("tokenizer.ggml.pre"),
            bos: self.number("tokenizer.ggml.bos_token_id"),
            eos: self.number("tokenizer.ggml.eos_token_id"),
            add_bos: self.flag("tokenizer.ggml.add_bos_token"),
            split,
            tensors,
            tensor_bytes: total.bytes,
            parameters: total.parameters,
            data_offset,
            architecture,
        })
    }

    /// The default one, then those that `tokenizer.chat_templates` names.
    fn chat_templates(&self) -> Vec<ChatTemplate> {
        let named = match self.find("tokenizer.chat_templates") {
            Some(Value::Texts(names)) => names.as_slice(),
            _ => &[],
        };
        let default = self.text("tokenizer.chat_template");
        let default = default.map(|source| ChatTemplate { name: None, source });
        let named = named.iter().filter_map(|name| {
            let source = self.text(&format!("tokenizer.chat_template.{name}"))?;
            let name = Some(name.clone());
            Some(ChatTemplate { name, source })
        });
        default.into_iter().chain(named).collect()
    }
}
