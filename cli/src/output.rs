//! What commands answer, for people and for programs.

use serde_json::Value;

/// The two forms of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// Text for people
    Table,
    /// JSON for programs
    Json,
}

/// What a command found out.
#[derive(Debug)]
pub(crate) struct Answer {
    /// For programs.
    pub(crate) json: Value,
    /// For people, ending in a line feed unless empty.
    pub(crate) text: String,
    /// Whether it is good news; else the exit status is 1.
    pub(crate) succeeded: bool,
}

impl Answer {
    /// Good news in both forms.
    pub(crate) fn new(json: Value, text: impl Into<String>) -> Self {
        Self {
            json,
            text: text.into(),
            succeeded: true,
        }
    }

    /// The bytes to print.
    pub(crate) fn render(&self, form: Output) -> String {
        match form {
            Output::Table => self.text.clone(),
            Output::Json => format!("{:#}\n", self.json),
        }
    }
}

/// Prints a failure with its causes on stderr, in the form asked for.
pub(crate) fn report(error: &anyhow::Error, form: Output) {
    let message = sentence(error);
    match form {
        Output::Table => eprintln!("error: {}", printable_lines(&message)),
        Output::Json => eprintln!("{:#}", serde_json::json!({"error": {"message": message}})),
    }
}

/// An error and its causes in one line. Some errors repeat their cause: said once is enough.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.ends_with(&cause) {
            let joint = if text.is_empty() { "" } else { ": " };
            text.push_str(joint);
            text.push_str(&cause);
        }
    }
    text
}

/// Rows under headings, columns as wide as their widest cell; the last one is not padded.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = headings.iter().map(|h| (*h).to_owned()).collect();
    let cells: Vec<Vec<String>> = std::iter::once(&head)
        .chain(rows)
        .map(|row| row.iter().map(|cell| printable(cell)).collect())
        .collect();
    let width = |column: usize| {
        let lengths = cells.iter().filter_map(|row| row.get(column));
        lengths.map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    for row in &cells {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}   "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Text from elsewhere may hold escape sequences that would drive the terminal: control
/// characters are shown, not sent.
pub(crate) fn printable(text: &str) -> String {
    escape_controls(text, |_| false)
}

/// [`printable`], but line feeds stay.
pub(crate) fn printable_lines(text: &str) -> String {
    escape_controls(text, |c| c == '\n')
}

fn escape_controls(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && !keep(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_blanks() {
        let rows = [
            vec!["a".into(), "long name".into()],
            vec!["bcd".into(), String::new()],
        ];
        assert_eq!(
            table(&["ID", "NAME"], &rows),
            "ID    NAME\na     long name\nbcd\n"
        );
    }

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::anyhow!("in use")
            .context("cannot listen: in use")
            .context("up");
        assert_eq!(sentence(&error), "up: cannot listen: in use");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(printable_lines("a\nb\r"), "a\nb\\r");
    }
}
