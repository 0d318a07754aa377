"""The official Google library: generateContent, streams, tools, embeddings, token counts, models."""

import json

import pytest
from google.genai import errors, types
from pydantic import BaseModel

from sides import DIRECT, GATEWAY, GEMINI, GEMINI_EMBEDDING, Side, run, same


class City(BaseModel):
    name: str
    people: int


TOOL = types.Tool(
    function_declarations=[
        types.FunctionDeclaration(
            name="get_weather",
            description="Weather of a city",
            parameters=types.Schema(type="OBJECT", properties={"city": types.Schema(type="STRING")}, required=["city"]),
        )
    ]
)


def plain(value):
    """Plain data without the transport's headers, which name connections and dates."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value.model_dump(mode="json", exclude={"sdk_http_response"})


@same
def test_generate(side: Side):
    config = types.GenerateContentConfig(system_instruction="Be brief.", temperature=0.5)
    answer = side.gemini().models.generate_content(model=GEMINI, contents="Grüße 👋", config=config)
    assert answer.text == "You said: Grüße 👋"
    return plain(answer)


@same
def test_generate_async(side: Side):
    async def work():
        return plain(await side.gemini().aio.models.generate_content(model=GEMINI, contents="later"))

    answer = run(work())
    assert answer["candidates"][0]["content"]["parts"][0]["text"] == "You said: later"
    return answer


@same
def test_output_limit(side: Side):
    config = types.GenerateContentConfig(max_output_tokens=2)
    answer = side.gemini().models.generate_content(model=GEMINI, contents="one two three", config=config)
    assert answer.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS
    return plain(answer)


@same
def test_stream(side: Side):
    chunks = list(side.gemini().models.generate_content_stream(model=GEMINI, contents="bit by bit"))
    assert "".join(chunk.text for chunk in chunks) == "You said: bit by bit"
    assert len(chunks) == 5
    return plain(chunks)


@same
def test_chat_helper_streams(side: Side):
    chat = side.gemini().chats.create(model=GEMINI)
    first = chat.send_message("one")
    chunks = list(chat.send_message_stream("two"))
    assert "".join(chunk.text for chunk in chunks) == "You said: two"
    assert len(chat.get_history()) == 6
    return plain([first, *chunks])


@same
def test_tools(side: Side):
    client = side.gemini()
    config = types.GenerateContentConfig(tools=[TOOL])
    first = client.models.generate_content(model=GEMINI, contents="Oslo", config=config)
    call = first.function_calls[0]
    assert (call.name, call.args) == ("get_weather", {"city": "Oslo"})
    result = types.Part.from_function_response(name=call.name, response={"sky": "rain"})
    contents = [types.UserContent("Oslo"), first.candidates[0].content, types.UserContent(result)]
    second = client.models.generate_content(model=GEMINI, contents=contents, config=config)
    assert second.text == 'The tool said: {"sky":"rain"}'
    return plain([first, second])


@same
def test_automatic_function_calling(side: Side):
    called = []

    def get_weather(city: str) -> str:
        """Weather of a city."""
        called.append(city)
        return "rain"

    config = types.GenerateContentConfig(tools=[get_weather])
    answer = side.gemini().models.generate_content(model=GEMINI, contents="Oslo", config=config)
    assert called == ["Oslo"]
    return answer.text


@same
def test_structured_output(side: Side):
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=City)
    answer = side.gemini().models.generate_content(model=GEMINI, contents="Paris", config=config)
    assert answer.parsed == City(name="Paris", people=7)
    return json.loads(answer.text)


@same
def test_embed(side: Side):
    client = side.gemini()
    one = client.models.embed_content(model=GEMINI_EMBEDDING, contents="one")
    many = client.models.embed_content(model=GEMINI_EMBEDDING, contents=["one", "two"])
    assert one.embeddings[0].values == many.embeddings[0].values != many.embeddings[1].values
    return plain([one, many])


@same
def test_count_tokens(side: Side):
    count = side.gemini().models.count_tokens(model=GEMINI, contents="one two three")
    assert count.total_tokens == 3
    return plain(count)


@same
def test_upstream_errors_keep_their_kind(side: Side):
    with pytest.raises(errors.ClientError) as limited:
        side.gemini().models.generate_content(model=side.gemini_prefix + "fault:status=429", contents="x")
    return limited.value.code, limited.value.status, limited.value.message


def test_list_models():
    # The provider pages by two, so the library has to follow `pageToken`.
    direct = {model.name for model in DIRECT.gemini().models.list()}
    through = {model.name for model in GATEWAY.gemini().models.list()}
    assert len(direct) == 4 and direct <= through
    assert GATEWAY.gemini().models.get(model=GEMINI).name == f"models/{GEMINI}"
