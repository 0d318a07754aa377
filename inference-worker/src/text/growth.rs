//! A text that grows, and how much of it the client has.

use bodhi_proto::chat::Event;

/// Told in pieces. Space at the end is held back: parsers trim it when something else follows,
/// and what was told cannot be taken back.
#[derive(Debug, Default)]
pub(super) struct Growth {
    text: String,
    told: usize,
}

impl Growth {
    /// A text that the client has.
    pub(super) fn told(text: String) -> Self {
        Self {
            told: text.len(),
            text,
        }
    }

    /// The whole text as it is known now. One that takes back what was told is passed over.
    pub(super) fn set(&mut self, text: String) {
        if text.starts_with(self.so_far()) {
            self.text = text;
        }
    }

    pub(super) fn append(&mut self, more: &str) {
        self.text.push_str(more);
    }

    /// Bytes told.
    pub(super) fn count(&self) -> usize {
        self.told
    }

    /// Bytes known, but not told.
    pub(super) fn held(&self) -> usize {
        self.text.len() - self.told
    }

    pub(super) fn forget_held(&mut self) {
        self.text.truncate(self.told);
    }

    pub(super) fn so_far(&self) -> &str {
        &self.text[..self.told]
    }

    /// Tells what is new, but for space at the end.
    pub(super) fn tell(&mut self, events: &mut Vec<Event>, event: impl FnOnce(String) -> Event) {
        let end = self.told + self.text[self.told..].trim_end().len();
        self.tell_up_to(end, events, event);
    }

    /// Tells all that is new.
    pub(super) fn end(&mut self, events: &mut Vec<Event>, event: impl FnOnce(String) -> Event) {
        self.tell_up_to(self.text.len(), events, event);
    }

    fn tell_up_to(
        &mut self,
        end: usize,
        events: &mut Vec<Event>,
        event: impl FnOnce(String) -> Event,
    ) {
        if end > self.told {
            events.push(event(self.text[self.told..end].to_owned()));
            self.told = end;
        }
    }
}
