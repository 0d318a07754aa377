//! What no request may say, judged before anything is computed: a range that is overstepped
//! is the caller's mistake and is answered with the range.

use std::fmt::Display;

use bodhi_proto::chat::{
    Dry, Embedding, Fault, FaultCode, Generation, Prompt, RANGES, Reranking, Sampling, Text,
};

/// Most stop texts of a request.
const STOPS_MAX: usize = 32;
/// Longest stop text, in bytes.
const STOP_MAX: usize = 256;
/// Most biased tokens of a request.
const BIASES_MAX: usize = 1024;
/// Most sequence breakers of DRY, and the longest one in bytes.
const BREAKERS_MAX: usize = 64;
const BREAKER_MAX: usize = 64;
/// Most inputs of an embedding, as OpenAI has it.
const INPUTS_MAX: usize = 2048;
/// Most documents of a reranking.
const DOCUMENTS_MAX: usize = 2048;

/// A value that is wrong wherever it is sent.
fn invalid(param: &str, message: String) -> Fault {
    Fault::new(FaultCode::InvalidValue, message).of(param)
}

fn within(name: &str, value: impl Into<f64>) -> Result<(), Fault> {
    let value = value.into();
    judge(name, value, |end| end)
}

/// A number that was written in decimals and is kept in fewer bits, as the ends then have to be.
fn rounded_within(name: &str, value: f32) -> Result<(), Fault> {
    judge(name, value, |end| end as f32)
}

fn judge<N: PartialOrd + Display>(name: &str, value: N, end: fn(f64) -> N) -> Result<(), Fault> {
    let Some(range) = RANGES.iter().find(|range| range.name == name) else {
        return Ok(());
    };
    // What is no number is in no range.
    match value >= end(range.min) && value <= end(range.max) {
        true => Ok(()),
        false => {
            let (min, max) = (range.min, range.max);
            let message = format!("'{name}' must be between {min} and {max}; it is {value}");
            Err(invalid(name, message))
        }
    }
}

fn at_most(param: &str, what: &str, count: usize, max: usize) -> Result<(), Fault> {
    match count <= max {
        true => Ok(()),
        false => {
            let message = format!("'{param}' may have at most {max} {what}; it has {count}");
            Err(invalid(param, message))
        }
    }
}

fn token(param: &str, id: u32, vocabulary: u32) -> Result<(), Fault> {
    match id < vocabulary {
        true => Ok(()),
        false => {
            let message =
                format!("'{param}' holds token {id}; the model has {vocabulary} tokens, from 0 on");
            Err(invalid(param, message))
        }
    }
}

fn tokens(param: &str, text: &Text, vocabulary: u32) -> Result<(), Fault> {
    match text {
        Text::Plain(_) => Ok(()),
        Text::Tokens(ids) => ids.iter().try_for_each(|id| token(param, *id, vocabulary)),
    }
}

/// Everything of a request that does not depend on how long its prompt is.
///
/// # Errors
/// [`FaultCode::InvalidValue`], with the parameter and its range.
pub(super) fn generation(g: &Generation, vocabulary: u32) -> Result<(), Fault> {
    prompt(&g.prompt, vocabulary)?;
    sampling(&g.sampling, vocabulary)?;
    within("n", g.choices.get())?;
    g.logprobs.map_or(Ok(()), |k| within("top_logprobs", k))?;
    at_most("stop", "texts", g.stop.len(), STOPS_MAX)?;
    g.stop.iter().try_for_each(|stop| match stop.len() {
        1..=STOP_MAX => Ok(()),
        len => {
            let message = format!("texts in 'stop' must have 1 to {STOP_MAX} bytes; one has {len}");
            Err(invalid("stop", message))
        }
    })
}

/// A prompt that is to be counted or continued.
///
/// # Errors
/// [`FaultCode::InvalidValue`].
pub(super) fn prompt(prompt: &Prompt, vocabulary: u32) -> Result<(), Fault> {
    match prompt {
        Prompt::Raw(raw) => tokens("prompt", &raw.prompt, vocabulary),
        Prompt::Conversation(c) if c.messages.is_empty() => Err(invalid(
            "messages",
            "'messages' must not be empty".to_owned(),
        )),
        Prompt::Conversation(_) => Ok(()),
    }
}

/// Texts to be embedded.
///
/// # Errors
/// [`FaultCode::InvalidValue`].
pub(super) fn embedding(e: &Embedding, vocabulary: u32) -> Result<(), Fault> {
    at_most("input", "texts", e.inputs.len(), INPUTS_MAX)?;
    for input in &e.inputs {
        let empty = match input {
            Text::Plain(text) => text.is_empty(),
            Text::Tokens(ids) => ids.is_empty(),
        };
        if empty {
            return Err(invalid("input", "'input' must not be empty".to_owned()));
        }
        tokens("input", input, vocabulary)?;
    }
    match e.inputs.is_empty() {
        true => Err(invalid("input", "'input' must not be empty".to_owned())),
        false => Ok(()),
    }
}

/// Documents to be ordered.
///
/// # Errors
/// [`FaultCode::InvalidValue`].
pub(super) fn reranking(r: &Reranking) -> Result<(), Fault> {
    at_most("documents", "entries", r.documents.len(), DOCUMENTS_MAX)?;
    match r.documents.is_empty() {
        true => Err(invalid(
            "documents",
            "'documents' must not be empty".to_owned(),
        )),
        false => Ok(()),
    }
}

fn sampling(s: &Sampling, vocabulary: u32) -> Result<(), Fault> {
    let numbers = [
        ("temperature", s.temperature),
        ("dynatemp_range", s.dynatemp_range),
        ("dynatemp_exponent", s.dynatemp_exponent),
        ("top_p", s.top_p),
        ("min_p", s.min_p),
        ("typical_p", s.typical_p),
        ("top_n_sigma", s.top_n_sigma),
        ("presence_penalty", s.presence_penalty),
        ("frequency_penalty", s.frequency_penalty),
        ("repeat_penalty", s.repeat_penalty),
    ];
    for (name, value) in numbers {
        value.map_or(Ok(()), |value| rounded_within(name, value))?;
    }
    s.top_k.map_or(Ok(()), |k| within("top_k", k))?;
    s.repeat_last_n
        .map_or(Ok(()), |n| within("repeat_last_n", n))?;
    s.min_keep.map_or(Ok(()), |n| within("min_keep", n))?;
    s.dry.as_ref().map_or(Ok(()), dry)?;
    if let Some(xtc) = &s.xtc {
        rounded_within("xtc_probability", xtc.probability)?;
        rounded_within("xtc_threshold", xtc.threshold)?;
    }
    if let Some(mirostat) = &s.mirostat {
        within("mirostat", mirostat.version)?;
        rounded_within("mirostat_tau", mirostat.tau)?;
        rounded_within("mirostat_eta", mirostat.eta)?;
    }
    at_most("logit_bias", "tokens", s.logit_bias.len(), BIASES_MAX)?;
    s.logit_bias.iter().try_for_each(|(id, bias)| {
        token("logit_bias", *id, vocabulary)?;
        rounded_within("logit_bias", *bias)
    })
}

fn dry(dry: &Dry) -> Result<(), Fault> {
    rounded_within("dry_multiplier", dry.multiplier)?;
    rounded_within("dry_base", dry.base)?;
    within("dry_allowed_length", dry.allowed_length)?;
    within("dry_penalty_last_n", dry.penalty_last_n)?;
    let breakers = dry.sequence_breakers.as_deref().unwrap_or_default();
    let param = "dry_sequence_breakers";
    at_most(param, "texts", breakers.len(), BREAKERS_MAX)?;
    let longest = breakers.iter().map(String::len).max().unwrap_or(0);
    at_most(param, "bytes in a text", longest, BREAKER_MAX)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use bodhi_proto::chat::{Conversation, Message, Mirostat, Part, RawPrompt, Xtc};

    use super::*;

    const VOCABULARY: u32 = 100;

    fn plain() -> Generation {
        Generation::new(Prompt::Conversation(Conversation {
            messages: vec![Message::User {
                name: None,
                content: vec![Part::Text("hi".into())],
            }],
            ..Conversation::default()
        }))
    }

    #[test]
    fn every_parameter_is_held_to_its_range() {
        type Set = fn(&mut Generation, f64);
        let table: &[(&str, Set)] = &[
            ("temperature", |g, v| {
                g.sampling.temperature = Some(v as f32)
            }),
            ("dynatemp_range", |g, v| {
                g.sampling.dynatemp_range = Some(v as f32)
            }),
            ("dynatemp_exponent", |g, v| {
                g.sampling.dynatemp_exponent = Some(v as f32)
            }),
            ("top_p", |g, v| g.sampling.top_p = Some(v as f32)),
            ("top_k", |g, v| g.sampling.top_k = Some(v as u32)),
            ("min_p", |g, v| g.sampling.min_p = Some(v as f32)),
            ("typical_p", |g, v| g.sampling.typical_p = Some(v as f32)),
            ("top_n_sigma", |g, v| {
                g.sampling.top_n_sigma = Some(v as f32)
            }),
            ("presence_penalty", |g, v| {
                g.sampling.presence_penalty = Some(v as f32)
            }),
            ("frequency_penalty", |g, v| {
                g.sampling.frequency_penalty = Some(v as f32)
            }),
            ("repeat_penalty", |g, v| {
                g.sampling.repeat_penalty = Some(v as f32)
            }),
            ("repeat_last_n", |g, v| {
                g.sampling.repeat_last_n = Some(v as i32)
            }),
            ("dry_multiplier", |g, v| with_dry(g).multiplier = v as f32),
            ("dry_base", |g, v| with_dry(g).base = v as f32),
            ("dry_allowed_length", |g, v| {
                with_dry(g).allowed_length = v as u32
            }),
            ("dry_penalty_last_n", |g, v| {
                with_dry(g).penalty_last_n = v as i32
            }),
            ("xtc_probability", |g, v| xtc(g).probability = v as f32),
            ("xtc_threshold", |g, v| xtc(g).threshold = v as f32),
            ("mirostat", |g, v| mirostat(g).version = v as u8),
            ("mirostat_tau", |g, v| mirostat(g).tau = v as f32),
            ("mirostat_eta", |g, v| mirostat(g).eta = v as f32),
            ("min_keep", |g, v| g.sampling.min_keep = Some(v as u32)),
            ("logit_bias", |g, v| {
                g.sampling.logit_bias = vec![(1, v as f32)]
            }),
            ("n", |g, v| g.choices = NonZeroU32::new(v as u32).unwrap()),
            ("top_logprobs", |g, v| g.logprobs = Some(v as u32)),
        ];
        let names: Vec<_> = table.iter().map(|(name, _)| *name).collect();
        let all: Vec<_> = RANGES.iter().map(|range| range.name).collect();
        assert_eq!(names, all, "no range is forgotten");
        for ((name, set), range) in table.iter().zip(RANGES) {
            for inside in [range.min, range.max] {
                let mut g = plain();
                set(&mut g, inside);
                assert_eq!(generation(&g, VOCABULARY), Ok(()), "{name} {inside}");
            }
            let mut g = plain();
            set(&mut g, range.max + 1.0);
            let fault = generation(&g, VOCABULARY).unwrap_err();
            assert_eq!(fault.param.as_deref(), Some(*name));
            assert_eq!(fault.code, FaultCode::InvalidValue);
            let range = format!("between {} and {}", range.min, range.max);
            assert!(fault.message.contains(&range), "{fault}");
        }
    }

    fn with_dry(g: &mut Generation) -> &mut Dry {
        g.sampling.dry.get_or_insert(Dry {
            multiplier: 1.0,
            base: 1.75,
            allowed_length: 2,
            penalty_last_n: -1,
            sequence_breakers: None,
        })
    }

    fn xtc(g: &mut Generation) -> &mut Xtc {
        g.sampling.xtc.get_or_insert(Xtc {
            probability: 0.0,
            threshold: 0.1,
        })
    }

    fn mirostat(g: &mut Generation) -> &mut Mirostat {
        g.sampling.mirostat.get_or_insert(Mirostat {
            version: 2,
            tau: 5.0,
            eta: 0.1,
        })
    }

    #[test]
    fn what_is_no_number_is_in_no_range() {
        let mut g = plain();
        g.sampling.temperature = Some(f32::NAN);
        let fault = generation(&g, VOCABULARY).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some("temperature"));
    }

    #[test]
    fn lists_and_texts_are_bounded() {
        type Set = fn(&mut Generation);
        let cases: [(&str, Set); 6] = [
            ("stop", |g| g.stop = vec!["a".into(); STOPS_MAX + 1]),
            ("stop", |g| g.stop = vec![String::new()]),
            ("stop", |g| g.stop = vec!["a".repeat(STOP_MAX + 1)]),
            ("logit_bias", |g| {
                g.sampling.logit_bias = vec![(VOCABULARY, 0.0)]
            }),
            ("logit_bias", |g| {
                g.sampling.logit_bias = vec![(1, 0.0); BIASES_MAX + 1]
            }),
            ("dry_sequence_breakers", |g| {
                with_dry(g).sequence_breakers = Some(vec!["a".repeat(BREAKER_MAX + 1)]);
            }),
        ];
        for (param, set) in cases {
            let mut g = plain();
            set(&mut g);
            let fault = generation(&g, VOCABULARY).unwrap_err();
            assert_eq!(fault.param.as_deref(), Some(param), "{fault}");
        }
    }

    #[test]
    fn tokens_must_be_of_the_vocabulary() {
        let raw = |ids| {
            Prompt::Raw(RawPrompt {
                prompt: Text::Tokens(ids),
                suffix: None,
                echo: false,
            })
        };
        assert_eq!(prompt(&raw(vec![0, VOCABULARY - 1]), VOCABULARY), Ok(()));
        let fault = prompt(&raw(vec![0, VOCABULARY]), VOCABULARY).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some("prompt"));
        let embedded = Embedding {
            inputs: vec![Text::Tokens(vec![u32::MAX])],
            normalized: true,
        };
        let fault = embedding(&embedded, VOCABULARY).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some("input"));
    }

    #[test]
    fn nothing_to_do_is_a_mistake() {
        let empty = Embedding {
            inputs: vec![],
            normalized: true,
        };
        assert!(embedding(&empty, VOCABULARY).is_err());
        let blank = Embedding {
            inputs: vec![Text::Plain(String::new())],
            normalized: true,
        };
        assert!(embedding(&blank, VOCABULARY).is_err());
        let none = Reranking {
            query: "q".into(),
            documents: vec![],
        };
        assert!(reranking(&none).is_err());
        let silent = Prompt::Conversation(Conversation::default());
        assert!(prompt(&silent, VOCABULARY).is_err());
    }
}
