"""LangChain and LlamaIndex, which speak OpenAI's chat API through their own layers."""

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from sides import CHAT, EMBEDDING, Side, run, same


class City(BaseModel):
    """A city."""

    name: str
    people: int


@tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"rain in {city}"


def langchain(side: Side, **options):
    return ChatOpenAI(model=CHAT, base_url=side.openai_url, api_key=side.key, max_retries=0, timeout=20, **options)


def facts(message):
    """What a LangChain message says; its run id is made anew each time."""
    return message.content, message.tool_calls, message.usage_metadata, message.response_metadata.get("finish_reason")


@same
def test_langchain_invoke(side: Side):
    answer = langchain(side).invoke("hello there")
    assert answer.content == "You said: hello there"
    return facts(answer)


@same
def test_langchain_stream(side: Side):
    chunks = list(langchain(side, stream_usage=True).stream("a b c"))
    assert "".join(chunk.content for chunk in chunks) == "You said: a b c"
    return [facts(chunk) for chunk in chunks]


@same
def test_langchain_async_batch(side: Side):
    answers = run(langchain(side).abatch(["one", "two"]))
    assert [answer.content for answer in answers] == ["You said: one", "You said: two"]
    return [facts(answer) for answer in answers]


@same
def test_langchain_tools(side: Side):
    answer = langchain(side).bind_tools([get_weather]).invoke("Oslo")
    assert answer.tool_calls[0]["args"] == {"city": "Oslo"}
    assert get_weather.invoke(answer.tool_calls[0]["args"]) == "rain in Oslo"
    return facts(answer)


@same
def test_langchain_structured_output(side: Side):
    answer = langchain(side).with_structured_output(City).invoke("Paris")
    assert answer == City(name="Paris", people=7)
    return answer


@same
def test_langchain_embeddings(side: Side):
    # Counting tokens would fetch a vocabulary from the net.
    client = OpenAIEmbeddings(
        model=EMBEDDING, base_url=side.openai_url, api_key=side.key, check_embedding_ctx_length=False
    )
    vectors = client.embed_documents(["one", "two"])
    assert vectors[0] != vectors[1]
    return vectors


def llama_index(side: Side):
    return OpenAILike(
        model=CHAT,
        api_base=side.openai_url,
        api_key=side.key,
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=8192,
        max_retries=0,
        timeout=20,
    )


@same
def test_llama_index_chat(side: Side):
    answer = llama_index(side).chat([ChatMessage(role="user", content="hello there")])
    assert answer.message.content == "You said: hello there"
    return answer.message.content


@same
def test_llama_index_stream(side: Side):
    deltas = [chunk.delta for chunk in llama_index(side).stream_chat([ChatMessage(role="user", content="a b")])]
    assert "".join(delta or "" for delta in deltas) == "You said: a b"
    return deltas


@same
def test_llama_index_structured(side: Side):
    city = llama_index(side).as_structured_llm(City).complete("Paris").raw
    assert isinstance(city, City) and city.people == 7
    return city
