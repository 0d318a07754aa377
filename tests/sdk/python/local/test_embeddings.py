"""MiniLM through the official OpenAI library, next to its own weights and tokenizer without us."""

import base64
import json
import os
import pathlib
import struct
import subprocess
import sys

import openai
import pytest
from langchain_openai import OpenAIEmbeddings

from here import MINILM, TOKEN, URL, client, user

TEXTS = [
    "The cat sits outside",
    "A man is playing guitar",
    "The new movie is awesome",
    "Crème brûlée in a café",
    "猫が外に座っています",
    "word " * 200,
]


def cosine(a, b):
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5


@pytest.fixture(scope="module")
def reference():
    script = pathlib.Path(__file__).parents[3] / "models" / "minilm_gguf.py"
    command = [sys.executable, script, "embed", os.environ["MINILM_CACHE"], *TEXTS]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")
    return [json.loads(line) for line in lines if line]


def is_close(vectors, reference):
    for vector, expected in zip(vectors, reference, strict=True):
        assert cosine(vector, expected) > 0.999
        assert abs(sum(x * x for x in vector) - 1) < 1e-3, "vectors have length 1"


def test_embeddings(reference):
    # The library asks for base64 by itself and decodes it.
    answer = client().embeddings.create(model=MINILM, input=TEXTS)
    assert [one.index for one in answer.data] == list(range(len(TEXTS)))
    assert answer.model == MINILM and answer.usage.prompt_tokens == answer.usage.total_tokens > len(TEXTS)
    is_close([one.embedding for one in answer.data], reference)


def test_numbers_and_base64_are_the_same():
    numbers = client().embeddings.create(model=MINILM, input=TEXTS[0], encoding_format="float").data[0].embedding
    raw = client().embeddings.with_raw_response.create(model=MINILM, input=TEXTS[0], encoding_format="base64")
    (one,) = json.loads(raw.content)["data"]
    packed = base64.b64decode(one["embedding"], validate=True)
    decoded = struct.unpack(f"<{len(packed) // 4}f", packed)
    assert len(numbers) == len(decoded) == 384
    assert max(abs(a - b) for a, b in zip(numbers, decoded)) < 1e-6


def test_one_text_is_embedded_as_among_others(reference):
    for text, expected in zip(TEXTS, reference):
        answer = client().embeddings.create(model=MINILM, input=text)
        is_close([answer.data[0].embedding], [expected])


def test_a_model_for_embeddings_does_not_chat():
    with pytest.raises(openai.APIStatusError) as refused:
        client().chat.completions.create(model=MINILM, messages=user("Hello"))
    assert refused.value.status_code == 501 and refused.value.code == "unsupported_by_backend"


def test_langchain_embeddings(reference):
    # Counting tokens would fetch a vocabulary from the net.
    embeddings = OpenAIEmbeddings(model=MINILM, base_url=URL, api_key=TOKEN, check_embedding_ctx_length=False)
    is_close(embeddings.embed_documents(TEXTS), reference)
    is_close([embeddings.embed_query(TEXTS[0])], reference[:1])
