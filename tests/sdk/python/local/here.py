"""The gateway that the suite talks to, and the models that it runs itself."""

import functools
import os

import openai

URL = os.environ["GATEWAY_URL"].rstrip("/") + "/v1"
TOKEN = os.environ["GATEWAY_TOKEN"]
DEMO, MINILM = "demo", "minilm"

PARIS = "The capital of France is Paris."
CAPITAL = "What is the capital of France?"


@functools.cache
def client():
    return openai.OpenAI(base_url=URL, api_key=TOKEN, max_retries=0, timeout=60)


def asynchronous():
    return openai.AsyncOpenAI(base_url=URL, api_key=TOKEN, max_retries=0, timeout=60)


def user(text):
    return [{"role": "user", "content": text}]


def chat(text, **options):
    """A conversation of one question, as sure as the model can be unless told otherwise."""
    options = {"model": DEMO, "temperature": 0, "max_tokens": 200} | options
    return client().chat.completions.create(messages=user(text), **options)


def stream(text, **options):
    return list(chat(text, stream=True, stream_options={"include_usage": True}, **options))
