//! YAML as manifests use it: values that remember their line and column.
//!
//! Plain scalars are read as kubectl reads them (YAML 1.1: `yes` is true, `0755` is octal),
//! so that a file means the same on a laptop and in a cluster. Refused with their position:
//! duplicate keys, keys that are no text, nesting beyond [`DEPTH_MAX`], and anchors that
//! unfold to more than [`NODES_MAX`] nodes ("billion laughs"). JSON is read as the YAML it is.

mod json;
mod scalar;

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScanError, Span, StrInput};
use serde_json::Value;

use crate::validate::{FieldPath, Segment};

/// Deepest nesting of lists and mappings.
pub(super) const DEPTH_MAX: usize = 64;
/// Most values in one file, those that anchors repeat included.
pub(super) const NODES_MAX: usize = 200_000;

/// A place in a file; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// Why a text is not YAML that we read, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct YamlError {
    /// Where it is wrong.
    pub position: Position,
    /// What is wrong.
    pub message: String,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it begins; of a mapping's value, where its key begins.
    pub position: Position,
    /// What it is.
    pub content: Content,
}

/// What a [`Node`] holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// null, a boolean, a number or text.
    Scalar(Value),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the file's order.
    Mapping(Vec<(String, Node)>),
}

/// Reads all documents of a file; empty ones (only comments) are left out.
///
/// # Errors
/// The first thing that is not well-formed, with its position.
pub fn documents(text: &str) -> Result<Vec<Node>, YamlError> {
    let text = json::without_surrogates(text);
    let mut reader = Reader {
        parser: Parser::new_from_str(&text),
        anchors: HashMap::new(),
        budget: NODES_MAX,
    };
    let mut documents = Vec::new();
    while let Some((event, span)) = reader.next()? {
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(_) => reader.anchors.clear(),
            Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
            other => {
                let node = reader.node(other, span, 0)?;
                if node.content != Content::Scalar(Value::Null) {
                    documents.push(node);
                }
            }
        }
    }
    Ok(documents)
}

impl Node {
    /// The value without positions.
    pub fn to_value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => items.iter().map(Node::to_value).collect(),
            Content::Mapping(fields) => fields
                .iter()
                .map(|(key, node)| (key.clone(), node.to_value()))
                .collect(),
        }
    }

    /// The field `name` of a mapping.
    pub fn get(&self, name: &str) -> Option<&Node> {
        match &self.content {
            Content::Mapping(fields) => {
                let found = fields.iter().find(|(key, _)| key == name);
                found.map(|(_, node)| node)
            }
            _ => None,
        }
    }

    /// The text of a scalar field.
    pub fn text(&self, name: &str) -> Option<&str> {
        match &self.get(name)?.content {
            Content::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Where `path` stands: of what is missing, the nearest thing around it.
    pub fn locate(&self, path: &FieldPath) -> Position {
        let mut node = self;
        for segment in path.segments() {
            let below = match (segment, &node.content) {
                (Segment::Field(name), Content::Mapping(_)) => node.get(name),
                (Segment::Index(index), Content::List(items)) => items.get(*index),
                _ => None,
            };
            match below {
                Some(below) => node = below,
                None => break,
            }
        }
        node.position
    }

    fn size(&self) -> usize {
        1 + match &self.content {
            Content::Scalar(_) => 0,
            Content::List(items) => items.iter().map(Node::size).sum(),
            Content::Mapping(fields) => fields.iter().map(|(_, node)| node.size()).sum(),
        }
    }
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Node>,
    budget: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, YamlError> {
        self.parser.next().transpose().map_err(|e| scan_error(&e))
    }

    fn inner(&mut self) -> Result<(Event<'t>, Span), YamlError> {
        let end = || {
            error(
                Position { line: 1, column: 1 },
                "the document ends too early",
            )
        };
        self.next()?.ok_or_else(end)
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, YamlError> {
        let position = position(span);
        if depth > DEPTH_MAX {
            return Err(error(
                position,
                format!("nested deeper than {DEPTH_MAX} levels"),
            ));
        }
        self.spend(1, position)?;
        let (anchor, content) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar::value(&text, style, tag.as_deref())
                    .map_err(|message| error(position, message))?;
                (anchor, Content::Scalar(value))
            }
            Event::SequenceStart(anchor, _) => (anchor, self.list(depth)?),
            Event::MappingStart(anchor, _) => (anchor, self.mapping(depth)?),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(error(position, "refers to an anchor that is not complete"));
                };
                self.spend(node.size(), position)?;
                return Ok(Node { position, ..node });
            }
            _ => return Err(error(position, "a value is missing")),
        };
        let node = Node { position, content };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
            self.spend(node.size(), position)?;
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Content, YamlError> {
        let mut items = Vec::new();
        loop {
            match self.inner()? {
                (Event::SequenceEnd, _) => return Ok(Content::List(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Content, YamlError> {
        let mut fields: Vec<(String, Node)> = Vec::new();
        let mut seen = HashMap::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.inner()?;
            let at = position(span);
            let (key, plain) = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, style, ..) => (
                    text.into_owned(),
                    style == saphyr_parser::ScalarStyle::Plain,
                ),
                _ => return Err(error(at, "a key must be text")),
            };
            let (event, span) = self.inner()?;
            let mut node = self.node(event, span, depth + 1)?;
            if plain && key == "<<" {
                merged.push((at, node));
                continue;
            }
            if let Some(first) = seen.insert(key.clone(), at) {
                let line = first.line;
                return Err(error(
                    at,
                    format!("key {key:?} is already set in line {line}"),
                ));
            }
            node.position = at;
            fields.push((key, node));
        }
        for (at, node) in merged {
            merge(&mut fields, &mut seen, at, node)?;
        }
        Ok(Content::Mapping(fields))
    }

    fn spend(&mut self, nodes: usize, position: Position) -> Result<(), YamlError> {
        let left = self.budget.checked_sub(nodes);
        let too_many = || {
            error(
                position,
                format!("more than {NODES_MAX} values in one file"),
            )
        };
        self.budget = left.ok_or_else(too_many)?;
        Ok(())
    }
}

/// `<<: *anchor` (YAML 1.1): fields of the anchor that the mapping does not set itself.
fn merge(
    fields: &mut Vec<(String, Node)>,
    seen: &mut HashMap<String, Position>,
    at: Position,
    node: Node,
) -> Result<(), YamlError> {
    match node.content {
        Content::Mapping(more) => {
            for (key, node) in more {
                if seen.insert(key.clone(), at).is_none() {
                    fields.push((key, node));
                }
            }
            Ok(())
        }
        Content::List(nodes) => nodes.into_iter().try_for_each(|node| match node.content {
            Content::Mapping(_) => merge(fields, seen, at, node),
            _ => Err(error(at, "<< takes mappings only")),
        }),
        Content::Scalar(_) => Err(error(at, "<< takes mappings only")),
    }
}

fn position(span: Span) -> Position {
    Position {
        line: span.start.line(),
        column: span.start.col() + 1,
    }
}

fn error(position: Position, message: impl Into<String>) -> YamlError {
    YamlError {
        position,
        message: message.into(),
    }
}

fn scan_error(error: &ScanError) -> YamlError {
    let marker = error.marker();
    YamlError {
        position: Position {
            line: marker.line(),
            column: marker.col() + 1,
        },
        message: error.info().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn values(text: &str) -> Vec<Value> {
        let nodes = documents(text).unwrap();
        nodes.iter().map(Node::to_value).collect()
    }

    fn failure(text: &str) -> (usize, String) {
        let error = documents(text).unwrap_err();
        (error.position.line, error.message)
    }

    #[test]
    fn documents_are_told_apart_and_empty_ones_left_out() {
        let text = "# head\n---\na: 1\n---\n# nothing\n---\n- b\n- {c: [1, 2]}\n...\n";
        assert_eq!(
            values(text),
            [json!({ "a": 1 }), json!(["b", { "c": [1, 2] }])]
        );
        assert!(values("").is_empty());
        assert!(values("# only a comment\n").is_empty());
    }

    #[test]
    fn a_path_leads_to_its_line_or_to_the_nearest_line_around_it() {
        let text =
            "kind: ApiModel\nspec:\n  models:\n  - a\n  - b\n  extraHeaders:\n    - name: x\n";
        let node = &documents(text).unwrap()[0];
        let at = |path: &str| node.locate(&FieldPath::parse(path));
        assert_eq!(at("spec"), Position { line: 2, column: 1 });
        assert_eq!(at("spec.models[1]"), Position { line: 5, column: 5 });
        assert_eq!(at("spec.extraHeaders[0].name").line, 7);
        assert_eq!(at("spec.extraHeaders[0].value").line, 7);
        assert_eq!(at("spec.auth").line, 2);
        assert_eq!(at("spec.models[9]").line, 3);
    }

    #[test]
    fn duplicate_keys_are_refused_with_both_lines() {
        let (line, message) = failure("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n");
        assert_eq!(
            (line, message.as_str()),
            (5, "key \"c\" is already set in line 3")
        );
        assert_eq!(failure("{a: 1, a: 1}").0, 1);
    }

    #[test]
    fn anchors_repeat_values_and_merge() {
        assert_eq!(
            values("base: &b {x: 1, y: 2}\none: *b\ntwo:\n  <<: *b\n  y: 3\n"),
            [json!({
                "base": { "x": 1, "y": 2 },
                "one": { "x": 1, "y": 2 },
                "two": { "y": 3, "x": 1 },
            })]
        );
    }

    #[test]
    fn anchors_that_explode_are_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let refs = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        assert!(failure(&text).1.contains("values in one file"));
    }

    #[test]
    fn an_anchor_inside_itself_is_refused() {
        assert!(documents("a: &a [*a]").is_err());
    }

    #[test]
    fn deep_nesting_is_refused() {
        let text = format!("{}{}", "[".repeat(500), "]".repeat(500));
        assert!(documents(&text).is_err());
        let text: String = (0..200).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
        assert!(documents(&text).is_err());
    }

    #[test]
    fn syntax_errors_name_their_line() {
        assert_eq!(failure("a: 1\nb: [1,\nc: 2\n").0, 3);
        assert!(documents("a: 1\n\tb: 2\n").is_err());
        assert_eq!(failure("a: *nowhere\n").0, 1);
    }

    #[test]
    fn json_is_read_as_yaml() {
        let text =
            "{\n  \"a\": \"\\u00e9\\/\\\"\\ud83d\\ude00\",\n\t\"b\": [1, 2.5, true, null]\n}";
        assert_eq!(
            values(text),
            [json!({ "a": "é/\"😀", "b": [1, 2.5, true, null] })]
        );
    }
}
