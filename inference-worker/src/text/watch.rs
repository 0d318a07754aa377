//! Finds texts in a stream, which may be cut within them.

use aho_corasick::AhoCorasick;

/// Watches for some texts.
#[derive(Debug)]
pub(super) struct Watch {
    texts: Vec<String>,
    search: AhoCorasick,
}

/// One of the texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Which.
    pub(super) text: usize,
    /// Where it begins.
    pub(super) start: usize,
}

impl Watch {
    /// Empty texts are passed over.
    pub(super) fn new(texts: &[String]) -> Self {
        let texts: Vec<String> = texts.iter().filter(|t| !t.is_empty()).cloned().collect();
        // Fails only beyond gigabytes of texts.
        let search = AhoCorasick::new(&texts).expect("stop texts and markers are few");
        Self { texts, search }
    }

    pub(super) fn text(&self, index: usize) -> &str {
        &self.texts[index]
    }

    /// The one that is complete first, as if the stream came byte by byte; of two that end
    /// together, the longer.
    pub(super) fn find(&self, stream: &str) -> Option<Found> {
        // aho-corasick's standard semantics: a match is reported as soon as it is seen.
        self.search.find(stream).map(|found| Found {
            text: found.pattern().as_usize(),
            start: found.start(),
        })
    }

    /// How many bytes at the end may be the beginning of one of the texts.
    pub(super) fn held(&self, stream: &str) -> usize {
        let longest_beginning = |text: &String| {
            (1..text.len().min(stream.len() + 1))
                .rev()
                .find(|len| stream.as_bytes().ends_with(&text.as_bytes()[..*len]))
        };
        self.texts
            .iter()
            .filter_map(longest_beginning)
            .max()
            .unwrap_or(0)
    }
}
