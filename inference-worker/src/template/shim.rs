//! The border to llama.cpp's C++: the only place of this crate that says `unsafe`.
//!
//! The C side is `shim/chat.h`. It keeps no reference to what it is given, catches every
//! exception and writes to no handle after it was made; so handles may be shared by threads.

#![expect(unsafe_code, reason = "llama.cpp's chat library speaks C++ only")]

// Links llama.cpp, whose functions the C side calls.
use llama_cpp_sys_2 as _;

use std::ffi::{c_char, c_int};
use std::ptr::{NonNull, null_mut};
use std::slice;
use std::sync::Once;

#[repr(C)]
#[derive(Clone, Copy)]
struct Text {
    data: *const c_char,
    size: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Answer {
    data: *mut c_char,
    size: usize,
    failed: c_int,
}

#[repr(C)]
struct RawTemplate {
    _opaque: [u8; 0],
}

#[repr(C)]
struct RawParser {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn bodhi_chat_silence();
    fn bodhi_template_new(
        source: Text,
        bos: Text,
        eos: Text,
        made: *mut *mut RawTemplate,
    ) -> Answer;
    fn bodhi_template_free(made: *mut RawTemplate);
    fn bodhi_template_render(
        with: *const RawTemplate,
        request: Text,
        made: *mut *mut RawParser,
    ) -> Answer;
    fn bodhi_parser_parse(with: *const RawParser, said: Text) -> Answer;
    fn bodhi_parser_free(made: *mut RawParser);
    fn bodhi_schema_to_grammar(schema: Text) -> Answer;
    fn bodhi_grammar_check(grammar: Text) -> Answer;
    fn bodhi_answer_free(answer: Answer);
}

/// A chat template that llama.cpp has read.
pub(super) struct Template(NonNull<RawTemplate>);

/// What reads the answers to one prompt.
pub(super) struct Parser(NonNull<RawParser>);

// SAFETY: the C side only reads a handle after it was made, and keeps nothing per thread.
unsafe impl Send for Template {}
// SAFETY: as above.
unsafe impl Sync for Template {}
// SAFETY: as above.
unsafe impl Send for Parser {}
// SAFETY: as above.
unsafe impl Sync for Parser {}

impl Template {
    /// Reads a template's source, given the texts of the model's BOS and EOS tokens.
    ///
    /// # Errors
    /// llama.cpp's words.
    pub(super) fn new(source: &str, bos: &str, eos: &str) -> Result<Self, String> {
        static SILENCE: Once = Once::new();
        let mut made = null_mut();
        // SAFETY: the texts live during the calls, and `made` is a place to write to. Once
        // keeps the global that is set from being written by two threads.
        let answer = unsafe {
            SILENCE.call_once(|| bodhi_chat_silence());
            bodhi_template_new(text(source), text(bos), text(eos), &raw mut made)
        };
        taken(answer)?;
        NonNull::new(made)
            .map(Self)
            .ok_or_else(|| "no template was made".into())
    }

    /// Renders a request, as JSON. The parser reads the answers to it.
    ///
    /// # Errors
    /// llama.cpp's words, or the template's (`raise_exception`).
    pub(super) fn render(&self, request: &str) -> Result<(String, Parser), String> {
        let mut made = null_mut();
        // SAFETY: the handle lives as long as `self`; the rest as in `new`.
        let answer =
            unsafe { bodhi_template_render(self.0.as_ptr(), text(request), &raw mut made) };
        let rendered = taken(answer)?;
        let parser = NonNull::new(made).ok_or("no parser was made")?;
        Ok((rendered, Parser(parser)))
    }
}

impl Parser {
    /// Parses what the model has said so far, as JSON.
    ///
    /// # Errors
    /// llama.cpp's words: the text is not of the syntax.
    pub(super) fn parse(&self, said: &str) -> Result<String, String> {
        // SAFETY: the handle lives as long as `self`, and the text during the call.
        taken(unsafe { bodhi_parser_parse(self.0.as_ptr(), text(said)) })
    }
}

/// The GBNF grammar of a JSON Schema.
///
/// # Errors
/// llama.cpp's words.
pub(super) fn schema_to_grammar(schema: &str) -> Result<String, String> {
    // SAFETY: the text lives during the call.
    taken(unsafe { bodhi_schema_to_grammar(text(schema)) })
}

/// Whether a GBNF grammar can be compiled.
///
/// # Errors
/// llama.cpp's words.
pub(super) fn check_grammar(grammar: &str) -> Result<(), String> {
    // SAFETY: the text lives during the call.
    taken(unsafe { bodhi_grammar_check(text(grammar)) }).map(drop)
}

impl Drop for Template {
    fn drop(&mut self) {
        // SAFETY: made by `bodhi_template_new`, freed once.
        unsafe { bodhi_template_free(self.0.as_ptr()) }
    }
}

impl Drop for Parser {
    fn drop(&mut self) {
        // SAFETY: made by `bodhi_template_render`, freed once.
        unsafe { bodhi_parser_free(self.0.as_ptr()) }
    }
}

fn text(text: &str) -> Text {
    Text {
        data: text.as_ptr().cast(),
        size: text.len(),
    }
}

/// Copies an answer and gives it back.
fn taken(answer: Answer) -> Result<String, String> {
    if answer.data.is_null() {
        return Err("out of memory".into());
    }
    // SAFETY: the C side made `size` bytes at `data`, which are freed after the copy, once.
    let copy = unsafe {
        let bytes = slice::from_raw_parts(answer.data.cast::<u8>(), answer.size);
        let copy = String::from_utf8_lossy(bytes).into_owned();
        bodhi_answer_free(answer);
        copy
    };
    if answer.failed == 0 {
        Ok(copy)
    } else {
        Err(copy)
    }
}
