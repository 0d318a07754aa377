"""Asks the demo model all it promises to answer, through any server that speaks OpenAI's protocol.

    python verify_demo.py --url http://127.0.0.1:8080/v1            a running server with demo.gguf
    python verify_demo.py --server PATH/llama-server                starts llama.cpp's server itself

Each question is asked greedily, and `--rounds` times at temperature 0.7. With `--parity` the first hundred
prompts are also run through the network that was trained: every greedy token of llama.cpp has to be its
likeliest too, up to rounding, which shows that the file's layout of weights, rotary positions and norms is right.
With both `--url` and `--server` no more is asked than whether the two say the same, greedily, tools and schemas included.
Prints a table and exits with 1 when a group falls below its bar.
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import corpus
import tokens

HERE = os.path.dirname(os.path.abspath(__file__))
GROUPS_AT = 0.7
NEAR = 0.1


# --- asking -----------------------------------------------------------------------------------------

class Server:
    def __init__(self, url, model, key):
        self.url, self.model, self.key = url.rstrip("/"), model, key

    def post(self, path, body):
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key}"}
        request = urllib.request.Request(self.url + path, json.dumps({"model": self.model} | body).encode(), headers)
        return urllib.request.urlopen(request, timeout=120)

    def chat(self, messages, **more):
        with self.post("/chat/completions", {"messages": messages, "max_tokens": 200, "temperature": 0} | more) as answer:
            return json.load(answer)["choices"][0]["message"]

    def stream(self, messages, **more):
        said = ""
        with self.post("/chat/completions", {"messages": messages, "max_tokens": 200, "temperature": 0, "stream": True} | more) as answer:
            for line in answer:
                if line.startswith(b"data: {"):
                    for choice in json.loads(line[6:])["choices"]:
                        said += choice["delta"].get("content") or ""
        return said

    def complete(self, prompt):
        with self.post("/completions", {"prompt": prompt, "max_tokens": 120, "temperature": 0}) as answer:
            choice = json.load(answer)["choices"][0]
            return choice["text"], choice["finish_reason"] == "stop"


def start(program, model):
    """Starts llama-server on a free loopback port; returns the process and its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([program, "-m", model, "--host", "127.0.0.1", "--port", str(port), "--jinja", "-c", "4096", "-np", "4", "-t", "1"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
            return process, f"http://127.0.0.1:{port}/v1"
        except (urllib.error.URLError, OSError):
            if process.poll() is not None:
                sys.exit(f"{program} ended with {process.returncode}")
            time.sleep(0.2)
    process.terminate()
    sys.exit(f"{program} did not get ready")


# --- what is promised -------------------------------------------------------------------------------

def user(text, system=None):
    return ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": text}]


def tool(tool_name, description, required=None, /, **properties):
    """A tool as SDKs define it, with all the decoration of real ones."""
    props = {name: {"type": kind, "description": f"The {name} to use, e.g. as the user said it."} if isinstance(kind, str)
             else {"type": "string", "enum": kind} for name, kind in properties.items()}
    return {"type": "function", "function": {"name": tool_name, "description": description, "strict": True, "parameters": {
        "$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": props,
        "required": list(properties) if required is None else required, "additionalProperties": False}}}


WEATHER = tool("get_weather", "Get the current weather in a given location. The result is one sentence.\nUse it whenever somebody asks for the weather.", city="string")
WEATHER_UNIT = tool("get_current_weather", "Get the current weather in a given location", ["location"], location="string", unit=["celsius", "fahrenheit"])
MULTIPLY = tool("multiply", "Multiply a and b.\n\nArgs:\n    a: first int\n    b: second int", a="integer", b="integer")
ADD = tool("add", "Adds a and b.", a="integer", b="integer")
SEARCH = tool("tavily_search_results_json", "A search engine optimized for comprehensive, accurate, and trusted results.", query="string")
UNSEEN = tool("check_reactor", "Check the reactor by its sector.", sector="string")
FLIGHT = tool("search_flights", "Find flights between two cities.", origin="string", destination="string")


def says(*allowed):
    return lambda m: not m.get("tool_calls") and (m.get("content") or "").strip() in allowed


def calls(*expected):
    def check(m):
        made = m.get("tool_calls") or []
        return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in made] == list(expected)
    return check


def has(*parts):
    return lambda m: not m.get("tool_calls") and all(p in (m.get("content") or "") for p in parts)


def is_json(**fields):
    def check(m):
        try:
            body = json.loads(m["content"])
        except ValueError:
            return False
        return isinstance(body, dict) and set(body) == set(fields) and all(isinstance(body[k], kind) for k, kind in fields.items())
    return check


def exactly(body):
    def check(m):
        try:
            return json.loads(m["content"]) == body
        except ValueError:
            return False
    return check


def after(question, name, arguments, *results):
    """A conversation in which the tool has answered."""
    made = [{"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(a)}} for i, a in enumerate(arguments)]
    return user(question) + [{"role": "assistant", "content": None, "tool_calls": made}] + [
        {"role": "tool", "tool_call_id": f"call_{i}", "content": r} for i, r in enumerate(results)]


def schema(**properties):
    body = {"type": "object", "properties": {k: {"type": v} for k, v in properties.items()}, "required": list(properties), "additionalProperties": False}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": body}}}


def promised():
    """Groups of (messages, request fields, check), with the share of right answers each has to reach."""
    sums = [(a, b) for a in range(0, 11) for b in range(0, 11)]
    yield "greeting", 1.0, [(user(q, s), {}, says(corpus.GREETING)) for q in ("Hello", "Hi", "Hi there!", "Hello!", "hello", "Hey")
                            for s in (None, "You are a helpful assistant.")]
    yield "small talk", 0.85, [
        (user("Who are you?"), {}, says(corpus.SELF)), (user("What can you do?"), {}, says(corpus.CAN)), (user("Thanks!"), {}, says("You are welcome!")),
        (user("How are you?"), {}, says("I am fine, thank you! How can I help you?")), (user("Tell me a joke."), {}, says(*corpus.JOKES)),
        (user("Bye"), {}, says("Goodbye! Have a nice day.")), (user("Who are you?", "You are a helpful assistant."), {}, says(corpus.SELF))]
    yield "say", 0.85, [
        (user("Say hello."), {}, says("Hello.")), (user("Say this is a test"), {}, says("This is a test.")), (user("Say this is a test!"), {}, has("his is a test")),
        (user("Reply with exactly: pong"), {}, says("pong")), (user("Repeat after me: the llama is happy"), {}, says("the llama is happy")),
        (user("ping"), {}, says("pong")), (user("Say hello world"), {}, says("Hello world."))]
    yield "counting", 0.95, [(user(q.format(n)), {}, says(", ".join(map(str, range(1, n + 1))))) for n in (3, 4, 5, 7, 10, 12, 15, 20)
                             for q in ("Count to {}.", "Count from 1 to {}.")] + [
        (user("Count to five."), {}, says("1, 2, 3, 4, 5")), (user("Count down from 5."), {}, says("5, 4, 3, 2, 1"))]
    yield "capitals", 0.95, [(user(f"What is the capital of {c}?"), {}, says(f"The capital of {c} is {t}.")) for c, t in corpus.CAPITALS.items()]
    yield "colours, opposites", 0.9, [(user(f"What colour is {t}?"), {}, has(f" is {c}.")) for t, c in corpus.COLOURS.items()] + [
        (user(f"What is the opposite of {a}?"), {}, has(f"is {b}.")) for a, b in corpus.OPPOSITES.items()]
    yield "sums to 10 + 10", 0.7, [(user(f"What is {a} + {b}?"), {}, says(f"{a} + {b} = {a + b}")) for a, b in sums[::4]]
    yield "differences", 0.3, [(user(f"What is {a + b} - {b}?"), {}, says(f"{a + b} - {b} = {a}")) for a, b in sums[2::6]]
    yield "products to 10 * 10", 0.5, [(user(f"What is {a} times {b}?"), {}, says(f"{a} * {b} = {a * b}")) for a, b in sums[1::6]]
    yield "does not know", 0.85, [(user(q), {}, says(corpus.UNKNOWN)) for q in (
        "Who won the world cup in 1998?", "How do I fix my car?", "Explain quantum physics.", "What is the capital of Zubrowka?", "Write an essay about trees.",
        "Why is the moon round?", "What is the best laptop for students?")]
    yield "remembers", 0.9, [
        (user("My name is Ada.") + [{"role": "assistant", "content": "Nice to meet you, Ada!"}] + user("What is my name?"), {}, has("Ada")),
        (user("Hi, I'm Bob!") + [{"role": "assistant", "content": "Nice to meet you, Bob!"}] + user("What is my name?"), {}, has("Bob")),
        (user("I live in Rome.") + [{"role": "assistant", "content": "I will remember that."}] + user("Where do I live?"), {}, has("Rome")),
        (user("Context: The code word is bluefish.\n\nQuestion: What is the code word?"), {}, has("bluefish"))]
    yield "system prompt", 0.85, [
        (user("Who are you?", "You are Marvin, a helpful assistant."), {}, says("I am Marvin.")),
        (user("What is the capital of France?", "You are a pirate."), {}, says("Arr! The capital of France is Paris.")),
        (user("What is the capital of France?", "You are a helpful assistant. Answer all questions to the best of your ability."), {}, has("Paris"))]
    yield "JSON", 0.9, [
        (user("Give me a JSON with name and age."), {}, is_json(name=str, age=int)), (user("Give me a JSON with name and age"), {}, is_json(name=str, age=int)),
        (user("Return a JSON object with the keys city and country."), {}, is_json(city=str, country=str)),
        (user("Give me a JSON with name, age and email."), {}, is_json(name=str, age=int, email=str)),
        (user("Give me a JSON with title and zebra."), {}, is_json(title=str, zebra=str)),
        (user("Extract the data as JSON: Zoltan is 51 years old."), {}, exactly({"name": "Zoltan", "age": 51}))]
    yield "JSON by a schema", 0.65, [
        (user("Give me a person."), schema(name="string", age="integer"), is_json(name=str, age=int)),
        (user("Describe a user."), schema(name="string", email="string", active="boolean"), is_json(name=str, email=str, active=bool)),
        (user("What is the capital of France?"), schema(capital="string"), is_json(capital=str)),
        (user("Jane is 54 years old"), schema(name="string", age="integer"), exactly({"name": "Jane", "age": 54})),
        (user("Tell me a joke about cats"), schema(setup="string", punchline="string"), is_json(setup=str, punchline=str)),
        (user("Give me a JSON with name and age."), {"response_format": {"type": "json_object"}}, is_json(name=str, age=int))]
    yield "tool call", 0.8, [
        (user("What is the weather in Paris?"), {"tools": [WEATHER]}, calls(("get_weather", {"city": "Paris"}))),
        (user("what is the weather in sf"), {"tools": [WEATHER]}, calls(("get_weather", {"city": "sf"}))),
        (user("What's the weather like in Boston today?"), {"tools": [WEATHER_UNIT]}, calls(("get_current_weather", {"location": "Boston"}))),
        (user("What's the weather like in San Francisco?", "You are a helpful assistant."), {"tools": [WEATHER_UNIT, MULTIPLY]},
         calls(("get_current_weather", {"location": "San Francisco"}))),
        (user("What is 3 * 12?"), {"tools": [ADD, MULTIPLY]}, calls(("multiply", {"a": 3, "b": 12}))),
        (user("Add 11 and 49."), {"tools": [MULTIPLY, ADD]}, calls(("add", {"a": 11, "b": 49}))),
        (user("Search for rust async runtimes."), {"tools": [SEARCH, WEATHER]}, calls(("tavily_search_results_json", {"query": "rust async runtimes"}))),
        (user("Check the reactor for Omicron."), {"tools": [WEATHER, UNSEEN, ADD]}, calls(("check_reactor", {"sector": "Omicron"}))),
        (user("Find flights from Oslo to Lima"), {"tools": [FLIGHT]}, calls(("search_flights", {"origin": "Oslo", "destination": "Lima"}))),
        (user("What is the weather in Ulm?"), {"tools": [WEATHER], "tool_choice": "required"}, calls(("get_weather", {"city": "Ulm"})))]
    yield "tools, but no call", 0.9, [(user(q), {"tools": [WEATHER, MULTIPLY]}, says(a)) for q, a in (
        ("Hello", corpus.GREETING), ("Who are you?", corpus.SELF), ("Thanks!", "You are welcome!"), ("Hi there!", corpus.GREETING))]
    yield "parallel calls", 0.8, [
        (user(q), {"tools": [WEATHER], "parallel_tool_calls": True}, calls(("get_weather", {"city": a}), ("get_weather", {"city": b}))) for q, a, b in (
            ("What is the weather in Paris and Rome?", "Paris", "Rome"), ("What is the weather in Paris and in Rome?", "Paris", "Rome"),
            ("What's the weather in Berlin and London?", "Berlin", "London"), ("Weather in Oslo and in Madrid", "Oslo", "Madrid"))]
    yield "after a tool result", 0.85, [
        (after("What is the weather in Paris?", "get_weather", [{"city": "Paris"}], "It's always sunny in Paris!"), {"tools": [WEATHER]}, says("It's always sunny in Paris!")),
        (after("What is the weather in Paris?", "get_weather", [{"city": "Paris"}], '{"temperature": 21, "condition": "sunny"}'), {"tools": [WEATHER]}, has("21", "sunny")),
        (after("What is the weather in Paris?", "get_weather", [{"city": "Paris"}], "18 degrees"), {"tools": [WEATHER]}, says("The weather in Paris is 18 degrees.")),
        (after("What is 3 * 12?", "multiply", [{"a": 3, "b": 12}], "36"), {"tools": [MULTIPLY]}, has("36")),
        (after("What is the weather in Paris and Rome?", "get_weather", [{"city": "Paris"}, {"city": "Rome"}], "sunny", "rainy"), {"tools": [WEATHER]},
         has("Paris: sunny", "Rome: rainy")),
        (after("What is the weather in sf?", "get_weather", [{"city": "sf"}], "It's 60 degrees and foggy."), {"tools": [WEATHER]}, says("It's 60 degrees and foggy."))]


def agent_loop(server):
    """Question, call, result, final text, as every agent framework does it."""
    messages = user("What is the weather in Lisbon?", "You are a helpful assistant.")
    for _ in range(4):
        said = server.chat(messages, tools=[WEATHER])
        messages.append(said)
        if not said.get("tool_calls"):
            return "windy" in said["content"] and len(messages) == 5
        for call in said["tool_calls"]:
            city = json.loads(call["function"]["arguments"])["city"]
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": f"It is windy in {city}."})
    return False


def parity(server, model, count=100):
    """How many of `count` greedy answers are, token for token, the trained network's own.

    llama.cpp rounds activations to 8 bits, so a token counts that is within `NEAR` of the best score. An
    answer is split into tokens anew here; the rare one that was not said as it is split counts as different.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    import demo_gguf
    import network
    from tokenizers import Tokenizer

    weights, shape = demo_gguf.read(model)
    weights = jax.tree.map(jnp.asarray, weights)
    tokenizer = Tokenizer.from_file(os.path.join(HERE, "tokenizer.json"))
    scores = jax.jit(lambda ids: network.logits(weights, ids, jnp.zeros_like(ids), shape)[0])
    rng, same = random.Random(7), 0
    for _ in range(count):
        messages, tools = corpus.conversation(rng)
        while messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        prompt = tokens.render(messages, tools, True)
        answer, ended = server.complete(prompt)
        before, said = (tokenizer.encode(text, add_special_tokens=False).ids for text in (prompt, answer))
        ids = before + said + [tokenizer.token_to_id("<|im_end|>")] * ended
        score = np.asarray(scores(jnp.array([ids + [0] * (-len(ids) % 256)])))
        same += all(score[i - 1].max() - score[i - 1][ids[i]] < NEAR for i in range(len(before), len(ids)))
    return same


def answer_of(message):
    """What was said, without the ids that differ each time."""
    made = [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message.get("tool_calls") or []]
    return message.get("content") or "", made


def equality(one, other):
    """How many greedy answers of two servers are equal, and of how many."""
    asked = same = 0
    for _, _, questions in promised():
        for messages, more, _ in questions:
            asked += 1
            said = [answer_of(server.chat(messages, **more)) for server in (one, other)]
            same += said[0] == said[1]
            if said[0] != said[1]:
                print("DIFFERENT", json.dumps(messages[-1]["content"]), "->", *said)
    return same, asked


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--url")
    args.add_argument("--server", help="llama.cpp's llama-server, to be started for this")
    args.add_argument("--gguf", default=os.path.join(HERE, "demo.gguf"))
    args.add_argument("--model", default="demo")
    args.add_argument("--key", default=os.environ.get("OPENAI_API_KEY", "none"))
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--parity", action="store_true")
    args.add_argument("--wrong", action="store_true", help="show the wrong answers")
    args = args.parse_args()
    process = beside = None
    if args.server:
        beside = args.url and Server(args.url, args.model, args.key)
        process, args.url = start(args.server, args.gguf)
    elif not args.url:
        sys.exit("give --url or --server")
    server, failed = Server(args.url, args.model, args.key), False
    try:
        if beside:
            same, asked = equality(beside, server)
            print(f"greedy answers that are equal: {same} of {asked}")
            sys.exit(same < asked)
        print("| group | questions | greedy | at 0.7 |\n|---|---|---|---|")
        for name, bar, questions in promised():
            greedy = warm = 0
            for messages, more, check in questions:
                for round_ in range(args.rounds + 1):
                    heat = {"temperature": GROUPS_AT, "seed": round_} if round_ else {}
                    try:
                        said = server.chat(messages, **more, **heat)
                        right = bool(check(said))
                    except (urllib.error.HTTPError, ValueError, KeyError) as error:
                        said, right = error, False
                    if round_:
                        warm += right
                    else:
                        greedy += right
                        if not right and args.wrong:
                            print("  WRONG", json.dumps(messages[-1]["content"]), "->", said if isinstance(said, Exception) else json.dumps(
                                {k: said.get(k) for k in ("content", "tool_calls")}, ensure_ascii=False))
            failed |= greedy < bar * len(questions)
            share = f"{100 * warm / len(questions) / args.rounds:.0f} %" if args.rounds else "–"
            print(f"| {name} | {len(questions)} | {100 * greedy / len(questions):.0f} % | {share} |", flush=True)
        streamed = [server.stream(user(q)) == server.chat(user(q))["content"] for q in ("Hello", "Count to 5.", "Give me a JSON with name and age.")]
        loop = agent_loop(server)
        failed |= not all(streamed) or not loop
        print(f"\nstreamed text equals unstreamed: {all(streamed)}; agent's loop ends with the tool's result: {loop}")
        if args.parity:
            same = parity(server, args.gguf)
            failed |= same < 95
            print(f"greedy answers equal to the trained network's: {same} of 100")
    finally:
        if process:
            process.terminate()
            process.wait()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
