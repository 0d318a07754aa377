//! What data planes say about what they were sent.

use bodhi_proto::sync::{Mark, Rejection, Revision, Source};

/// All connected data planes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Acks {
    /// In order of their names.
    pub planes: Vec<Plane>,
}

/// One connected data plane.
#[derive(Debug, Clone, PartialEq)]
pub struct Plane {
    /// Its own name.
    pub node: String,
    /// What it contains of each source, by its last acknowledgement.
    pub mark: Mark,
    /// What it contains of this controller's [`Published::edition`]s; `None` for one that has
    /// acknowledged nothing to it.
    ///
    /// [`Published::edition`]: super::Published::edition
    pub edition: Option<u64>,
    /// What it does not accept.
    pub rejections: Vec<Rejection>,
    /// How often it held something else than it had been sent.
    pub divergences: u64,
}

impl Acks {
    /// How many data planes contain `source` up to `revision`.
    pub fn containing(&self, source: Source, revision: Revision) -> usize {
        let contains = |plane: &&Plane| plane.mark.at(source) >= Some(revision);
        self.planes.iter().filter(contains).count()
    }

    /// How many data planes contain what was published as `edition`, when objects were read up to
    /// `objects`: one that has its configuration from another controller is known by its mark only.
    pub fn holding(&self, edition: u64, objects: Revision) -> usize {
        let holds = |plane: &&Plane| match plane.edition {
            Some(held) => held >= edition,
            None => plane.mark.at(Source::Objects) >= Some(objects),
        };
        self.planes.iter().filter(holds).count()
    }

    /// Every rejection, with the data plane that says so.
    pub fn rejections(&self) -> impl Iterator<Item = (&str, &Rejection)> {
        let planes = self.planes.iter();
        planes.flat_map(|plane| plane.rejections.iter().map(|r| (&*plane.node, r)))
    }
}

/// How far a revocation has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The data planes that refuse the token.
    pub applied: Vec<String>,
    /// Those that have not said so yet.
    pub pending: Vec<String>,
}
