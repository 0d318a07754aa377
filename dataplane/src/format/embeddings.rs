//! OpenAI's embeddings (<https://platform.openai.com/docs/api-reference/embeddings>).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bodhi_proto::chat::{Embedded, Embedding, Text};
use bytes::{Bytes, BytesMut};
use serde::{Serialize, Serializer};

use super::openai::parameters::texts;
use super::openai::wire::PromptUsage;
use super::read::Node;
use super::{BadReply, Fault, read, sse};

/// Most inputs of a request, as OpenAI has it.
const MAX_INPUTS: usize = 2048;

/// How vectors are written (`encoding_format`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// As arrays of numbers.
    #[default]
    Float,
    /// As base64 of little-endian 32-bit floats.
    Base64,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// At least one input; vectors of length one, as OpenAI's are.
    pub embedding: Embedding,
    /// How vectors are written.
    pub encoding: Encoding,
    /// How long vectors are to be. Cutting them is right for models that were trained for it
    /// only, and nothing tells which were: another length than the model's is refused.
    pub dimensions: Option<u32>,
}

/// Reads a body that intake has accepted.
///
/// # Errors
/// The first [`Fault`].
pub fn parse(body: &[u8]) -> Result<Request, Fault> {
    let body = read::body(body)?;
    let inputs = inputs(&body.need("input")?)?;
    let encoding = match body.get("encoding_format") {
        Some(format) => format.word(&[("float", Encoding::Float), ("base64", Encoding::Base64)])?,
        None => Encoding::Float,
    };
    let dimensions = body.get("dimensions").map(|dimensions| dimensions.count(1));
    Ok(Request {
        embedding: Embedding {
            inputs,
            normalized: true,
        },
        encoding,
        dimensions: dimensions.transpose()?,
    })
}

fn inputs(input: &Node<'_, '_>) -> Result<Vec<Text>, Fault> {
    let texts = texts(input, MAX_INPUTS)?;
    let empty = |text: &Text| matches!(text, Text::Plain(text) if text.is_empty());
    match texts.iter().any(empty) {
        true => Err(input.unfit("must not have an empty text")),
        false => Ok(texts),
    }
}

/// Why vectors that came cannot be given to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Because of the request.
    #[error(transparent)]
    Request(#[from] Fault),
    /// Because of the backend.
    #[error(transparent)]
    Reply(#[from] BadReply),
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Item<'a>>,
    model: &'a str,
    usage: PromptUsage,
}

#[derive(Serialize)]
struct Item<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

struct Vector<'a>(&'a [f32], Encoding);

impl Serialize for Vector<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Self(numbers, encoding) = self;
        match encoding {
            Encoding::Float => to.collect_seq(*numbers),
            Encoding::Base64 => {
                let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
                to.serialize_str(&STANDARD.encode(bytes))
            }
        }
    }
}

impl Request {
    /// The document for the vectors that came; `model` is the name as asked.
    ///
    /// # Errors
    /// The vectors are not as long as was asked, or are not one number sequence for each input.
    pub fn respond(&self, embedded: &Embedded, model: &str) -> Result<Bytes, Refused> {
        let vectors = &embedded.vectors;
        let (expected, found) = (self.embedding.inputs.len(), vectors.len());
        if expected != found {
            return Err(BadReply::Count { expected, found }.into());
        }
        if !vectors.iter().flatten().all(|number| number.is_finite()) {
            return Err(BadReply::NotANumber.into());
        }
        let len = vectors.first().map_or(0, Vec::len);
        if let Some(wanted) = self.dimensions
            && wanted as usize != len
        {
            let param = "dimensions".to_owned();
            let problem = format!("must be {len} or absent: this model's vectors cannot be cut");
            return Err(Fault::Value {
                param,
                problem: problem.into(),
            }
            .into());
        }
        let data = vectors.iter().enumerate().map(|(index, vector)| Item {
            object: "embedding",
            index,
            embedding: Vector(vector, self.encoding),
        });
        let list = List {
            object: "list",
            data: data.collect(),
            model,
            usage: PromptUsage::new(embedded.prompt_tokens),
        };
        let mut out = BytesMut::new();
        sse::json(&list, &mut out);
        Ok(out.freeze())
    }
}
