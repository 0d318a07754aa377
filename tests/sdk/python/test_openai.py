"""The official OpenAI library: chat, streams, tools, structured output, embeddings, completions."""

import asyncio
import json

import openai
import pytest
from pydantic import BaseModel

from sides import CHAT, DIRECT, EMBEDDING, GATEWAY, Side, plain, run, same


class Weather(BaseModel):
    city: str
    days: int
    dry: bool


WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "kelvin"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
TIME_TOOL = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"type": "string"}},
            "required": ["zone"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


def ask(text):
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


@same
def test_chat(side: Side):
    answer = side.openai().chat.completions.create(model=CHAT, messages=ask("Grüß Gott 👋"))
    assert answer.choices[0].message.content == "You said: Grüß Gott 👋"
    assert answer.model == CHAT
    return plain(answer)


@same
def test_chat_async(side: Side):
    async def work():
        async with side.openai_async() as client:
            calls = [client.chat.completions.create(model=CHAT, messages=ask(f"number {n}")) for n in range(8)]
            return plain(await asyncio.gather(*calls))

    answers = run(work())
    assert [a["choices"][0]["message"]["content"] for a in answers] == [f"You said: number {n}" for n in range(8)]
    return answers


@same
def test_chat_with_an_image(side: Side):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0K" * 2000}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "what is it"}, image]}]
    answer = side.openai().chat.completions.create(model=CHAT, messages=messages)
    assert answer.choices[0].message.content == "You said: what is it"
    return plain(answer)


@same
def test_output_limit(side: Side):
    answer = side.openai().chat.completions.create(model=CHAT, messages=ask("one two three"), max_completion_tokens=2)
    assert answer.choices[0].finish_reason == "length"
    return plain(answer)


@same
def test_several_choices(side: Side):
    answer = side.openai().chat.completions.create(model=CHAT, messages=ask("hi"), n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    return plain(answer)


@same
def test_stream(side: Side):
    options = {"include_usage": True}
    chunks = list(
        side.openai().chat.completions.create(model=CHAT, messages=ask("naïve 日本"), stream=True, stream_options=options)
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "You said: naïve 日本"
    assert chunks[-1].usage.total_tokens > 0
    return plain(chunks)


@same
def test_stream_helper(side: Side):
    with side.openai().chat.completions.stream(model=CHAT, messages=ask("hello there")) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds.count("content.delta") == 5 and "content.done" in kinds
    assert final.choices[0].message.content == "You said: hello there"
    return kinds, plain(final)


@same
def test_stream_helper_parses_structured_output(side: Side):
    with side.openai().chat.completions.stream(model=CHAT, messages=ask("Oslo"), response_format=Weather) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == Weather(city="Oslo", days=7, dry=True)
    return plain(final)


@same
def test_stream_async(side: Side):
    async def work():
        async with side.openai_async() as client:
            stream = await client.chat.completions.create(model=CHAT, messages=ask("a b c"), stream=True)
            return [plain(chunk) async for chunk in stream]

    chunks = run(work())
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    return chunks


@same
def test_tools(side: Side):
    client = side.openai()
    messages = ask("Weather in Oslo?")
    first = client.chat.completions.create(model=CHAT, messages=messages, tools=[WEATHER_TOOL])
    call = first.choices[0].message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Weather in Oslo?", "unit": "celsius"}
    messages += [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "7 degrees"}]
    second = client.chat.completions.create(model=CHAT, messages=messages, tools=[WEATHER_TOOL])
    assert second.choices[0].message.content == "The tool said: 7 degrees"
    return plain([first, second])


@same
def test_parallel_tools_streamed(side: Side):
    tools = [WEATHER_TOOL, TIME_TOOL]
    with side.openai().chat.completions.stream(model=CHAT, messages=ask("both in parallel"), tools=tools) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    assert sorted(event.name for event in done) == ["get_time", "get_weather"]
    assert len(final.choices[0].message.tool_calls) == 2
    return plain(final)


@same
def test_tool_choice(side: Side):
    client = side.openai()
    tools = [WEATHER_TOOL, TIME_TOOL]
    named = {"type": "function", "function": {"name": "get_time"}}
    one = client.chat.completions.create(model=CHAT, messages=ask("x"), tools=tools, tool_choice=named)
    none = client.chat.completions.create(model=CHAT, messages=ask("x"), tools=tools, tool_choice="none")
    assert one.choices[0].message.tool_calls[0].function.name == "get_time"
    assert none.choices[0].message.tool_calls is None
    return plain([one, none])


@same
def test_structured_output(side: Side):
    answer = side.openai().chat.completions.parse(model=CHAT, messages=ask("Bergen"), response_format=Weather)
    assert answer.choices[0].message.parsed == Weather(city="Bergen", days=7, dry=True)
    return plain(answer)


@same
def test_json_object(side: Side):
    kind = {"type": "json_object"}
    answer = side.openai().chat.completions.create(model=CHAT, messages=ask("hi"), response_format=kind)
    assert json.loads(answer.choices[0].message.content) == {"answer": "hi"}
    return plain(answer)


@same
def test_embeddings(side: Side):
    client = side.openai()
    # The library asks for base64 by itself and decodes it.
    default = client.embeddings.create(model=EMBEDDING, input=["one", "two"])
    floats = client.embeddings.create(model=EMBEDDING, input=["one", "two"], encoding_format="float")
    assert [one.embedding for one in default.data] == [one.embedding for one in floats.data]
    assert default.data[0].embedding != default.data[1].embedding
    return plain([default, floats])


@same
def test_completions(side: Side):
    client = side.openai()
    whole = client.completions.create(model=CHAT, prompt="Once upon")
    chunks = list(client.completions.create(model=CHAT, prompt="Once upon", stream=True))
    assert whole.choices[0].text == "".join(chunk.choices[0].text for chunk in chunks) == "You said: Once upon"
    return plain([whole, *chunks])


def test_list_models():
    direct = {model.id for model in DIRECT.openai().models.list()}
    through = {model.id for model in GATEWAY.openai().models.list()}
    assert direct and direct <= through
    assert GATEWAY.openai().models.retrieve(CHAT).id == CHAT


@same
def test_upstream_errors_keep_their_kind(side: Side):
    with pytest.raises(openai.RateLimitError) as limited:
        side.openai().chat.completions.create(model="fault:status=429,retry-after=7", messages=ask("x"))
    assert limited.value.response.headers["retry-after"] == "7"
    with pytest.raises(openai.InternalServerError) as broken:
        side.openai().chat.completions.create(model="fault:status=500", messages=ask("x"))
    return [limited.value.body, limited.value.status_code, broken.value.body]


@same
def test_a_wrong_key_is_an_authentication_error(side: Side):
    with pytest.raises(openai.AuthenticationError) as refused:
        side.openai().with_options(api_key="wrong").chat.completions.create(model=CHAT, messages=ask("x"))
    return refused.value.status_code


@same
def test_a_cut_stream_is_an_error(side: Side):
    stream = side.openai().chat.completions.create(model="fault:reset-at=700", messages=ask("x"), stream=True)
    with pytest.raises(Exception) as cut:
        for _ in stream:
            pass
    assert not isinstance(cut.value, AssertionError)
    return True
