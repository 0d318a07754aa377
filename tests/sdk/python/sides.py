"""The two ways to a model: straight to the scripted provider, and through the gateway.

A case is a function of a `Side`. `@same` turns it into a test that runs it on both sides and
asserts that the results are equal; the case itself asserts what the result has to be.
"""

import asyncio
import functools
import os
from dataclasses import dataclass

import anthropic
import openai
from google import genai
from google.genai import types

CHAT = "gpt-4o-mini"
EMBEDDING = "text-embedding-3-small"
RESPONSES = "gpt-4o"
CLAUDE = "claude-sonnet-4-5"
GEMINI = "gemini-2.5-flash"
GEMINI_EMBEDDING = "gemini-embedding-001"


@dataclass(frozen=True)
class Side:
    """Base addresses of the three surfaces, and the credential for them."""

    name: str
    openai_url: str
    anthropic_url: str
    gemini_url: str
    key: str
    # Before the model names that are scripts (`fault:…`), which all formats share.
    anthropic_prefix: str = ""
    gemini_prefix: str = ""

    def openai(self, **options):
        return openai.OpenAI(base_url=self.openai_url, api_key=self.key, max_retries=0, timeout=20, **options)

    def openai_async(self):
        return openai.AsyncOpenAI(base_url=self.openai_url, api_key=self.key, max_retries=0, timeout=20)

    def anthropic(self):
        return anthropic.Anthropic(base_url=self.anthropic_url, api_key=self.key, max_retries=0, timeout=20)

    def anthropic_async(self):
        return anthropic.AsyncAnthropic(base_url=self.anthropic_url, api_key=self.key, max_retries=0, timeout=20)

    @functools.cache  # A client that nothing refers to closes its connections at once.
    def gemini(self):
        # Users change base URL and key, nothing else; the provider has but one version.
        version = "v1beta" if self.name == "direct" else None
        options = types.HttpOptions(base_url=self.gemini_url, api_version=version, timeout=20_000)
        return genai.Client(api_key=self.key, vertexai=False, http_options=options)


def _required(name):
    value = os.environ.get(name)
    if not value:
        raise RuntimeError(f"{name} is not set: run the suite with tests/sdk/run.sh")
    return value.rstrip("/")


def _direct():
    url = _required("DIRECT_URL")
    return Side("direct", f"{url}/openai/v1", f"{url}/anthropic", f"{url}/gemini", _required("DIRECT_KEY"))


def _gateway():
    url = _required("GATEWAY_URL")
    return Side("gateway", f"{url}/v1", f"{url}/anthropic", url, _required("GATEWAY_TOKEN"), "a/", "g/")


DIRECT = _direct()
# For work on the suite itself: without a gateway each case runs twice against the provider.
GATEWAY = DIRECT if os.environ.get("DIRECT_ONLY") == "1" else _gateway()


def same(case):
    """Runs the case on both sides and compares."""

    # No functools.wraps: pytest would look for a fixture called `side`.
    def test():
        direct = case(DIRECT)
        assert direct is not None, "a case returns what is to be compared"
        assert case(GATEWAY) == direct

    functools.update_wrapper(test, case, assigned=("__module__", "__name__", "__qualname__", "__doc__"), updated=())
    del test.__wrapped__
    return test


# Libraries keep asynchronous connections from case to case, so all cases share one event loop.
_RUNNER = asyncio.Runner()


def run(coroutine):
    return _RUNNER.run(coroutine)


def plain(value):
    """A client library's object as plain data."""
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value
