//! Reranking, in the shape that Jina and Cohere share (<https://api.jina.ai/redoc>,
//! <https://docs.cohere.com/reference/rerank>). OpenAI has none.

use bodhi_proto::chat::{Reranked, Reranking};
use bytes::{Bytes, BytesMut};
use serde::Serialize;

use super::openai::wire::PromptUsage;
use super::read::Node;
use super::{BadReply, Fault, read, sse};

/// Most documents of a request, as Cohere advises.
const MAX_DOCUMENTS: usize = 1000;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The query and at least one document.
    pub reranking: Reranking,
    /// How many results at most; `None`: all.
    pub top_n: Option<u32>,
    /// Whether results repeat their documents.
    pub return_documents: bool,
}

/// Reads a body that intake has accepted.
///
/// # Errors
/// The first [`Fault`].
pub fn parse(body: &[u8]) -> Result<Request, Fault> {
    let body = read::body(body)?;
    let query = body.need("query")?.text()?;
    let documents = documents(&body.need("documents")?)?;
    let top_n = body.get("top_n").map(|top| top.count(1)).transpose()?;
    Ok(Request {
        reranking: Reranking { query, documents },
        top_n,
        return_documents: body.flag("return_documents")?.unwrap_or(false),
    })
}

fn documents(node: &Node<'_, '_>) -> Result<Vec<String>, Fault> {
    let mut left = MAX_DOCUMENTS;
    let documents = node.each(|item| {
        let most = || node.unfit(format!("must have at most {MAX_DOCUMENTS} documents"));
        left = left.checked_sub(1).ok_or_else(most)?;
        if item.is_object() {
            return item.object()?.need("text")?.text();
        }
        match item.is_string() {
            true => item.text(),
            false => Err(item.mistyped("a string or an object with 'text'")),
        }
    })?;
    match documents.is_empty() {
        true => Err(node.unfit("must not be empty")),
        false => Ok(documents),
    }
}

#[derive(Serialize)]
struct List<'a> {
    model: &'a str,
    object: &'static str,
    results: Vec<Item<'a>>,
    usage: PromptUsage,
}

#[derive(Serialize)]
struct Item<'a> {
    index: usize,
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Document<'a>>,
}

#[derive(Serialize)]
struct Document<'a> {
    text: &'a str,
}

impl Request {
    /// The document for the scores that came, the best first, equals in the client's order;
    /// `model` is the name as asked.
    ///
    /// # Errors
    /// The scores are not one number for each document.
    pub fn respond(&self, reranked: &Reranked, model: &str) -> Result<Bytes, BadReply> {
        let documents = &self.reranking.documents;
        let (expected, found) = (documents.len(), reranked.scores.len());
        if expected != found {
            return Err(BadReply::Count { expected, found });
        }
        if !reranked.scores.iter().all(|score| score.is_finite()) {
            return Err(BadReply::NotANumber);
        }
        let scored = documents.iter().zip(&reranked.scores).enumerate();
        let mut results: Vec<_> = scored
            .map(|(index, (text, score))| Item {
                index,
                relevance_score: *score,
                document: self.return_documents.then_some(Document { text }),
            })
            .collect();
        results.sort_by(|a, b| b.relevance_score.total_cmp(&a.relevance_score));
        results.truncate(self.top_n.map_or(usize::MAX, |top| top as usize));
        let list = List {
            model,
            object: "list",
            results,
            usage: PromptUsage::new(reranked.prompt_tokens),
        };
        let mut out = BytesMut::new();
        sse::json(&list, &mut out);
        Ok(out.freeze())
    }
}
