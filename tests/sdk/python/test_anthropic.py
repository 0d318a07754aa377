"""The official Anthropic library: messages, streams, tools, token counts, models."""

import anthropic
import pytest
from pydantic import BaseModel

from sides import CLAUDE, DIRECT, GATEWAY, Side, plain, run, same

TOOL = {
    "name": "get_weather",
    "description": "Weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class City(BaseModel):
    name: str
    people: int


def ask(text):
    return [{"role": "user", "content": text}]


@same
def test_messages(side: Side):
    answer = side.anthropic().messages.create(model=CLAUDE, max_tokens=64, system="Be brief.", messages=ask("Grüße 👋"))
    assert answer.content[0].text == "You said: Grüße 👋"
    assert answer.stop_reason == "end_turn"
    return plain(answer)


@same
def test_output_limit(side: Side):
    answer = side.anthropic().messages.create(model=CLAUDE, max_tokens=2, messages=ask("one two three"))
    assert answer.stop_reason == "max_tokens"
    return plain(answer)


@same
def test_stream(side: Side):
    events = list(side.anthropic().messages.create(model=CLAUDE, max_tokens=64, messages=ask("a b"), stream=True))
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    return plain(events)


@same
def test_stream_helper(side: Side):
    with side.anthropic().messages.stream(model=CLAUDE, max_tokens=64, messages=ask("日本 語")) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == "You said: 日本 語"
    return plain(final)


@same
def test_stream_helper_async(side: Side):
    async def work():
        async with side.anthropic_async() as client:
            async with client.messages.stream(model=CLAUDE, max_tokens=64, messages=ask("later")) as stream:
                return plain(await stream.get_final_message())

    final = run(work())
    assert final["content"][0]["text"] == "You said: later"
    return final


@same
def test_thinking_streamed(side: Side):
    thinking = {"type": "enabled", "budget_tokens": 1024}
    with side.anthropic().messages.stream(
        model=CLAUDE, max_tokens=2048, thinking=thinking, messages=ask("think")
    ) as stream:
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.content[0].signature
    return plain(final)


@same
def test_tools(side: Side):
    client = side.anthropic()
    first = client.messages.create(model=CLAUDE, max_tokens=64, tools=[TOOL], messages=ask("Oslo"))
    call = first.content[0]
    assert call.type == "tool_use" and call.input == {"city": "Oslo"} and first.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    messages = [*ask("Oslo"), {"role": "assistant", "content": plain(first.content)}, {"role": "user", "content": [result]}]
    second = client.messages.create(model=CLAUDE, max_tokens=64, tools=[TOOL], messages=messages)
    assert second.content[0].text == "The tool said: rain"
    return plain([first, second])


@same
def test_tools_streamed(side: Side):
    with side.anthropic().messages.stream(model=CLAUDE, max_tokens=64, tools=[TOOL], messages=ask("Oslo")) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    assert len(pieces) > 1 and final.content[0].input == {"city": "Oslo"}
    return pieces, plain(final)


@same
def test_structured_output(side: Side):
    answer = side.anthropic().messages.parse(model=CLAUDE, max_tokens=64, messages=ask("Paris"), output_format=City)
    assert answer.parsed_output == City(name="Paris", people=7)
    return plain(answer)


@same
def test_count_tokens(side: Side):
    count = side.anthropic().messages.count_tokens(model=CLAUDE, system="Be brief.", messages=ask("one two three"))
    assert count.input_tokens == 5
    return plain(count)


@same
def test_upstream_errors_keep_their_kind(side: Side):
    with pytest.raises(anthropic.RateLimitError) as limited:
        model = side.anthropic_prefix + "fault:status=429,retry-after=7"
        side.anthropic().messages.create(model=model, max_tokens=9, messages=ask("x"))
    assert limited.value.response.headers["retry-after"] == "7"
    return limited.value.body


@same
def test_a_wrong_key_is_an_authentication_error(side: Side):
    with pytest.raises(anthropic.AuthenticationError) as refused:
        side.anthropic().with_options(api_key="wrong").messages.create(model=CLAUDE, max_tokens=9, messages=ask("x"))
    return refused.value.body["error"]["type"]


def test_list_models():
    # The provider pages by two, so the library has to follow `after_id`.
    direct = {model.id for model in DIRECT.anthropic().models.list()}
    through = {model.id for model in GATEWAY.anthropic().models.list()}
    assert len(direct) == 5 and direct <= through
    assert GATEWAY.anthropic().models.retrieve(CLAUDE).id == CLAUDE
