//! Every conversation and every answer comes back from the wire as it was, and what this
//! release does not know is refused by its field.

#![expect(clippy::unwrap_used, reason = "what cannot go on fails the test")]

use std::num::NonZeroU32;

use bodhi_proto::chat::*;
use bodhi_proto::wire::inference as pb;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use prost::Message as _;

fn words() -> impl Strategy<Value = String> {
    "\\PC{0,12}"
}

/// NaN is not equal to itself; which numbers are let in is the backend's to judge.
fn number() -> impl Strategy<Value = f32> {
    any::<f32>().prop_filter("not a number", |n| !n.is_nan())
}

fn text() -> impl Strategy<Value = Text> {
    prop_oneof![
        words().prop_map(Text::Plain),
        vec(any::<u32>(), 0..4).prop_map(Text::Tokens),
    ]
}

fn part() -> impl Strategy<Value = Part> {
    let inline = (words(), vec(any::<u8>(), 0..9)).prop_map(|(media_type, data)| {
        let data = data.into();
        Part::Image(Media::Inline { media_type, data })
    });
    prop_oneof![
        words().prop_map(Part::Text),
        words().prop_map(|url| Part::Image(Media::Url(url))),
        inline,
    ]
}

fn assistant_part() -> impl Strategy<Value = AssistantPart> {
    prop_oneof![
        words().prop_map(AssistantPart::Text),
        words().prop_map(AssistantPart::Refusal),
        (words(), option::of(words()))
            .prop_map(|(text, signature)| AssistantPart::Reasoning { text, signature }),
        (words(), words(), words()).prop_map(|(id, name, arguments)| {
            AssistantPart::ToolCall(ToolCall {
                id,
                name,
                arguments,
            })
        }),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let parts = || vec(part(), 0..3);
    prop_oneof![
        parts().prop_map(Message::System),
        (option::of(words()), parts()).prop_map(|(name, content)| Message::User { name, content }),
        vec(assistant_part(), 0..3).prop_map(Message::Assistant),
        (words(), option::of(words()), parts(), any::<bool>()).prop_map(
            |(call, name, content, failed)| Message::Tool {
                call,
                name,
                content,
                failed,
            }
        ),
    ]
}

fn tool() -> impl Strategy<Value = Tool> {
    (
        words(),
        option::of(words()),
        option::of(words()),
        any::<bool>(),
    )
        .prop_map(|(name, description, parameters, strict)| Tool {
            name,
            description,
            parameters,
            strict,
        })
}

fn tool_choice() -> impl Strategy<Value = ToolChoice> {
    prop_oneof![
        Just(ToolChoice::Auto),
        Just(ToolChoice::None),
        Just(ToolChoice::Required),
        words().prop_map(ToolChoice::Named),
    ]
}

fn reasoning() -> impl Strategy<Value = Reasoning> {
    let effort = select(vec![
        Effort::Minimal,
        Effort::Low,
        Effort::Medium,
        Effort::High,
    ]);
    prop_oneof![
        Just(Reasoning::Default),
        Just(Reasoning::Off),
        effort.prop_map(Reasoning::Effort),
        any::<u32>().prop_map(Reasoning::Budget),
    ]
}

fn conversation() -> impl Strategy<Value = Conversation> {
    (
        vec(message(), 0..4),
        vec(tool(), 0..3),
        tool_choice(),
        option::of(any::<bool>()),
        reasoning(),
        option::of(words()),
    )
        .prop_map(
            |(messages, tools, tool_choice, parallel, reasoning, arguments)| Conversation {
                messages,
                tools,
                tool_choice,
                parallel_tool_calls: parallel,
                reasoning,
                template_arguments: arguments,
            },
        )
}

fn prompt() -> impl Strategy<Value = Prompt> {
    let raw = (text(), option::of(words()), any::<bool>()).prop_map(|(prompt, suffix, echo)| {
        Prompt::Raw(RawPrompt {
            prompt,
            suffix,
            echo,
        })
    });
    prop_oneof![conversation().prop_map(Prompt::Conversation), raw]
}

fn output() -> impl Strategy<Value = OutputFormat> {
    prop_oneof![
        Just(OutputFormat::Text),
        Just(OutputFormat::JsonObject),
        (option::of(words()), words())
            .prop_map(|(name, schema)| OutputFormat::JsonSchema { name, schema }),
        words().prop_map(OutputFormat::Grammar),
    ]
}

fn dry() -> impl Strategy<Value = Dry> {
    (
        number(),
        number(),
        any::<u32>(),
        any::<i32>(),
        option::of(vec(words(), 0..3)),
    )
        .prop_map(|(multiplier, base, allowed_length, last, breakers)| Dry {
            multiplier,
            base,
            allowed_length,
            penalty_last_n: last,
            sequence_breakers: breakers,
        })
}

fn sampling() -> impl Strategy<Value = Sampling> {
    let numbers = vec(option::of(number()), 10);
    let whole = (
        option::of(any::<u32>()),
        option::of(any::<i32>()),
        option::of(any::<u32>()),
        option::of(any::<u32>()),
    );
    let xtc = (number(), number()).prop_map(|(probability, threshold)| Xtc {
        probability,
        threshold,
    });
    let mirostat = (any::<u8>(), number(), number()).prop_map(|(version, tau, eta)| Mirostat {
        version,
        tau,
        eta,
    });
    let more = (
        option::of(dry()),
        option::of(xtc),
        option::of(mirostat),
        vec((any::<u32>(), number()), 0..3),
        any::<bool>(),
    );
    (numbers, whole, more).prop_map(|(n, whole, more)| {
        let (top_k, repeat_last_n, seed, min_keep) = whole;
        let (dry, xtc, mirostat, logit_bias, ignore_eos) = more;
        Sampling {
            temperature: n[0],
            dynatemp_range: n[1],
            dynatemp_exponent: n[2],
            top_p: n[3],
            top_k,
            min_p: n[4],
            typical_p: n[5],
            top_n_sigma: n[6],
            presence_penalty: n[7],
            frequency_penalty: n[8],
            repeat_penalty: n[9],
            repeat_last_n,
            dry,
            xtc,
            mirostat,
            seed,
            logit_bias,
            ignore_eos,
            min_keep,
        }
    })
}

fn generation() -> impl Strategy<Value = Generation> {
    (
        prompt(),
        output(),
        sampling(),
        option::of(any::<u32>()),
        vec(words(), 0..3),
        1..=u32::MAX,
        option::of(any::<u32>()),
    )
        .prop_map(
            |(prompt, output, sampling, max_output_tokens, stop, choices, logprobs)| Generation {
                prompt,
                output,
                sampling,
                max_output_tokens,
                stop,
                choices: NonZeroU32::new(choices).unwrap(),
                logprobs,
            },
        )
}

fn top_logprob() -> impl Strategy<Value = TopLogprob> {
    (vec(any::<u8>(), 0..5), any::<u32>(), number()).prop_map(|(bytes, id, logprob)| TopLogprob {
        bytes,
        id,
        logprob,
    })
}

fn event() -> impl Strategy<Value = Event> {
    let logprob = (top_logprob(), vec(top_logprob(), 0..3))
        .prop_map(|(token, top)| TokenLogprob { token, top });
    let finish = select(vec![
        FinishReason::Stop,
        FinishReason::Length,
        FinishReason::ToolCalls,
        FinishReason::ContentFilter,
    ]);
    prop_oneof![
        words().prop_map(Event::Text),
        words().prop_map(Event::Reasoning),
        words().prop_map(Event::Refusal),
        (any::<u32>(), words(), words()).prop_map(|(index, id, name)| Event::ToolCallStart {
            index,
            id,
            name
        }),
        (any::<u32>(), words()).prop_map(|(index, text)| Event::ToolCallArguments { index, text }),
        vec(logprob, 0..3).prop_map(Event::Logprobs),
        finish.prop_map(Event::Finish),
    ]
}

fn load() -> impl Strategy<Value = Load> {
    (any::<[u32; 5]>(), number()).prop_map(|(n, tokens_per_second)| Load {
        slots: n[0],
        busy: n[1],
        queued: n[2],
        kv_used: n[3],
        kv_capacity: n[4],
        tokens_per_second,
    })
}

fn reply_event() -> impl Strategy<Value = ReplyEvent> {
    let timings =
        (0.0..1e9, 0.0..1e9, 0.0..1e9).prop_map(|(queued_ms, prompt_ms, predicted_ms)| Timings {
            queued_ms,
            prompt_ms,
            predicted_ms,
        });
    let end = (any::<[u32; 4]>(), option::of(timings), option::of(load())).prop_map(
        |(n, timings, load)| ReplyEvent::End {
            usage: Usage {
                prompt: n[0],
                cached: n[1],
                completion: n[2],
                reasoning: n[3],
            },
            timings,
            load,
        },
    );
    let choice =
        (any::<u32>(), event()).prop_map(|(choice, event)| ReplyEvent::Choice { choice, event });
    prop_oneof![choice, end]
}

fn report() -> impl Strategy<Value = Report> {
    let progress = || (any::<u64>(), any::<u64>()).prop_map(|(done, all)| Progress::new(done, all));
    let phase = prop_oneof![
        progress().prop_map(Phase::Downloading),
        progress().prop_map(Phase::Loading),
        Just(Phase::WarmingUp),
        Just(Phase::Ready),
        Just(Phase::Draining),
        (words(), words()).prop_map(|(reason, message)| Phase::Failed(Failure { reason, message })),
    ];
    let model = (
        words(),
        any::<[u32; 2]>(),
        any::<[u64; 2]>(),
        "[0-9a-f]{0,64}",
    )
        .prop_map(|(architecture, small, large, sha256)| ModelInfo {
            architecture,
            context_length: small[0],
            file_bytes: large[0],
            embedding_length: small[1],
            sha256,
            parameters: large[1],
        });
    (phase, option::of(load()), option::of(model)).prop_map(|(phase, load, model)| Report {
        phase,
        load,
        model,
    })
}

/// As the other side gets it.
fn sent<M: prost::Message + Default>(message: M) -> M {
    M::decode(&*message.encode_to_vec()).unwrap()
}

proptest! {
    #[test]
    fn generations_come_back_as_they_were(given in generation()) {
        let wire = sent(given.clone().encode());
        prop_assert_eq!(Generation::decode(wire).unwrap(), given);
    }

    #[test]
    fn answers_come_back_as_they_were(given in vec(reply_event(), 0..5)) {
        let wire = sent(ReplyEvent::encode_all(given.clone()));
        prop_assert_eq!(ReplyEvent::decode_all(wire).unwrap(), given);
    }

    #[test]
    fn embeddings_come_back_as_they_were(
        inputs in vec(text(), 0..4),
        vectors in vec(vec(number(), 0..4), 0..4),
        normalized: bool,
        prompt_tokens: u32,
    ) {
        let asked = Embedding { inputs, normalized };
        prop_assert_eq!(Embedding::decode(sent(asked.clone().encode())).unwrap(), asked);
        let answer = Embedded { vectors, prompt_tokens };
        prop_assert_eq!(Embedded::decode(sent(answer.clone().encode())), answer);
    }

    #[test]
    fn rerankings_come_back_as_they_were(
        query in words(),
        documents in vec(words(), 0..4),
        scores in vec(number(), 0..4),
        prompt_tokens: u32,
    ) {
        let asked = Reranking { query, documents };
        prop_assert_eq!(Reranking::decode(sent(asked.clone().encode())), asked);
        let answer = Reranked { scores, prompt_tokens };
        prop_assert_eq!(Reranked::decode(sent(answer.clone().encode())), answer);
    }

    #[test]
    fn reports_come_back_as_they_were(given in report()) {
        prop_assert_eq!(Report::decode(sent(given.clone().encode())).unwrap(), given);
    }

    #[test]
    fn no_bytes_can_do_harm(bytes in vec(any::<u8>(), 0..200)) {
        let _ = pb::Generation::decode(&*bytes).map(Generation::decode);
        let _ = pb::Reply::decode(&*bytes).map(ReplyEvent::decode_all);
        let _ = pb::Report::decode(&*bytes).map(Report::decode);
    }
}

fn plain() -> pb::Generation {
    Generation::new(Prompt::Conversation(Conversation {
        messages: vec![Message::System(vec![Part::Text("be brief".into())])],
        ..Conversation::default()
    }))
    .encode()
}

#[test]
fn what_is_unknown_is_refused_by_its_field() {
    type Change = fn(&mut pb::Generation, &mut pb::Conversation);
    let cases: [(&str, Change); 8] = [
        ("output", |g, _| {
            g.output = Some(pb::OutputFormat::default())
        }),
        ("tool_choice", |_, c| {
            c.tool_choice = Some(pb::ToolChoice::default())
        }),
        ("reasoning", |_, c| {
            c.reasoning = Some(pb::Reasoning::default())
        }),
        ("reasoning.effort", |_, c| {
            let reasoning = Some(pb::reasoning::Reasoning::Effort(9));
            c.reasoning = Some(pb::Reasoning { reasoning });
        }),
        ("messages.role", |_, c| c.messages[0].role = 9),
        ("messages.content", |_, c| {
            c.messages[0].content[0].part = None
        }),
        ("messages.content", |_, c| {
            let call = pb::part::Part::ToolCall(pb::ToolCall::default());
            c.messages[0].content[0].part = Some(call);
        }),
        ("sampling.mirostat.version", |g, _| {
            let mirostat = pb::Mirostat {
                version: 256,
                ..pb::Mirostat::default()
            };
            g.sampling.get_or_insert_default().mirostat = Some(mirostat);
        }),
    ];
    for (field, change) in cases {
        let mut wire = plain();
        let Some(pb::prompt::Prompt::Conversation(mut conversation)) =
            wire.prompt.take().unwrap().prompt
        else {
            panic!("not a conversation");
        };
        change(&mut wire, &mut conversation);
        let prompt = Some(pb::prompt::Prompt::Conversation(conversation));
        wire.prompt = Some(pb::Prompt { prompt });
        assert_eq!(Generation::decode(wire).unwrap_err().field, field);
    }
    let missing = pb::Generation {
        prompt: None,
        ..plain()
    };
    assert_eq!(Generation::decode(missing).unwrap_err().field, "prompt");
}

#[test]
fn choices_that_are_left_out_are_one() {
    let wire = pb::Generation {
        choices: 0,
        ..plain()
    };
    assert_eq!(Generation::decode(wire).unwrap().choices, NonZeroU32::MIN);
}
