//! Stop texts: an answer ends before the first of them.

use super::watch::Watch;

/// Passes text on up to a stop text, wherever pieces are cut.
#[derive(Debug)]
pub struct Stop {
    watch: Watch,
    /// What may be the beginning of a stop text.
    held: String,
    hit: Option<usize>,
}

impl Stop {
    /// Stops at any of these; empty ones are passed over.
    pub fn new(stops: &[String]) -> Self {
        Self {
            watch: Watch::new(stops),
            held: String::new(),
            hit: None,
        }
    }

    /// What of the text so far can be passed on. Nothing, after a stop text.
    pub fn push(&mut self, text: &str) -> String {
        if self.hit.is_some() {
            return String::new();
        }
        self.held.push_str(text);
        if let Some(found) = self.watch.find(&self.held) {
            self.hit = Some(found.text);
            let mut passed = std::mem::take(&mut self.held);
            passed.truncate(found.start);
            return passed;
        }
        let held = self.held.len() - self.watch.held(&self.held);
        self.held.drain(..held).collect()
    }

    /// What was held back, once nothing more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The stop text that came.
    pub fn hit(&self) -> Option<&str> {
        self.hit.map(|index| self.watch.text(index))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stop(stops: &[&str]) -> Stop {
        Stop::new(&stops.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    fn passed(stops: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let mut stop = stop(stops);
        let mut passed: String = pieces.iter().map(|piece| stop.push(piece)).collect();
        passed += &stop.finish();
        (passed, stop.hit().map(str::to_owned))
    }

    #[test]
    fn removes_the_stop_text_and_what_follows() {
        assert_eq!(
            passed(&["END"], &["one E", "N", "D two", " three"]),
            ("one ".into(), Some("END".into()))
        );
    }

    #[test]
    fn passes_on_what_was_held_in_vain() {
        let mut stop = stop(&["END"]);
        assert_eq!(stop.push("the EN"), "the ");
        assert_eq!(stop.push("ergy"), "ENergy");
        assert_eq!(stop.push("E"), "");
        assert_eq!(stop.finish(), "E");
        assert_eq!(stop.hit(), None);
    }

    #[test]
    fn stops_at_the_text_that_is_complete_first() {
        assert_eq!(
            passed(&["abc", "b"], &["xabc"]),
            ("xa".into(), Some("b".into()))
        );
        assert_eq!(
            passed(&["abab", "ba"], &["aba"]),
            ("a".into(), Some("ba".into()))
        );
    }

    #[test]
    fn passes_over_empty_stop_texts() {
        assert_eq!(passed(&[""], &["abc"]), ("abc".into(), None));
    }

    proptest! {
        #[test]
        fn does_not_depend_on_how_text_is_cut(
            stops in prop::collection::vec("[abé]{1,4}", 1..4),
            pieces in prop::collection::vec("[abé]{0,4}", 0..8),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = pieces.concat();
            let cut = passed(&stops, &pieces);
            prop_assert_eq!(&cut, &passed(&stops, &[&whole]));
            prop_assert!(whole.starts_with(&cut.0));
            prop_assert!(stops.iter().all(|stop| !cut.0.contains(stop)));
        }
    }
}
