//! JSON values that know where they are.
//!
//! Requests are read as they lie: an object is a list of keys and of values not yet looked at,
//! so that what is never asked for costs no memory, and what is kept as text (schemas, arguments) is the client's own.
//! The last of equal keys counts, as most decoders have it; those that policy reads came once
//! (see [`crate::proxy::body`]). Null is absence.

use std::borrow::Cow;
use std::fmt;

use bodhi_proto::chat::{RANGES, Range};
use serde::de::{Deserializer as _, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Fault;

/// Keys are searched one by one, which is fastest for the objects that clients send; one with
/// more members than this is not one of those.
const MAX_MEMBERS: usize = 1024;

/// A value and its path.
#[derive(Clone, Copy)]
pub(super) struct Node<'a, 'p> {
    json: &'a RawValue,
    path: Path<'p>,
}

/// The way to a value. It lives on the stack of whoever reads, and becomes text in a fault only.
#[derive(Clone, Copy)]
struct Path<'p> {
    above: Option<&'p Path<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Body,
    Key(&'p str),
    Index(usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(above) = self.above {
            write!(f, "{above}")?;
        }
        let first = self
            .above
            .is_none_or(|above| matches!(above.step, Step::Body));
        match self.step {
            Step::Body => Ok(()),
            Step::Key(key) if first => f.write_str(key),
            Step::Key(key) => write!(f, ".{key}"),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// The object that a body is. `body` outlives what is read from it.
pub(super) fn body(body: &[u8]) -> Result<Object<'_, 'static>, Fault> {
    let json = serde_json::from_slice(body).map_err(|_| Fault::Syntax)?;
    let path = Path {
        above: None,
        step: Step::Body,
    };
    Node { json, path }.object()
}

impl<'a, 'p> Node<'a, 'p> {
    fn first(&self) -> u8 {
        self.json.get().as_bytes().first().copied().unwrap_or(b'n')
    }

    pub(super) fn is_string(&self) -> bool {
        self.first() == b'"'
    }

    pub(super) fn is_array(&self) -> bool {
        self.first() == b'['
    }

    pub(super) fn is_object(&self) -> bool {
        self.first() == b'{'
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self.first(), b'-' | b'0'..=b'9')
    }

    fn is_null(&self) -> bool {
        self.first() == b'n'
    }

    /// Such as `messages[2].content`.
    pub(super) fn param(&self) -> String {
        self.path.to_string()
    }

    /// That the value is of another type.
    pub(super) fn mistyped(&self, expected: &'static str) -> Fault {
        Fault::Type {
            param: self.param(),
            expected,
            found: match self.first() {
                b'"' => "a string",
                b'[' => "an array",
                b'{' => "an object",
                b't' | b'f' => "a boolean",
                b'n' => "null",
                _ => "a number",
            },
        }
    }

    /// That the value is not one of those that are taken.
    pub(super) fn unfit(&self, problem: impl Into<Cow<'static, str>>) -> Fault {
        Fault::Value {
            param: self.param(),
            problem: problem.into(),
        }
    }

    /// That the gateway cannot carry it.
    pub(super) fn unsupported(&self, problem: &'static str) -> Fault {
        Fault::Unsupported {
            param: self.param(),
            problem,
        }
    }

    pub(super) fn object(self) -> Result<Object<'a, 'p>, Fault> {
        let mut members = Vec::new();
        self.members(|key, json| {
            if members.len() == MAX_MEMBERS {
                return Err(self.unfit(format!("must have at most {MAX_MEMBERS} members")));
            }
            members.push((key, json));
            Ok(())
        })?;
        Ok(Object {
            members,
            path: self.path,
        })
    }

    /// An object's members, however many, one after another.
    pub(super) fn each_member<T>(
        &self,
        mut read: impl FnMut(&str, Node<'a, '_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        let mut all = Vec::new();
        self.members(|key, json| {
            let path = Path {
                above: Some(&self.path),
                step: Step::Key(&key),
            };
            all.push(read(&key, Node { json, path })?);
            Ok(())
        })?;
        Ok(all)
    }

    fn members(
        &self,
        take: impl FnMut(Cow<'a, str>, &'a RawValue) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if !self.is_object() {
            return Err(self.mistyped("an object"));
        }
        let mut fault = None;
        let members = Members {
            take,
            fault: &mut fault,
        };
        let read = serde_json::Deserializer::from_str(self.json.get()).deserialize_map(members);
        read.map_err(|_| fault.unwrap_or(Fault::Syntax))
    }

    /// An array's items, one after another.
    pub(super) fn each<T>(
        &self,
        read: impl FnMut(Node<'a, '_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        self.each_of("an array", read)
    }

    /// The same; `expected` is what to say when it is no array.
    pub(super) fn each_of<T>(
        &self,
        expected: &'static str,
        mut read: impl FnMut(Node<'a, '_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        if !self.is_array() {
            return Err(self.mistyped(expected));
        }
        let (mut all, mut fault) = (Vec::new(), None);
        let items = Items {
            take: |json| {
                let path = Path {
                    above: Some(&self.path),
                    step: Step::Index(all.len()),
                };
                all.push(read(Node { json, path })?);
                Ok(())
            },
            fault: &mut fault,
        };
        let read = serde_json::Deserializer::from_str(self.json.get()).deserialize_seq(items);
        read.map_err(|_| fault.unwrap_or(Fault::Syntax))?;
        Ok(all)
    }

    pub(super) fn text(&self) -> Result<String, Fault> {
        self.borrowed().map(Cow::into_owned)
    }

    /// A string. One with half of a surrogate pair is no text, and is refused: what it should
    /// have been cannot be known, and a replacement would change what the model is told.
    fn borrowed(&self) -> Result<Cow<'a, str>, Fault> {
        if !self.is_string() {
            return Err(self.mistyped("a string"));
        }
        decode(self.json).ok_or_else(|| {
            self.unfit("must be text, and has an escape that is half of a surrogate pair")
        })
    }

    pub(super) fn flag(&self) -> Result<bool, Fault> {
        match self.json.get() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.mistyped("true or false")),
        }
    }

    /// An object's JSON, as the client wrote it.
    pub(super) fn raw_object(&self) -> Result<String, Fault> {
        match self.is_object() {
            true => Ok(self.json.get().to_owned()),
            false => Err(self.mistyped("an object")),
        }
    }

    /// A number; one beyond 64-bit floats is infinite.
    fn number(&self) -> Result<f64, Fault> {
        let number = self.is_number().then(|| self.json.get().parse().ok());
        number.flatten().ok_or_else(|| self.mistyped("a number"))
    }

    /// A number between two, ends included.
    pub(super) fn between(&self, min: f64, max: f64) -> Result<f64, Fault> {
        let number = self.number()?;
        if (min..=max).contains(&number) {
            return Ok(number);
        }
        Err(self.outside(&format!("between {min} and {max}")))
    }

    /// That a number is beyond its range. Long ones are not repeated.
    fn outside(&self, range: &str) -> Fault {
        match self.json.get() {
            number if number.len() <= 24 => self.unfit(format!("must be {range}, and is {number}")),
            _ => self.unfit(format!("must be {range}")),
        }
    }

    /// A whole number between two, ends included. `2.0` and `2e0` are whole.
    pub(super) fn integer(&self, min: i64, max: i64) -> Result<i64, Fault> {
        let number = self.number()?;
        // Exact where it can be: 64-bit floats have 53 bits.
        let whole = match self.json.get().parse::<i64>() {
            Ok(whole) => whole,
            Err(_) if number.fract() != 0.0 => return Err(self.mistyped_integer()),
            #[expect(
                clippy::cast_possible_truncation,
                reason = "whole; saturates beyond 64 bits"
            )]
            Err(_) => number as i64,
        };
        match (min..=max).contains(&whole) {
            true => Ok(whole),
            false if max == i64::MAX => Err(self.outside(&format!("at least {min}"))),
            false => Err(self.outside(&format!("between {min} and {max}"))),
        }
    }

    fn mistyped_integer(&self) -> Fault {
        Fault::Type {
            param: self.param(),
            expected: "an integer",
            found: "a number with a fraction",
        }
    }

    /// A count of at least `min`; more than 32 bits read as the most that they hold.
    pub(super) fn count(&self, min: u32) -> Result<u32, Fault> {
        let count = self.integer(min.into(), i64::MAX)?;
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// A token's id.
    pub(super) fn token(&self) -> Result<u32, Fault> {
        let id = self.integer(0, u32::MAX.into())?;
        Ok(u32::try_from(id).expect("in range"))
    }

    /// A number in the range that the contract gives to `name`.
    pub(super) fn ranged(&self, name: &str) -> Result<f32, Fault> {
        let range = range(name);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "samplers compute with 32 bits"
        )]
        self.between(range.min, range.max)
            .map(|number| number as f32)
    }

    /// A whole number in the range that the contract gives to `name`.
    pub(super) fn ranged_integer(&self, name: &str) -> Result<i32, Fault> {
        let range = range(name);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "ranges of integers are whole and small"
        )]
        let whole = self.integer(range.min as i64, range.max as i64)?;
        Ok(i32::try_from(whole).expect("ranges of integers are within 32 bits"))
    }

    /// A whole number in the range that the contract gives to `name`, which has none below zero.
    pub(super) fn ranged_count(&self, name: &str) -> Result<u32, Fault> {
        Ok(self.ranged_integer(name)?.unsigned_abs())
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, Fault> {
        let said = self.borrowed()?;
        let found = words.iter().find(|(word, _)| *word == said);
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let known: Vec<_> = words.iter().map(|(word, _)| format!("'{word}'")).collect();
            self.unfit(format!("must be one of {}", known.join(", ")))
        })
    }
}

fn range(name: &str) -> Range {
    let range = RANGES.iter().find(|range| range.name == name);
    *range.expect("every ranged parameter is in the contract's list")
}

/// A JSON string's text; `None`: half of a surrogate pair is in it.
fn decode(json: &RawValue) -> Option<Cow<'_, str>> {
    let json = json.get();
    let inside = json.get(1..json.len() - 1)?;
    match memchr::memchr(b'\\', inside.as_bytes()) {
        None => Some(Cow::Borrowed(inside)),
        Some(_) => serde_json::from_str(json).ok().map(Cow::Owned),
    }
}

/// Reads an object without keeping it: a body of empty members or items would otherwise take
/// many times its size.
struct Members<'f, F> {
    take: F,
    /// Why `take` wanted no more; the deserializer's error cannot say.
    fault: &'f mut Option<Fault>,
}

impl<'de, F> Visitor<'de> for Members<'_, F>
where
    F: FnMut(Cow<'de, str>, &'de RawValue) -> Result<(), Fault>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            // A key that is no text is none that we know.
            let Some(key) = decode(key) else { continue };
            if let Err(fault) = (self.take)(key, value) {
                *self.fault = Some(fault);
                return Err(A::Error::custom("told apart"));
            }
        }
        Ok(())
    }
}

/// Reads an array without keeping it.
struct Items<'f, F> {
    take: F,
    fault: &'f mut Option<Fault>,
}

impl<'de, F> Visitor<'de> for Items<'_, F>
where
    F: FnMut(&'de RawValue) -> Result<(), Fault>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while let Some(item) = seq.next_element::<&RawValue>()? {
            if let Err(fault) = (self.take)(item) {
                *self.fault = Some(fault);
                return Err(A::Error::custom("told apart"));
            }
        }
        Ok(())
    }
}

/// An object.
pub(super) struct Object<'a, 'p> {
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
    path: Path<'p>,
}

impl<'a> Object<'a, '_> {
    /// The value of a key; null is none.
    pub(super) fn get<'s>(&'s self, name: &'s str) -> Option<Node<'a, 's>> {
        let (_, json) = self.members.iter().rfind(|(key, _)| key == name)?;
        let path = self.under(name);
        Some(Node { json, path }).filter(|node| !node.is_null())
    }

    fn under<'s>(&'s self, name: &'s str) -> Path<'s> {
        Path {
            above: Some(&self.path),
            step: Step::Key(name),
        }
    }

    /// The value of a key that must be there.
    pub(super) fn need<'s>(&'s self, name: &'s str) -> Result<Node<'a, 's>, Fault> {
        self.get(name).ok_or_else(|| self.missing(name))
    }

    pub(super) fn missing(&self, name: &str) -> Fault {
        Fault::Missing {
            param: self.under(name).to_string(),
        }
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Fault> {
        self.get(name).map(|node| node.text()).transpose()
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Fault> {
        self.get(name).map(|node| node.flag()).transpose()
    }

    pub(super) fn ranged(&self, name: &str) -> Result<Option<f32>, Fault> {
        self.get(name).map(|node| node.ranged(name)).transpose()
    }

    pub(super) fn ranged_integer(&self, name: &str) -> Result<Option<i32>, Fault> {
        let node = self.get(name);
        node.map(|node| node.ranged_integer(name)).transpose()
    }

    pub(super) fn ranged_count(&self, name: &str) -> Result<Option<u32>, Fault> {
        let node = self.get(name);
        node.map(|node| node.ranged_count(name)).transpose()
    }
}
