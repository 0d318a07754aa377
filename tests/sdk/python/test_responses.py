"""The official OpenAI library: the Responses family."""

import json

import openai
import pytest
from pydantic import BaseModel

from sides import RESPONSES, Side, plain, same

TOOL = {
    "type": "function",
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class City(BaseModel):
    name: str
    people: int


@same
def test_create(side: Side):
    answer = side.openai().responses.create(model=RESPONSES, input="hello", instructions="Be brief.")
    assert answer.output_text == "You said: hello"
    return plain(answer)


@same
def test_get_without_a_model(side: Side):
    client = side.openai()
    created = client.responses.create(model=RESPONSES, input="remember me")
    found = client.responses.retrieve(created.id)
    assert plain(found) == plain(created)
    return plain(found)


@same
def test_background_is_polled_until_done(side: Side):
    client = side.openai()
    answer = client.responses.create(model=RESPONSES, input="take your time", background=True)
    seen = [plain(answer)]
    while answer.status in ("queued", "in_progress"):
        answer = client.responses.retrieve(answer.id)
        seen.append(plain(answer))
    assert [one["status"] for one in seen] == ["queued", "in_progress", "completed"]
    return seen


@same
def test_cancel(side: Side):
    client = side.openai()
    created = client.responses.create(model=RESPONSES, input="never mind", background=True)
    cancelled = client.responses.cancel(created.id)
    assert cancelled.status == "cancelled"
    return plain(cancelled)


@same
def test_delete(side: Side):
    client = side.openai()
    created = client.responses.create(model=RESPONSES, input="forget me")
    client.responses.delete(created.id)
    with pytest.raises(openai.NotFoundError) as gone:
        client.responses.retrieve(created.id)
    return gone.value.body


@same
def test_input_items(side: Side):
    client = side.openai()
    messages = [{"role": "user", "content": "first"}, {"role": "user", "content": "second"}]
    created = client.responses.create(model=RESPONSES, input=messages)
    items = list(client.responses.input_items.list(created.id))
    assert len(items) == 2
    return plain(items)


@same
def test_previous_response(side: Side):
    client = side.openai()
    first = client.responses.create(model=RESPONSES, input="one")
    second = client.responses.create(model=RESPONSES, input="two", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    return plain(second)


@same
def test_stream(side: Side):
    events = list(side.openai().responses.create(model=RESPONSES, input="bit by bit", stream=True))
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return plain(events)


@same
def test_stream_helper(side: Side):
    with side.openai().responses.stream(model=RESPONSES, input="bit by bit") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == "You said: bit by bit"
    return plain(final)


@same
def test_tools(side: Side):
    client = side.openai()
    first = client.responses.create(model=RESPONSES, input="Oslo", tools=[TOOL])
    call = first.output[0]
    assert call.type == "function_call" and json.loads(call.arguments) == {"city": "Oslo"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    second = client.responses.create(model=RESPONSES, input=[*plain(first.output), result], tools=[TOOL])
    assert second.output_text == "The tool said: rain"
    return plain([first, second])


@same
def test_tools_streamed(side: Side):
    with side.openai().responses.stream(model=RESPONSES, input="Oslo", tools=[TOOL]) as stream:
        done = [event for event in stream if event.type == "response.function_call_arguments.done"]
        final = stream.get_final_response()
    assert json.loads(done[0].arguments) == {"city": "Oslo"}
    return plain(final)


@same
def test_structured_output(side: Side):
    answer = side.openai().responses.parse(model=RESPONSES, input="Paris", text_format=City)
    assert answer.output_parsed == City(name="Paris", people=7)
    return plain(answer)
