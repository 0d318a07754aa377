//! All files together: what each produced, who wins, and what changed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::manifest::{Found, Key, Reader};
use super::{FileProblem, Origin};

/// At most so many problems are kept.
pub(super) const PROBLEMS_MAX: usize = 200;

/// A file as it was read, or why it could not be.
pub(super) type Contents = Result<String, String>;

/// The files of a folder and the built-in documents.
#[derive(Default)]
pub(super) struct FileSet {
    files: BTreeMap<Origin, File>,
    /// The winners: one definition per object.
    effective: BTreeMap<Key, Found>,
}

#[derive(Default)]
struct File {
    contents: Option<Contents>,
    produced: BTreeMap<Key, Found>,
    problems: Vec<FileProblem>,
}

/// What became of a new reading.
#[derive(Default)]
pub(super) struct Outcome {
    /// New or changed objects.
    pub(super) applied: Vec<(Key, Found)>,
    /// Objects that no file defines any more, as they were.
    pub(super) deleted: Vec<(Key, Found)>,
    /// Everything that is wrong now, bounded.
    pub(super) problems: Vec<FileProblem>,
    /// `file: kind name` of objects that are none of ours, in files that changed.
    pub(super) ignored: Vec<String>,
    /// Whether each file could be read to its end: only then is what is missing deleted.
    pub(super) whole: bool,
}

impl FileSet {
    /// Takes the complete listing of files; reads the ones whose text changed.
    pub(super) fn update(
        &mut self,
        listing: BTreeMap<Origin, Contents>,
        reader: &Reader<'_>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        self.files.retain(|origin, _| listing.contains_key(origin));
        for (origin, contents) in listing {
            self.read(origin, contents, reader, &mut outcome);
        }
        self.settle(&mut outcome);
        outcome
    }

    /// Everything that is defined now.
    pub(super) fn effective(&self) -> impl Iterator<Item = (&Key, &Found)> {
        self.effective.iter()
    }

    fn read(
        &mut self,
        origin: Origin,
        contents: Contents,
        reader: &Reader<'_>,
        outcome: &mut Outcome,
    ) {
        let file = self.files.entry(origin.clone()).or_default();
        if file.contents.as_ref() == Some(&contents) {
            return;
        }
        match &contents {
            Err(message) => {
                file.problems = vec![FileProblem {
                    file: origin.to_string(),
                    line: None,
                    column: None,
                    object: None,
                    path: None,
                    message: message.clone(),
                }];
            }
            Ok(text) => {
                let effective = &self.effective;
                let old = |key: &Key| effective.get(key).map(|found| &found.judged);
                let parsed = reader.parse(&origin, text, &old);
                let ignored = parsed
                    .ignored
                    .iter()
                    .map(|what| format!("{origin}: {what}"));
                outcome.ignored.extend(ignored);
                let before = std::mem::replace(&mut file.produced, parsed.objects);
                if !parsed.problems.is_empty() {
                    // The file is being worked on: what it produced last stays, unless it
                    // says something else about the same object.
                    for (key, found) in before {
                        file.produced.entry(key).or_insert(found);
                    }
                }
                file.problems = parsed.problems;
            }
        }
        file.contents = Some(contents);
    }

    /// Finds the winners, and what differs from the last ones.
    fn settle(&mut self, outcome: &mut Outcome) {
        let mut winners: BTreeMap<&Key, (&Origin, &Found)> = BTreeMap::new();
        for (origin, file) in &self.files {
            outcome.problems.extend(file.problems.iter().cloned());
            for (key, found) in &file.produced {
                match winners.get(key) {
                    // A file takes the place of a built-in document on purpose.
                    Some(_) if origin.is_built_in() => {}
                    Some((first, at)) => outcome.problems.push(FileProblem {
                        file: origin.to_string(),
                        line: Some(found.line),
                        column: None,
                        object: Some(key.to_string()),
                        path: None,
                        message: format!("is already defined in {first}, line {}", at.line),
                    }),
                    None => {
                        winners.insert(key, (origin, found));
                    }
                }
            }
        }
        outcome.whole = self.files.values().all(|file| file.problems.is_empty());
        outcome.problems.truncate(PROBLEMS_MAX);
        let effective: BTreeMap<Key, Found> = winners
            .into_iter()
            .map(|(key, (_, found))| (key.clone(), found.clone()))
            .collect();
        for (key, found) in &effective {
            let same = |old: &Found| old.object == found.object;
            if !self.effective.get(key).is_some_and(same) {
                outcome.applied.push((key.clone(), found.clone()));
            }
        }
        for (key, found) in std::mem::take(&mut self.effective) {
            if !effective.contains_key(&key) {
                outcome.deleted.push((key, found));
            }
        }
        self.effective = effective;
    }
}

/// The problems that are in `now` and were not in `before`, each to be logged once.
pub(super) fn fresh<'p>(
    before: &[FileProblem],
    now: &'p [FileProblem],
) -> impl Iterator<Item = &'p FileProblem> {
    let before: BTreeSet<String> = before.iter().map(ToString::to_string).collect();
    now.iter().filter(move |p| !before.contains(&p.to_string()))
}
