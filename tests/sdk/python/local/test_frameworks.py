"""LangChain and LlamaIndex on the demo model, agents included.

Of what it says no more is asked than it promises: it is tiny. Calls have to be right, and loops to end with
what the tool said.
"""

import asyncio

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from here import CAPITAL, DEMO, PARIS, TOKEN, URL


class Person(BaseModel):
    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """Get the current weather in a given location."""
    return f"It is windy in {city}."


def langchain(**options):
    options = {"temperature": 0, "max_tokens": 200} | options
    return ChatOpenAI(model=DEMO, base_url=URL, api_key=TOKEN, max_retries=0, timeout=60, **options)


def test_langchain():
    answer = langchain().invoke(CAPITAL)
    assert answer.content == PARIS and answer.usage_metadata["output_tokens"] > 1
    chunks = list(langchain(stream_usage=True).stream(CAPITAL))
    assert "".join(chunk.content for chunk in chunks) == PARIS


def test_langchain_tools():
    answer = langchain().bind_tools([get_weather]).invoke("What is the weather in Paris?")
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("get_weather", {"city": "Paris"})]


def test_langchain_structured_output():
    structured = langchain().with_structured_output(Person, method="json_schema")
    assert isinstance(structured.invoke("Jane is 54 years old"), Person)


def test_langchain_agent():
    agent = create_agent(langchain(), [get_weather], system_prompt="You are a helpful assistant.")
    question = {"messages": [{"role": "user", "content": "What is the weather in Lisbon?"}]}
    messages = agent.invoke(question)["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]
    assert messages[2].content == "It is windy in Lisbon." and "windy" in messages[-1].content


def test_langchain_agent_streams():
    agent = create_agent(langchain(), [get_weather], system_prompt="You are a helpful assistant.")
    question = {"messages": [{"role": "user", "content": "What is the weather in Lisbon?"}]}
    said = "".join(
        chunk.content
        for chunk, origin in agent.stream(question, stream_mode="messages")
        if origin["langgraph_node"] == "model"
    )
    assert "windy" in said


def llama_index(**options):
    return OpenAILike(
        model=DEMO,
        api_base=URL,
        api_key=TOKEN,
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=1024,
        temperature=0,
        max_tokens=200,
        max_retries=0,
        timeout=60,
        **options,
    )


def test_llama_index():
    messages = [ChatMessage(role="user", content=CAPITAL)]
    assert llama_index().chat(messages).message.content == PARIS
    deltas = [chunk.delta or "" for chunk in llama_index().stream_chat(messages)]
    assert "".join(deltas) == PARIS


def test_llama_index_structured_output():
    structured = llama_index(should_use_structured_outputs=True).as_structured_llm(Person)
    assert isinstance(structured.complete("Jane is 54 years old").raw, Person)


def test_llama_index_agent():
    def get_weather(city: str) -> str:
        """Get the current weather in a given location."""
        return f"It is windy in {city}."

    async def work():
        tools = [FunctionTool.from_defaults(get_weather)]
        agent = FunctionAgent(llm=llama_index(), tools=tools, system_prompt="You are a helpful assistant.")
        return await agent.run("What is the weather in Lisbon?")

    answer = asyncio.run(work())
    assert [call.tool_output.content for call in answer.tool_calls] == ["It is windy in Lisbon."]
    assert "windy" in str(answer)
