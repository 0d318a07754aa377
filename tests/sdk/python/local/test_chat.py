"""The official OpenAI library and the demo model: conversations and completions."""

import asyncio
import math

import openai
import pytest

from here import CAPITAL, DEMO, MINILM, PARIS, asynchronous, chat, client, stream, user


def test_models():
    listed = {model.id: model for model in client().models.list()}
    assert {DEMO, MINILM} <= set(listed)
    assert listed[DEMO].owned_by == f"bodhi/{DEMO}"
    assert client().models.retrieve(DEMO).id == DEMO


def test_chat():
    answer = chat(CAPITAL)
    assert answer.object == "chat.completion" and answer.model == DEMO and answer.id.startswith("chatcmpl-")
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", PARIS, "stop")
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 1
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_stream_says_the_same():
    whole, chunks = chat(CAPITAL), stream(CAPITAL)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:-1])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == PARIS
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices[0].finish_reason] == ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


def test_stream_helper():
    with client().chat.completions.stream(model=DEMO, messages=user(CAPITAL), temperature=0) as events:
        kinds = [event.type for event in events]
        final = events.get_final_completion()
    assert "content.delta" in kinds and "content.done" in kinds
    assert final.choices[0].message.content == PARIS


def test_many_at_once():
    questions = [f"Count to {to}." for to in (3, 4, 5, 7, 10, 12, 15, 20)]
    alone = [chat(question).choices[0].message.content for question in questions]

    async def ask(question, connection):
        options = {"model": DEMO, "temperature": 0, "max_tokens": 200}
        answer = await connection.chat.completions.create(messages=user(question), **options)
        return answer.choices[0].message.content

    async def work():
        async with asynchronous() as connection:
            return await asyncio.gather(*(ask(question, connection) for question in questions))

    together = asyncio.run(work())
    # Sums of a larger batch are rounded in another order: where two tokens are as likely, the other may win.
    assert sum(a == b for a, b in zip(alone, together)) >= len(questions) - 1


def test_output_limit():
    answer = chat("Count to 20.", max_tokens=4)
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 4
    answer = chat("Count to 20.", max_tokens=openai.NOT_GIVEN, max_completion_tokens=3)
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 3


def test_stop():
    answer = chat("Count to 5.", stop=[", 3"])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("1, 2", "stop")
    chunks = stream("Count to 5.", stop=", 3")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "1, 2"


def test_several_choices():
    answer = chat("Tell me a joke.", n=3, temperature=1, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(choice.message.content for choice in answer.choices)
    chunks = stream(CAPITAL, n=2)
    for index in range(2):
        said = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert "".join(choice.delta.content or "" for choice in said) == PARIS
        assert said[0].delta.role == "assistant" and said[-1].finish_reason == "stop"


def test_the_same_seed_says_the_same():
    def hot(seed):
        # Without the defaults that cut unlikely tokens off, so that seeds make a difference.
        options = {"temperature": 2, "top_p": 1, "max_tokens": 40, "extra_body": {"min_p": 0, "top_k": 0}}
        return chat("Tell me a joke.", seed=seed, **options).choices[0].message.content

    first = hot(7)
    assert hot(7) == first
    assert any(hot(seed) != first for seed in range(8, 12))


def test_logprobs():
    answer = chat(CAPITAL, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == PARIS
    for token in tokens:
        assert bytes(token.bytes).decode() == token.token
        assert len(token.top_logprobs) == 3 and token.logprob <= 0
        likelihoods = [top.logprob for top in token.top_logprobs]
        assert likelihoods == sorted(likelihoods, reverse=True)
        assert sum(math.exp(logprob) for logprob in likelihoods) <= 1.001
        # At temperature 0 the likeliest is chosen.
        assert token.token == token.top_logprobs[0].token
    streamed = stream(CAPITAL, logprobs=True, top_logprobs=1)
    pieces = [choice.logprobs.content for chunk in streamed for choice in chunk.choices if choice.logprobs]
    assert "".join(token.token for piece in pieces for token in piece) == PARIS


def test_completion():
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    answer = client().completions.create(model=DEMO, prompt=prompt, temperature=0, max_tokens=50)
    assert answer.object == "text_completion" and answer.choices[0].text == PARIS
    assert answer.choices[0].finish_reason == "stop"
    chunks = client().completions.create(model=DEMO, prompt=prompt, temperature=0, max_tokens=50, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == PARIS


def test_completions_of_several_prompts():
    prompts = ["Hello, my name is", "Count"]
    answer = client().completions.create(model=DEMO, prompt=prompts, temperature=0, max_tokens=4, n=2, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    for choice in answer.choices:
        assert choice.text.startswith(prompts[choice.index // 2])


def test_what_cannot_be_is_refused():
    with pytest.raises(openai.BadRequestError) as refused:
        chat("Hello", temperature=9)
    assert refused.value.param == "temperature" and "between 0 and 2" in refused.value.message
    with pytest.raises(openai.BadRequestError) as refused:
        chat("word " * 5000)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.APIStatusError) as refused:
        client().embeddings.create(model=DEMO, input="text")
    assert refused.value.status_code == 501 and refused.value.code == "unsupported_by_backend"
