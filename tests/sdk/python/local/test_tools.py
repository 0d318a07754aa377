"""The official OpenAI library and the demo model: tools and structured output."""

import json

from pydantic import BaseModel

from here import DEMO, chat, client, stream, user

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a given location.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city."}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


class Person(BaseModel):
    name: str
    age: int


def called(message):
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or []]


def test_tool_call():
    choice = chat("What is the weather in Paris?", tools=[WEATHER]).choices[0]
    assert choice.finish_reason == "tool_calls" and not choice.message.content
    assert called(choice.message) == [("get_weather", {"city": "Paris"})]
    assert choice.message.tool_calls[0].id and choice.message.tool_calls[0].type == "function"


def test_tool_call_in_a_stream():
    chunks = stream("What is the weather in Paris?", tools=[WEATHER])
    calls = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or []]
    assert calls[0].id and calls[0].function.name == "get_weather"
    assert all(call.id is None and call.index == 0 for call in calls[1:])
    assert json.loads("".join(call.function.arguments or "" for call in calls)) == {"city": "Paris"}
    assert chunks[-2].choices[0].finish_reason == "tool_calls"


def test_parallel_tool_calls():
    question, options = "What is the weather in Paris and Rome?", {"tools": [WEATHER], "parallel_tool_calls": True}
    both = [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"})]
    message = chat(question, **options).choices[0].message
    assert called(message) == both
    assert len({call.id for call in message.tool_calls}) == 2
    with client().chat.completions.stream(
        model=DEMO, messages=user(question), temperature=0, max_tokens=200, **options
    ) as events:
        assert called(events.get_final_completion().choices[0].message) == both


def test_a_tool_may_be_required():
    question, named = "Tell me about Lima", {"type": "function", "function": {"name": "get_weather"}}
    assert not chat(question, tools=[WEATHER]).choices[0].message.tool_calls
    for choice in ("required", named):
        # The grammar lets it talk first, but not end without a call.
        message = chat(question, tools=[WEATHER], tool_choice=choice).choices[0].message
        assert called(message) == [("get_weather", {"city": "Lima"})]


def test_tools_are_not_called_without_need():
    choice = chat("Who are you?", tools=[WEATHER]).choices[0]
    assert choice.finish_reason == "stop" and choice.message.content and not choice.message.tool_calls


def test_a_loop_of_calls_ends_with_their_results():
    messages = [{"role": "system", "content": "You are a helpful assistant."}, *user("What is the weather in Lisbon?")]
    for _ in range(4):
        options = {"model": DEMO, "temperature": 0, "max_tokens": 200, "tools": [WEATHER]}
        message = client().chat.completions.create(messages=messages, **options).choices[0].message
        messages.append(message)
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            city = json.loads(call.function.arguments)["city"]
            messages.append({"role": "tool", "tool_call_id": call.id, "content": f"It is windy in {city}."})
    assert len(messages) == 5 and "windy" in messages[-1].content


def test_json_by_a_schema():
    schema = Person.model_json_schema() | {"additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": schema}}
    for seed in range(5):
        # Whatever the model would rather say: the grammar holds at any temperature.
        answer = chat("Tell me a joke.", response_format=wanted, temperature=1.5, seed=seed)
        if answer.choices[0].finish_reason == "stop":
            Person.model_validate_json(answer.choices[0].message.content, strict=True)
    whole = chat("Jane is 54 years old", response_format=wanted).choices[0].message.content
    chunks = stream("Jane is 54 years old", response_format=wanted)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole
    Person.model_validate_json(whole, strict=True)


def test_json_of_any_shape():
    answer = chat("Give me a JSON with name and age.", response_format={"type": "json_object"})
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_parse_helper():
    options = {"model": DEMO, "messages": user("Jane is 54 years old"), "response_format": Person, "temperature": 0}
    answer = client().chat.completions.parse(**options)
    assert isinstance(answer.choices[0].message.parsed, Person)
    with client().chat.completions.stream(**options) as events:
        assert events.get_final_completion().choices[0].message.parsed == answer.choices[0].message.parsed
