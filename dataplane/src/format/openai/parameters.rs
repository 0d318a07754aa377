//! Parameters of generation, OpenAI's and those that llama.cpp adds
//! (<https://platform.openai.com/docs/api-reference/chat/create>,
//! <https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md>).
//! Unknown ones are ignored, as both do.

use std::num::NonZeroU32;

use bodhi_proto::chat::{Dry, Generation, Mirostat, OutputFormat, Prompt, Sampling, Text, Xtc};

use super::Delivery;
use crate::format::Fault;
use crate::format::read::{Node, Object};

/// Most `stop` texts. OpenAI takes 4, llama.cpp any number; each is searched for in each answer.
const MAX_STOPS: usize = 16;

/// A request for output with what both endpoints say alike. Output limit and logprobs, which
/// they spell differently, are the caller's.
pub(in crate::format) fn generation(
    body: &Object<'_, '_>,
    prompt: Prompt,
) -> Result<Generation, Fault> {
    let n = body.ranged_count("n")?.and_then(NonZeroU32::new);
    Ok(Generation {
        output: output(body)?,
        sampling: sampling(body)?,
        stop: stop(body)?,
        choices: n.unwrap_or(NonZeroU32::MIN),
        ..Generation::new(prompt)
    })
}

/// `stream` and its options, which say nothing where there is no stream.
pub(in crate::format) fn delivery(body: &Object<'_, '_>) -> Result<Delivery, Fault> {
    let stream = body.flag("stream")?.unwrap_or(false);
    let options = body.get("stream_options").map(|options| options.object());
    let include_usage = match options.transpose()? {
        Some(options) => options.flag("include_usage")?.unwrap_or(false),
        None => false,
    };
    Ok(Delivery {
        stream,
        include_usage: include_usage && stream,
        ..Delivery::default()
    })
}

fn stop(body: &Object<'_, '_>) -> Result<Vec<String>, Fault> {
    let Some(stop) = body.get("stop") else {
        return Ok(Vec::new());
    };
    if stop.is_string() {
        return Ok(Vec::from_iter(
            Some(stop.text()?).filter(|text| !text.is_empty()),
        ));
    }
    let mut left = MAX_STOPS;
    let mut stops = stop.each_of("a string or an array of strings", |item| {
        let most = || stop.unfit(format!("must have at most {MAX_STOPS} texts"));
        left = left.checked_sub(1).ok_or_else(most)?;
        item.text()
    })?;
    // Everything ends with nothing: llama.cpp passes empty ones over, too.
    stops.retain(|text| !text.is_empty());
    Ok(stops)
}

/// `response_format`, `json_schema`, `grammar`: one of them at most.
fn output(body: &Object<'_, '_>) -> Result<OutputFormat, Fault> {
    let mut output = match body.get("response_format") {
        Some(format) => response_format(format)?,
        None => OutputFormat::Text,
    };
    let mut constrain = |node: &Node<'_, '_>, to: OutputFormat| match output {
        OutputFormat::Text => {
            output = to;
            Ok(())
        }
        _ => Err(node.unfit("cannot be combined with another constraint of the output")),
    };
    if let Some(schema) = body.get("json_schema") {
        let to = OutputFormat::JsonSchema {
            name: None,
            schema: schema.raw_object()?,
        };
        constrain(&schema, to)?;
    }
    if let Some(grammar) = body.get("grammar") {
        // Empty is none in llama.cpp, whose own clients send it.
        let text = grammar.text()?;
        if !text.is_empty() {
            constrain(&grammar, OutputFormat::Grammar(text))?;
        }
    }
    Ok(output)
}

#[derive(Clone, Copy)]
enum Format {
    Text,
    Object,
    Schema,
}

fn response_format(format: Node<'_, '_>) -> Result<OutputFormat, Fault> {
    let format = format.object()?;
    let kind = format.need("type")?.word(&[
        ("text", Format::Text),
        ("json_object", Format::Object),
        ("json_schema", Format::Schema),
    ])?;
    match kind {
        Format::Text => Ok(OutputFormat::Text),
        // With a schema: llama.cpp's.
        Format::Object => Ok(match format.get("schema") {
            Some(schema) => OutputFormat::JsonSchema {
                name: None,
                schema: schema.raw_object()?,
            },
            None => OutputFormat::JsonObject,
        }),
        Format::Schema => {
            let wrapped = format.need("json_schema")?.object()?;
            let name = wrapped.text("name")?;
            Ok(match wrapped.get("schema") {
                Some(schema) => OutputFormat::JsonSchema {
                    name,
                    schema: schema.raw_object()?,
                },
                None => OutputFormat::JsonObject,
            })
        }
    }
}

fn sampling(body: &Object<'_, '_>) -> Result<Sampling, Fault> {
    Ok(Sampling {
        temperature: body.ranged("temperature")?,
        dynatemp_range: body.ranged("dynatemp_range")?,
        dynatemp_exponent: body.ranged("dynatemp_exponent")?,
        top_p: body.ranged("top_p")?,
        top_k: body.ranged_count("top_k")?,
        min_p: body.ranged("min_p")?,
        typical_p: body.ranged("typical_p")?,
        top_n_sigma: body.ranged("top_n_sigma")?,
        presence_penalty: body.ranged("presence_penalty")?,
        frequency_penalty: body.ranged("frequency_penalty")?,
        repeat_penalty: body.ranged("repeat_penalty")?,
        repeat_last_n: body.ranged_integer("repeat_last_n")?,
        dry: dry(body)?,
        xtc: xtc(body)?,
        mirostat: mirostat(body)?,
        seed: seed(body)?,
        logit_bias: logit_bias(body)?,
        ignore_eos: body.flag("ignore_eos")?.unwrap_or(false),
        min_keep: body.ranged_count("min_keep")?,
    })
}

/// Nothing without a multiplier; the rest is llama.cpp's default.
fn dry(body: &Object<'_, '_>) -> Result<Option<Dry>, Fault> {
    let multiplier = body.ranged("dry_multiplier")?;
    let base = body.ranged("dry_base")?.unwrap_or(1.75);
    let allowed_length = body.ranged_count("dry_allowed_length")?.unwrap_or(2);
    let penalty_last_n = body.ranged_integer("dry_penalty_last_n")?.unwrap_or(-1);
    let breakers = body.get("dry_sequence_breakers");
    let breakers = breakers.map(|breakers| breakers.each(|item| item.text()));
    let sequence_breakers = breakers.transpose()?;
    Ok(multiplier.map(|multiplier| Dry {
        multiplier,
        base,
        allowed_length,
        penalty_last_n,
        sequence_breakers,
    }))
}

fn xtc(body: &Object<'_, '_>) -> Result<Option<Xtc>, Fault> {
    let probability = body.ranged("xtc_probability")?;
    let threshold = body.ranged("xtc_threshold")?.unwrap_or(0.1);
    Ok(probability.map(|probability| Xtc {
        probability,
        threshold,
    }))
}

fn mirostat(body: &Object<'_, '_>) -> Result<Option<Mirostat>, Fault> {
    let version = body.ranged_count("mirostat")?.unwrap_or(0);
    let tau = body.ranged("mirostat_tau")?.unwrap_or(5.0);
    let eta = body.ranged("mirostat_eta")?.unwrap_or(0.1);
    let version = u8::try_from(version).ok().filter(|version| *version > 0);
    Ok(version.map(|version| Mirostat { version, tau, eta }))
}

/// OpenAI's seeds have 64 bits, samplers' 32: the halves are folded. -1 is llama.cpp's word for
/// a seed of its own choice.
fn seed(body: &Object<'_, '_>) -> Result<Option<u32>, Fault> {
    let Some(seed) = body.get("seed") else {
        return Ok(None);
    };
    let seed = seed.integer(i64::MIN, i64::MAX)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bits are folded"
    )]
    let folded = (seed ^ seed >> 32) as u32;
    Ok((seed != -1).then_some(folded))
}

/// An object of biases by token id.
fn logit_bias(body: &Object<'_, '_>) -> Result<Vec<(u32, f32)>, Fault> {
    let Some(node) = body.get("logit_bias") else {
        return Ok(Vec::new());
    };
    node.each_member(|token, bias| {
        let token = token
            .parse()
            .map_err(|_| node.unfit("must have token ids as keys, which are integers from 0 on"))?;
        Ok((token, bias.ranged("logit_bias")?))
    })
}

/// What OpenAI's `prompt` and `input` are: a string, strings, tokens, or several lists of
/// tokens. From 1 to `most` texts.
pub(in crate::format) fn texts(node: &Node<'_, '_>, most: usize) -> Result<Vec<Text>, Fault> {
    if node.is_string() {
        return Ok(vec![Text::Plain(node.text()?)]);
    }
    let expected = "a string, an array of strings, or arrays of token ids";
    let (mut texts, mut tokens) = (Vec::new(), Vec::new());
    node.each_of(expected, |item| {
        if texts.len() == most {
            return Err(node.unfit(format!("must have at most {most} texts")));
        }
        match texts.is_empty() && (item.is_number() || !tokens.is_empty()) {
            true => tokens.push(item.token()?),
            false if item.is_array() => texts.push(Text::Tokens(some_tokens(&item)?)),
            false => texts.push(Text::Plain(item.text()?)),
        }
        Ok(())
    })?;
    if !tokens.is_empty() {
        texts.push(Text::Tokens(tokens));
    }
    match texts.is_empty() {
        true => Err(node.unfit("must not be empty")),
        false => Ok(texts),
    }
}

fn some_tokens(node: &Node<'_, '_>) -> Result<Vec<u32>, Fault> {
    let tokens = node.each(|token| token.token())?;
    match tokens.is_empty() {
        true => Err(node.unfit("must not be empty")),
        false => Ok(tokens),
    }
}

#[cfg(test)]
mod tests {
    use bodhi_proto::chat::RawPrompt;
    use bodhi_proto::chat::Text;

    use super::*;
    use crate::format::read;

    fn read(json: &str) -> Result<Generation, Fault> {
        let prompt = Prompt::Raw(RawPrompt {
            prompt: Text::Plain(String::new()),
            suffix: None,
            echo: false,
        });
        generation(&read::body(json.as_bytes())?, prompt)
    }

    fn sampled(json: &str) -> Sampling {
        read(json).unwrap().sampling
    }

    #[test]
    fn every_range_of_the_contract_is_kept() {
        for range in bodhi_proto::chat::RANGES {
            // These two are read by the endpoints, and by key.
            if ["top_logprobs", "logit_bias"].contains(&range.name) {
                continue;
            }
            for good in [range.min, range.max] {
                let json = format!(r#"{{"{}":{good}}}"#, range.name);
                assert!(read(&json).is_ok(), "{json}");
            }
            for bad in [range.min - 1.0, range.max + 1.0, 1e300] {
                let json = format!(r#"{{"{}":{bad}}}"#, range.name);
                let fault = read(&json).unwrap_err();
                assert_eq!(fault.param(), Some(range.name));
                let named = format!("between {} and {}", range.min, range.max);
                assert!(fault.to_string().contains(&named), "{fault}");
            }
        }
    }

    #[test]
    fn numbers_may_be_spelled_in_any_way_json_has() {
        let sampling = sampled(r#"{"temperature":7e-1,"top_k":4e1,"min_keep":2.0}"#);
        assert_eq!(sampling.temperature, Some(0.7));
        assert_eq!(sampling.top_k, Some(40));
        assert_eq!(sampling.min_keep, Some(2));
        let fault = read(r#"{"top_k":1.5}"#).unwrap_err();
        assert_eq!(
            fault.to_string(),
            "'top_k' must be an integer, and is a number with a fraction"
        );
        for json in [
            r#"{"temperature":1e999}"#,
            r#"{"top_k":99999999999999999999999999}"#,
        ] {
            assert_eq!(read(json).unwrap_err().code(), "invalid_value");
        }
    }

    #[test]
    fn a_seed_of_any_size_is_one_and_the_same_seed() {
        assert_eq!(sampled(r#"{"seed":7}"#).seed, Some(7));
        assert_eq!(sampled(r#"{"seed":-1}"#).seed, None);
        let large = sampled(r#"{"seed":1311768467463790320}"#).seed;
        assert_eq!(large, Some(0x1234_5678 ^ 0x9abc_def0));
        assert!(read(r#"{"seed":0.5}"#).is_err());
    }

    #[test]
    fn groups_are_complete_with_their_defaults() {
        let sampling = sampled(
            r#"{"dry_multiplier":0.8,"dry_sequence_breakers":["\n"],"xtc_probability":0.5,"mirostat":2}"#,
        );
        insta::assert_debug_snapshot!((sampling.dry, sampling.xtc, sampling.mirostat));
        let off = sampled(r#"{"dry_base":2,"xtc_threshold":0.2,"mirostat":0}"#);
        assert_eq!(off, Sampling::default());
    }

    #[test]
    fn biases_are_by_token() {
        let sampling = sampled(r#"{"logit_bias":{"50256":-100,"0":1.5}}"#);
        assert_eq!(sampling.logit_bias, [(50256, -100.0), (0, 1.5)]);
        let fault = read(r#"{"logit_bias":{"7":101}}"#).unwrap_err();
        assert_eq!(fault.param(), Some("logit_bias.7"));
        let fault = read(r#"{"logit_bias":{"x":1}}"#).unwrap_err();
        assert_eq!(fault.param(), Some("logit_bias"));
    }

    #[test]
    fn stops_are_one_or_some() {
        assert_eq!(read(r#"{"stop":"a"}"#).unwrap().stop, ["a"]);
        assert_eq!(read(r#"{"stop":["a","","b"]}"#).unwrap().stop, ["a", "b"]);
        assert!(read(r#"{"stop":""}"#).unwrap().stop.is_empty());
        assert!(read(r#"{"stop":null}"#).unwrap().stop.is_empty());
        let many = format!(r#"{{"stop":{:?}}}"#, ["x"; 17]);
        assert_eq!(read(&many).unwrap_err().param(), Some("stop"));
        let fault = read(r#"{"stop":["a",1]}"#).unwrap_err();
        assert_eq!(
            fault.to_string(),
            "'stop[1]' must be a string, and is a number"
        );
    }

    #[test]
    fn the_output_is_constrained_once() {
        let output = |json| read(json).unwrap().output;
        let schema = |schema: &str| OutputFormat::JsonSchema {
            name: None,
            schema: schema.to_owned(),
        };
        assert_eq!(
            output(r#"{"json_schema":{"b":1.0, "a":2}}"#),
            schema(r#"{"b":1.0, "a":2}"#)
        );
        assert_eq!(
            output(r#"{"response_format":{"type":"json_object","schema":{}}}"#),
            schema("{}")
        );
        assert_eq!(
            output(r#"{"grammar":"root ::= x"}"#),
            OutputFormat::Grammar("root ::= x".into())
        );
        assert_eq!(output(r#"{"grammar":""}"#), OutputFormat::Text);
        let both = r#"{"grammar":"root ::= x","response_format":{"type":"json_object"}}"#;
        assert_eq!(read(both).unwrap_err().param(), Some("grammar"));
        let fault = read(r#"{"response_format":{"type":"xml"}}"#).unwrap_err();
        assert_eq!(fault.param(), Some("response_format.type"));
        assert!(fault.to_string().contains("'json_schema'"));
        let fault = read(r#"{"response_format":{"type":"json_schema"}}"#).unwrap_err();
        assert_eq!(
            fault.to_string(),
            "'response_format.json_schema' is missing"
        );
    }
}
