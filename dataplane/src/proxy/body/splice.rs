//! Edits as insertions between slices of the frames: nothing is serialised
//! again, and every byte outside an edit is the client's.

use std::borrow::Cow;

use bytes::Bytes;
use smallvec::SmallVec;

use super::extra::{self, ExtraBody, Member, Node};
use super::fields::{Slot, Value, count};
use super::locate::{self, Located};
use super::scan::{Kind, Note};
use super::{Body, Dialect, Edits, OutputCap, OutputField, text};

/// A body ready to be sent: slices in order.
#[derive(Debug, Clone, Default)]
pub struct Prepared {
    slices: SmallVec<[Bytes; 8]>,
    len: u64,
}

impl Prepared {
    /// Bytes in all, for `content-length`.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slices, in order; none is empty.
    #[must_use]
    pub fn slices(&self) -> &[Bytes] {
        &self.slices
    }

    /// The slices, in order; none is empty.
    #[must_use]
    pub fn into_slices(self) -> SmallVec<[Bytes; 8]> {
        self.slices
    }

    /// The whole in one piece, copied where there are several slices.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match &self.slices[..] {
            [whole] => whole.clone(),
            slices => slices.concat().into(),
        }
    }
}

/// Applies `edits` to `body`.
pub(super) fn prepare(body: &Body, edits: &Edits<'_>) -> Prepared {
    let mut plan = Plan::default();
    if let Some(model) = edits.model {
        plan.model(body, model);
    }
    let mut extra = match (edits.defaults, edits.extra_body) {
        (Some(defaults), Some(extra)) => Some(Cow::Owned(defaults.over(extra))),
        (one, other) => one.or(other).map(Cow::Borrowed),
    };
    if let Some(cap) = &edits.cap {
        plan.cap(body, *cap, &mut extra);
    }
    if edits.include_usage && body.dialect == Dialect::OpenAi {
        plan.include_usage(body, &mut extra);
    }
    if let Some(extra) = extra {
        plan.merge(body, &extra);
    }
    plan.carry_out(body)
}

/// Replaces the bytes `at..end` with `text`.
#[derive(Debug)]
struct Splice {
    at: usize,
    end: usize,
    text: Bytes,
}

/// Members to be added at the end of an object.
#[derive(Debug)]
struct Tail {
    /// Offset of the object's closing brace.
    close: usize,
    empty: bool,
    members: String,
}

#[derive(Debug, Default)]
struct Plan {
    splices: SmallVec<[Splice; 4]>,
    tails: SmallVec<[Tail; 2]>,
}

impl Plan {
    fn replace(&mut self, value: Value, text: impl Into<Bytes>) {
        self.splices.push(Splice {
            at: value.start,
            end: value.end,
            text: text.into(),
        });
    }

    fn insert(&mut self, at: usize, text: impl Into<Bytes>) {
        let text = text.into();
        self.splices.push(Splice { at, end: at, text });
    }

    /// Where to write a further member of `object`: the comma is there.
    fn member(&mut self, object: Value) -> &mut String {
        let close = object.end - 1;
        let index = self.tails.iter().position(|tail| tail.close == close);
        let index = index.unwrap_or_else(|| {
            self.tails.push(Tail {
                close,
                empty: object.note == Note::Empty,
                members: String::new(),
            });
            self.tails.len() - 1
        });
        let tail = &mut self.tails[index];
        if !tail.empty {
            tail.members.push(',');
        }
        tail.empty = false;
        &mut tail.members
    }

    fn model(&mut self, body: &Body, model: &str) {
        for value in body.model_values() {
            let asked = body.text(value);
            // Gemini's bodies hold resource names.
            let kind = match body.dialect == Dialect::Gemini && asked.starts_with(RESOURCE) {
                true => RESOURCE,
                false => "",
            };
            if asked.strip_prefix(kind) == Some(model) {
                continue;
            }
            let mut quoted = String::with_capacity(kind.len() + model.len() + 2);
            text::quote(&[kind, model].concat(), &mut quoted);
            self.replace(value, quoted);
        }
    }

    fn cap(&mut self, body: &Body, cap: OutputCap, extra: &mut Option<Cow<'_, ExtraBody>>) {
        let limit = cap.limit.to_string();
        let mut asked = false;
        for field in OutputField::of(body.dialect) {
            if let Some(value) = body.fields.get(field.slot()) {
                if value.kind == Kind::Number {
                    asked = true;
                    let count = count(&body.frames.bytes(value.span()));
                    if count.is_none_or(|count| count > u64::from(cap.limit)) {
                        self.replace(value, limit.clone());
                    }
                }
            } else if !body.holds_null(field.object())
                && let Some(extra) = extra
                && let Some(count) = extra.limit(field.path())
            {
                asked = true;
                if count > u64::from(cap.limit) {
                    extra.to_mut().set(field.path(), limit.clone().into());
                }
            }
        }
        if !asked {
            let field = match OutputField::of(body.dialect).contains(&cap.field) {
                true => cap.field,
                false => OutputField::of(body.dialect)[0],
            };
            self.put(
                body,
                field.object(),
                field.slot(),
                field.path(),
                &limit,
                extra,
            );
        }
    }

    fn include_usage(&mut self, body: &Body, extra: &mut Option<Cow<'_, ExtraBody>>) {
        let path = ["stream_options", "include_usage"];
        let object = Some(Slot::StreamOptions);
        let present = body.fields.get(Slot::IncludeUsage);
        if present.is_none_or(|value| value.kind != Kind::True) {
            self.put(body, object, Slot::IncludeUsage, &path, "true", extra);
        }
    }

    /// Sets the value at `path` (one key, or one in an object): in place where
    /// the client has it, else in the extra body where that brings the key or
    /// its object, else at the end of the object.
    fn put(
        &mut self,
        body: &Body,
        object: Option<Slot>,
        slot: Slot,
        path: &[&str],
        json: &str,
        extra: &mut Option<Cow<'_, ExtraBody>>,
    ) {
        if let Some(value) = body.fields.get(slot) {
            return self.replace(value, json.to_owned());
        }
        let holder = object.and_then(|slot| body.fields.get(slot));
        let leaf = path.last().copied().unwrap_or_default();
        match (object, holder) {
            // `null` where the object should be.
            (_, Some(value)) if value.kind != Kind::Object => {
                self.replace(value, format!("{{\"{leaf}\":{json}}}"));
            }
            // The extra body has the key, or brings its object.
            (Some(_), None) if merges(extra, &path[..1]) => set(extra, path, json),
            _ if merges(extra, path) => set(extra, path, json),
            (Some(_), None) => {
                let object = path.first().copied().unwrap_or_default();
                let member = format!("\"{object}\":{{\"{leaf}\":{json}}}");
                self.member(body.top).push_str(&member);
            }
            (_, holder) => {
                let member = format!("\"{leaf}\":{json}");
                self.member(holder.unwrap_or(body.top)).push_str(&member);
            }
        }
    }

    fn merge(&mut self, body: &Body, extra: &ExtraBody) {
        if let Some(blocks) = &extra.system {
            self.system(body, blocks);
        }
        if !extra.members.is_empty() {
            let located = locate::locate(body, extra);
            self.add_absent(&extra.members, body.top, &located);
        }
    }

    fn add_absent(&mut self, members: &[Member], object: Value, located: &Located) {
        for member in members {
            match (located.get(member.id), &member.node) {
                (None, _) => extra::write_member(member, self.member(object)),
                (Some(value), Node::Object(members)) if value.kind == Kind::Object => {
                    self.add_absent(members, value, located);
                }
                // The client's own value stays.
                (Some(_), _) => {}
            }
        }
    }

    /// Puts the configured blocks in front of the client's system prompt.
    fn system(&mut self, body: &Body, blocks: &Bytes) {
        let array = |rest: &[u8]| [b"[", &blocks[..], rest].concat();
        match body.fields.get(Slot::System) {
            None => {
                let member = self.member(body.top);
                member.push_str("\"system\":");
                member.push_str(&String::from_utf8_lossy(&array(b"]")));
            }
            Some(value) => match value.kind {
                Kind::Array => {
                    self.insert(value.start + 1, blocks.clone());
                    if value.note != Note::Empty {
                        self.insert(value.start + 1, &b","[..]);
                    }
                }
                // A text block may not be empty.
                Kind::String if !value.inside().is_empty() => {
                    self.insert(value.start, array(b",{\"type\":\"text\",\"text\":"));
                    self.insert(value.end, &b"}]"[..]);
                }
                _ => self.replace(value, array(b"]")),
            },
        }
    }

    fn carry_out(self, body: &Body) -> Prepared {
        let Self { mut splices, tails } = self;
        // After the others: where two insertions meet, the value's end comes
        // before what follows it in the object.
        splices.extend(tails.into_iter().map(|tail| Splice {
            at: tail.close,
            end: tail.close,
            text: tail.members.into(),
        }));
        splices.sort_by_key(|splice| splice.at);
        let mut slices = SmallVec::new();
        let mut at = 0;
        for splice in splices {
            body.frames.slice(at..splice.at, &mut slices);
            at = splice.end;
            slices.push(splice.text);
        }
        body.frames.slice(at..body.frames.len(), &mut slices);
        let len = slices.iter().map(|slice| slice.len() as u64).sum();
        Prepared { slices, len }
    }
}

/// What a model's resource name starts with in Gemini's API.
const RESOURCE: &str = "models/";

fn merges(extra: &Option<Cow<'_, ExtraBody>>, path: &[&str]) -> bool {
    extra.as_ref().is_some_and(|extra| extra.has(path))
}

fn set(extra: &mut Option<Cow<'_, ExtraBody>>, path: &[&str], json: &str) {
    if let Some(extra) = extra {
        extra
            .to_mut()
            .set(path, Bytes::copy_from_slice(json.as_bytes()));
    }
}
