//! Where in an object a field is, printed as an API server prints it.

use std::fmt;

/// A step into a JSON value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// Item of a list.
    Index(usize),
    /// Field of an object.
    Field(String),
}

/// Steps from an object's root to a field; prints as `spec.extraHeaders[0].name`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldPath(Vec<Segment>);

impl FieldPath {
    /// The object itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// The field `name` below this one.
    #[must_use]
    pub fn field(&self, name: impl Into<String>) -> Self {
        self.with(Segment::Field(name.into()))
    }

    /// The item `index` of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    /// The steps from the root.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// Reads the printed form back; fields whose names hold dots are not told apart.
    pub fn parse(text: &str) -> Self {
        let mut path = Vec::new();
        for part in text.split('.').filter(|p| !p.is_empty()) {
            let (name, indices) = part.split_once('[').unwrap_or((part, ""));
            if !name.is_empty() {
                path.push(Segment::Field(name.into()));
            }
            let indices = indices.split(['[', ']']);
            path.extend(indices.filter_map(|i| i.parse().ok()).map(Segment::Index));
        }
        Self(path)
    }

    fn with(&self, segment: Segment) -> Self {
        let mut path = self.0.clone();
        path.push(segment);
        Self(path)
    }
}

impl From<&jsonschema::paths::Location> for FieldPath {
    fn from(location: &jsonschema::paths::Location) -> Self {
        use jsonschema::paths::LocationSegment;
        let segments = location.iter().map(|segment| match segment {
            LocationSegment::Property(name) => Segment::Field(name.into_owned()),
            LocationSegment::Index(index) => Segment::Index(index),
        });
        Self(segments.collect())
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("(object)");
        }
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Field(name) => {
                    let plain = |c: char| c.is_alphanumeric() || "-_$".contains(c);
                    match (position, name.chars().all(plain) && !name.is_empty()) {
                        (0, true) => f.write_str(name)?,
                        (_, true) => write!(f, ".{name}")?,
                        (_, false) => write!(f, "[{name}]")?,
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_an_api_server_does_and_reads_back() {
        let path = FieldPath::root()
            .field("spec")
            .field("extraHeaders")
            .index(3)
            .field("name");
        assert_eq!(path.to_string(), "spec.extraHeaders[3].name");
        assert_eq!(FieldPath::parse("spec.extraHeaders[3].name"), path);
        assert_eq!(FieldPath::parse(""), FieldPath::root());
    }

    #[test]
    fn keys_with_dots_are_bracketed() {
        let path = FieldPath::root()
            .field("metadata")
            .field("annotations")
            .field("bodhi.dev/allowed-origins");
        assert_eq!(
            path.to_string(),
            "metadata.annotations[bodhi.dev/allowed-origins]"
        );
    }
}
