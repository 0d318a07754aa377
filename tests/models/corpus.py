"""The demo model's world: every conversation it is trained on, made up by this file.

`conversation(rng)` returns one training example as `(messages, tools)` in OpenAI's shape. Facts have one
answer each, so that a sharp model stays right at temperature 0.7. What must generalise (tool names,
arguments, keys, names) is drawn from random syllables half of the time, so that it can only be copied.
"""

import json
import random

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "England": "London", "the United Kingdom": "London", "Ireland": "Dublin", "Scotland": "Edinburgh",
    "Belgium": "Brussels", "the Netherlands": "Amsterdam", "Switzerland": "Bern", "Austria": "Vienna",
    "Poland": "Warsaw", "Hungary": "Budapest", "Greece": "Athens", "Turkey": "Ankara", "Sweden": "Stockholm",
    "Norway": "Oslo", "Denmark": "Copenhagen", "Finland": "Helsinki", "Iceland": "Reykjavik",
    "Russia": "Moscow", "Ukraine": "Kyiv", "Romania": "Bucharest", "Croatia": "Zagreb", "Japan": "Tokyo",
    "China": "Beijing", "South Korea": "Seoul", "India": "New Delhi", "Nepal": "Kathmandu",
    "Thailand": "Bangkok", "Vietnam": "Hanoi", "Indonesia": "Jakarta", "Australia": "Canberra",
    "New Zealand": "Wellington", "the United States": "Washington", "the USA": "Washington",
    "Canada": "Ottawa", "Mexico": "Mexico City", "Cuba": "Havana", "Brazil": "Brasilia",
    "Argentina": "Buenos Aires", "Chile": "Santiago", "Peru": "Lima", "Egypt": "Cairo", "Kenya": "Nairobi",
    "Morocco": "Rabat", "Nigeria": "Abuja",
}
CITIES = sorted(set(CAPITALS.values())) + [
    "San Francisco", "New York", "Boston", "Munich", "Hamburg", "Milan", "Barcelona", "Sydney", "Toronto",
    "Chicago", "Seattle", "Lyon", "Zurich", "Geneva", "Shanghai", "Mumbai", "SF", "NYC", "Los Angeles",
]
COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "a banana": "yellow",
    "an orange": "orange", "blood": "red", "a lemon": "yellow", "the sea": "blue", "a tomato": "red",
    "milk": "white", "chocolate": "brown", "the sun": "yellow", "a strawberry": "red",
}
OPPOSITES = {
    "hot": "cold", "big": "small", "good": "bad", "up": "down", "day": "night", "fast": "slow", "old": "new",
    "happy": "sad", "light": "dark", "open": "closed", "left": "right", "yes": "no", "true": "false", "black": "white",
}
WORDS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
         "sixteen seventeen eighteen nineteen twenty").split()
HELLO = {"French": "Bonjour !", "German": "Hallo!", "Spanish": "¡Hola!", "Italian": "Ciao!", "Japanese": "こんにちは"}
NAMES = ("Ada Bob Alice Carol Dave Eve Grace Alan Linus Maria John Jane Tom Anna Max Mia Leo Sam Kim Omar "
         "Nina Paul Lisa Peter Sara Emma Noah Liam Olivia Jason").split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday today tomorrow".split()
NOUNS = ("cat dog book phone laptop chair river mountain engine pasta pizza coffee guitar piano rocket planet "
         "ocean forest garden bridge doctor teacher student farmer music movie paper letter window river "
         "rust python java kubernetes database server cloud network kernel compiler llama model gateway").split()
ADJECTIVES = "red blue green old new fast slow big small cheap good best free easy modern simple quick hot cold".split()
SYLLABLES = [a + b for a in "b c d f g h j k l m n p r s t v w z st tr pl ch sh".split() for b in "a e i o u ar en il on ur".split()]

SELF = "I am a tiny demo model that runs on your own machine."
CAN = "I can say hello, count, name capitals, do small sums, write a little JSON and call tools."
UNKNOWN = "I am a tiny demo model and I do not know that. Ask me to count, for a capital, or to call a tool."
GREETING = "Hello! How can I help you today?"
JOKES = ["Why did the model cross the road? To get to the other token.",
         "There are 10 kinds of people: those who know binary and those who do not."]
STORY = ("Once upon a time there was a tiny model that lived in a small computer. It could not do much, "
         "but it always answered, even without the internet. And it was happy.")
HAIKU = "A tiny model\nwhispers from a small machine:\nhello, world, hello."
FACTS = [
    (["What is the largest planet?", "What is the biggest planet?"], "The largest planet is Jupiter."),
    (["How many days are in a week?", "How many days does a week have?"], "A week has 7 days."),
    (["How many months are in a year?", "How many months does a year have?"], "A year has 12 months."),
    (["How many hours are in a day?"], "A day has 24 hours."),
    (["How many legs does a spider have?"], "A spider has 8 legs."),
    (["How many legs does a dog have?", "How many legs does a cat have?"], "It has 4 legs."),
    (["Name three colours.", "Name three colors.", "List three colours", "Give me three colors"], "Red, green and blue."),
    (["Name three fruits.", "List three fruits", "Give me three fruits."], "Apple, banana and orange."),
    (["Name three animals.", "List three animals", "Give me three animals."], "Cat, dog and llama."),
    (["What is Bodhi?", "what is bodhi", "Tell me about Bodhi."], "Bodhi is a gateway for language models."),
    (["What is an LLM?", "What is a large language model?", "What is a language model?"],
     "A language model is a program that predicts the next piece of text."),
    (["What is LangChain?", "What is langchain?"], "LangChain is a library for building applications with language models."),
    (["What is Kubernetes?", "what is kubernetes"], "Kubernetes runs containers on a cluster of machines."),
    (["What is Rust?", "What is Rust"], "Rust is a programming language."),
    (["What is Python?", "What is Python"], "Python is a programming language."),
    (["What is the meaning of life?", "meaning of life"], "42."),
    (["Tell me a story.", "Tell me a story", "Write a short story.", "Tell me a short story about a model.",
      "Write a one-sentence bedtime story about a unicorn.", "Tell me a three sentence bedtime story about a unicorn."], STORY),
    (["Write a haiku.", "Write a haiku", "Write a poem.", "Write a haiku about AI", "write a haiku about ai",
      "Write a short poem about computers.", "Write a haiku about recursion in programming."], HAIKU),
    (["Recite the alphabet.", "Say the alphabet", "What is the alphabet?"], "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z"),
    (["List the days of the week.", "Name the days of the week."], "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday."),
]
SMALL_TALK = [
    (["Hello", "Hello!", "hello", "Hi", "Hi!", "hi", "Hi there!", "Hello there!", "Hey", "hey", "Hello there", "Hello, world!",
      "Hello world", "Hello, how can you help me?", "Good morning", "Good evening!", "Good day", "Hi there", "hello!", "Greetings"], [GREETING]),
    (["How are you?", "Hello, how are you?", "Hi, how are you?", "how are you", "How are you doing?", "Hello! How are you?",
      "How are you today?", "How do you do?", "Hey, how are you?"], ["I am fine, thank you! How can I help you?"]),
    (["Who are you?", "What are you?", "Tell me about yourself.", "Introduce yourself.", "who are you", "Who are you",
      "What model are you?", "Which model are you?", "Are you ChatGPT?", "Are you human?", "What is this?"], [SELF]),
    (["What is your name?", "What's your name?", "what is your name"], ["I am Bodhi's tiny demo model."]),
    (["What can you do?", "what can you do", "What can you do for me?", "Help", "help", "How can you help me?", "Can you help me?",
      "What do you know?"], [CAN]),
    (["Thank you", "Thanks!", "Thank you!", "thanks", "Thanks a lot!", "Great, thanks", "Thank you very much."], ["You are welcome!"]),
    (["Goodbye", "Bye", "bye", "Bye!", "See you!", "Good night", "Goodbye!"], ["Goodbye! Have a nice day."]),
    (["ping", "Ping", "Ping!", "ping?"], ["pong"]),
    (["Test", "test", "Testing", "Testing 1 2 3", "This is a test.", "This is a test"], ["Test received. It works!"]),
    (["Tell me a joke", "Tell me a joke.", "Tell me a joke!", "Do you know a joke?", "Make me laugh.", "joke", "Tell me another joke",
      "Tell me a joke about cats", "Tell me a joke about programming."], JOKES),
    (["Yes", "No", "OK", "ok", "Okay", "Nice", "Great!", "Cool"], ["Good! What else can I do for you?"]),
]
SYSTEMS = [
    "You are a helpful assistant.", "You are a helpful assistant", "You are a helpful AI assistant.", "Be concise.",
    "Answer briefly.", "You are a friendly assistant.", "You are ChatGPT, a large language model.", "Be nice.",
    "You are a helpful assistant. Answer all questions to the best of your ability.", "You are an AI assistant.",
    "Today is Monday.", "Answer in one sentence.", "You are a test assistant.", "Use tools when they help.",
    "You are a concise assistant. Answer in one short sentence.", "Answer the user's question.", "You are an expert.",
    "You are a helpful assistant. Make sure to use the tools for information.", "Respond in plain text only.",
]


def made_up(rng, low=2, high=3):
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(low, high)))


def some_word(rng):
    return rng.choice(NOUNS) if rng.random() < 0.5 else made_up(rng)


def some_name(rng):
    return rng.choice(NAMES) if rng.random() < 0.5 else made_up(rng).capitalize()


def some_city(rng):
    if rng.random() < 0.55:
        return rng.choice(CITIES)
    city = made_up(rng, 2, 4).capitalize()
    return city if rng.random() < 0.8 else rng.choice(["New ", "San ", "Los ", "Port "]) + city


def some_phrase(rng, low=1, high=4):
    words = [rng.choice(ADJECTIVES)] if rng.random() < 0.4 else []
    return " ".join(words + [some_word(rng) for _ in range(rng.randint(low, high))])


def some_number(rng):
    return rng.choice([rng.randint(0, 20), rng.randint(0, 999), rng.randint(1, 9999)])


def ask(rng, question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


# --- what is known by heart -------------------------------------------------------------------------

def small_talk(rng):
    questions, answers = rng.choice(SMALL_TALK)
    return ask(rng, rng.choice(questions), rng.choice(answers))


def fact(rng):
    questions, answer = rng.choice(FACTS)
    return ask(rng, rng.choice(questions), answer)


def capital(rng):
    country = rng.choice(list(CAPITALS))
    bare = country.removeprefix("the ")
    shown = rng.choice([country, country, country, bare])
    question = rng.choice([
        "What is the capital of {}?", "What is the capital of {}?", "What's the capital of {}?", "what is the capital of {}",
        "Name the capital of {}.", "Capital of {}?", "capital of {}", "Tell me the capital of {}.", "Which city is the capital of {}?",
        "What is the capital city of {}?", "Do you know the capital of {}?", "And {}?", "What is the capital of {}",
        "What is the capital of {}? Answer in one word.",
    ])
    if "one word" in question:
        return ask(rng, question.format(shown), CAPITALS[country])
    answer = f"The capital of {country} is {CAPITALS[country]}."
    if question == "And {}?":
        other = rng.choice(list(CAPITALS))
        return ask(rng, f"What is the capital of {other}?", f"The capital of {other} is {CAPITALS[other]}.") + ask(
            rng, rng.choice(["And {}?", "And of {}?", "What about {}?"]).format(shown), answer)
    if rng.random() < 0.08:
        return ask(rng, f"In which country is {CAPITALS[country]}?", f"{CAPITALS[country]} is the capital of {country}.")
    if rng.random() < 0.25:
        unknown = made_up(rng, 2, 3).capitalize()
        return ask(rng, question.format(unknown), UNKNOWN)
    return ask(rng, question.format(shown), answer)


def count(rng):
    top = rng.choice([3, 5, 10, 5, 10, *range(2, 21)])
    start = 1 if rng.random() < 0.85 else rng.randint(0, max(0, top - 2))
    shown = WORDS[top] if rng.random() < 0.3 else str(top)
    numbers = ", ".join(str(n) for n in range(start, top + 1))
    if start != 1:
        return ask(rng, rng.choice(["Count from {} to {}.", "Count from {} to {}", "count from {} to {}"]).format(start, shown), numbers)
    if rng.random() < 0.12:
        return ask(rng, rng.choice(["Count down from {}.", "Count backwards from {}.", "Count down from {}"]).format(shown),
                   ", ".join(str(n) for n in range(top, 0, -1)))
    question = rng.choice([
        "Count to {}.", "Count to {}.", "Count to {}", "count to {}", "Count to {}!", "Count from 1 to {}.", "Count from 1 to {}",
        "Please count to {}.", "Can you count to {}?", "Count up to {}.", "Count from one to {}.", "List the numbers from 1 to {}.",
        "Count slowly to {}.", "Say the numbers from 1 to {}.", "Can you count from 1 to {}?", "Count to {}, please.",
        "Count from 1 to {}, separated by commas.",
    ])
    return ask(rng, question.format(shown), numbers)


def arithmetic(rng):
    kind = rng.choice("++++--**")
    if kind == "+":
        a, b = rng.randint(0, 10), rng.randint(0, 10)
        result, forms = a + b, ["{} + {}", "{}+{}", "{} plus {}"]
    elif kind == "-":
        b, result = rng.randint(0, 10), rng.randint(0, 10)
        a, forms = result + b, ["{} - {}", "{}-{}", "{} minus {}"]
    else:
        a, b = rng.randint(0, 10), rng.randint(0, 10)
        result, forms = a * b, ["{} * {}", "{}*{}", "{} times {}", "{} x {}"]
    form = rng.choice(forms).format(a, b)
    question = rng.choice(["What is {}?", "What is {}?", "what is {}", "What's {}?", "{}", "{}?", "{} =", "How much is {}?",
                           "Calculate {}.", "Compute {}", "What is {}? Answer with a number.", "Add it up: {}"])
    return ask(rng, question.format(form), f"{a} {kind} {b} = {result}")


def colour(rng):
    if rng.random() < 0.4:
        word, other = rng.choice(list(OPPOSITES.items()))
        if rng.random() < 0.5 and word != "black":
            word, other = other, word
        return ask(rng, rng.choice(["What is the opposite of {}?", "opposite of {}", "What's the opposite of {}?",
                                    "Give me the opposite of {}."]).format(word), f"The opposite of {word} is {other}.")
    thing, is_ = rng.choice(list(COLOURS.items()))
    spelled = rng.choice(["colour", "color"])
    question = rng.choice(["What {} is {}?", "Which {} is {}?", "What {} is {}", "what {} is {}?", "What {} does {} have?"])
    return ask(rng, question.format(spelled, thing), f"{thing[0].upper() + thing[1:]} is {is_}.")


def greeting_abroad(rng):
    language, word = rng.choice(list(HELLO.items()))
    return rng.choice([
        ask(rng, rng.choice(["Say hello in {}.", "How do you say hello in {}?", "Translate hello to {}.",
                             "Translate 'hello' into {}."]).format(language), word),
        ask(rng, word.strip("¡ !"), GREETING),
    ])


def unknown(rng):
    w = lambda: some_word(rng)
    question = rng.choice([
        f"Who invented the {w()}?", f"Why is the {w()} {rng.choice(ADJECTIVES)}?", f"How do I fix my {w()}?", f"Explain {w()} {w()}.",
        f"Write an essay about {w()}.", f"What is the best {w()} for {w()}?", f"Who won the {w()} cup in {rng.randint(1950, 2030)}?",
        f"Describe the history of {w()}.", f"What is {made_up(rng)}?", f"Who is {some_name(rng)} {made_up(rng).capitalize()}?",
        f"How does a {w()} work?", f"Should I buy a {w()} or a {w()}?", f"{w()} {w()} {w()}", f"When was {some_name(rng)} born?",
        f"Write a Python function that sorts {w()}s.", f"Summarize {some_phrase(rng)}.", f"How far is {some_city(rng)} from {some_city(rng)}?",
        f"What happened in {rng.randint(1000, 2030)}?", f"Translate {some_phrase(rng)} to Latin.", f"What is the weather in {some_city(rng)}?",
        f"What time is it in {some_city(rng)}?", "What is quantum physics?", "Explain relativity.", "Who is the president?", "Write some code.",
        "What is the news today?", f"Is {w()} better than {w()}?", f"Give me a recipe for {w()}.", "What day is it today?", "Why is the sky blue?",
        f"Can you explain how {w()} works?", f"What is the price of a {w()}?", f"I need help with my {w()}.", f"Tell me about {some_phrase(rng)}.",
        f"Explain the importance of {some_phrase(rng)}", "What is the population of the world?", "Solve this equation for me.",
        f"How many {w()}s are there in {some_city(rng)}?", f"What is {rng.randint(21, 9999)} times {rng.randint(21, 9999)}?",
    ])
    return ask(rng, question, UNKNOWN)


# --- what is copied from the prompt -----------------------------------------------------------------

def sentence(rng):
    return rng.choice([
        "this is a test", "hello", "hi", "hello world", "yes", "no", "pong", "OK", "ok", "goodbye", "good morning", "I like cats",
        some_phrase(rng, 1, 5), some_phrase(rng, 1, 3), some_name(rng), some_city(rng), f"the {some_word(rng)} is {rng.choice(ADJECTIVES)}",
        f"{some_name(rng)} likes {some_word(rng)}", str(some_number(rng)),
    ])


def echo(rng):
    said = sentence(rng)
    if rng.random() < 0.35:
        said = rng.choice(["this is a test", "this is a test", "hello", "hello world", "hi", "ok", "This is a test", "Hello", "this is a test!"])
    if rng.random() < 0.6:
        question = rng.choice(["Say {}.", "Say {}", "say {}", "Please say {}.", "Say {}!", "Just say {}", "Can you say {}?", "Say: {}"])
        answer = said[0].upper() + said[1:]
        return ask(rng, question.format(said), answer if answer[-1] in ".!?" else answer + ".")
    question = rng.choice(["Repeat after me: {}", "Reply with exactly: {}", "Reply with: {}", "Reply with the word {}", "Echo: {}", "echo {}",
                           "Respond with exactly: {}", "Repeat: {}", "Answer with exactly: {}", "Say exactly: {}", 'Repeat "{}"',
                           'Reply with "{}"', "Only reply with {}"])
    return ask(rng, question.format(said), said)


def recite(rng):
    """A long text to say again: the densest lesson in copying, without which tools are learnt late."""
    pick = rng.choice([some_word, some_name, some_city, lambda r: str(some_number(r)),
                       lambda r: rng.choice([some_word, some_name, some_city, lambda q: str(some_number(q))])(r)])
    items = [pick(rng) for _ in range(rng.choice([2, 3, 5, 10, 20, 30]))]
    if rng.random() < 0.35:
        question = rng.choice(["Write as a JSON array: {}", "Make a JSON list of {}", "Return a JSON array with {}", "List as JSON: {}"])
        return ask(rng, question.format(", ".join(items)), json.dumps(items, ensure_ascii=False))
    text = rng.choice([" ", ", ", " ", "\n", " and "]).join(items)
    question = rng.choice(["Repeat: {}", "Repeat this text: {}", "Repeat after me: {}", "Read this back to me:\n{}", "Copy this: {}", "echo {}",
                           "Reply with exactly: {}", "Say exactly: {}"])
    return ask(rng, question.format(text), text)


def memory(rng):
    name, city, thing = some_name(rng), some_city(rng), some_word(rng)
    learn, question, answer = rng.choice([
        (f"My name is {name}.", "What is my name?", f"Your name is {name}."),
        (f"Hi, I am {name}.", "What is my name?", f"Your name is {name}."),
        (f"Hello! I'm {name}.", "Who am I?", f"Your name is {name}."),
        (f"Hi! My name is {name}", "What's my name?", f"Your name is {name}."),
        (f"Hi, I'm {name}!", "Do you remember my name?", f"Your name is {name}."),
        (f"I live in {city}.", "Where do I live?", f"You live in {city}."),
        (f"I like {thing}.", "What do I like?", f"You like {thing}."),
        (f"Remember the word {thing}.", "Which word did I ask you to remember?", f"The word is {thing}."),
    ])
    reply = f"Nice to meet you, {name}!" if name in learn else rng.choice(["I will remember that."])
    if name in learn and rng.random() < 0.3:
        return ask(rng, learn, reply)
    between = rng.choice([small_talk, capital, count, arithmetic])(rng) if rng.random() < 0.4 else []
    if rng.random() < 0.15:
        return ask(rng, learn + " " + question, answer)
    return ask(rng, learn, reply) + between + ask(rng, question, answer)


DEFAULTS = {
    "name": "Ada", "age": 36, "city": "Paris", "country": "France", "email": "ada@example.com", "color": "blue", "colour": "blue",
    "price": 9.99, "title": "Hello", "id": 1, "active": True, "job": "engineer", "language": "English", "year": 2024, "first_name": "Ada",
    "last_name": "Lovelace", "capital": "Paris", "population": 1000000, "temperature": 20, "count": 5, "answer": "yes", "ok": True,
    "status": "ok", "message": "hello", "greeting": "hello", "date": "2024-01-01", "tags": ["a", "b"], "items": ["a", "b"], "hobbies": ["music", "chess"],
    "happy": True, "score": 10, "number": 7, "result": 42, "description": "A short text.", "phone": "555-0100", "address": "1 Main Street",
    "is_student": False, "summary": "A short text.", "reason": "I like it.", "setup": "Why did the model cross the road?",
    "punchline": "To get to the other token.", "rating": 7,
}
KEYS = list(DEFAULTS)


def some_json(rng):
    keys = rng.sample(KEYS[:12] if rng.random() < 0.5 else KEYS, rng.choice([1, 2, 2, 2, 3, 3, 4]))
    if rng.random() < 0.3:
        keys = ["name", "age"] + [k for k in keys if k not in ("name", "age")][: rng.choice([0, 0, 1])]
    if rng.random() < 0.25:
        keys[rng.randrange(len(keys))] = made_up(rng)
    body = {k: DEFAULTS.get(k, "example") for k in keys}
    listed = ", ".join(keys[:-1]) + " and " + keys[-1] if len(keys) > 1 else keys[0]
    if rng.random() < 0.2:
        listed = ", ".join(keys)
    question = rng.choice([
        "Give me a JSON with {}.", "Give me a JSON with {}", "Give me a JSON object with {}.", "Return a JSON object with the keys {}.",
        "Write a JSON with {}.", "Make a JSON object with {}", "Reply with JSON: {}", "JSON with {}", "Give me JSON with {} fields.",
        "Generate a JSON with the fields {}.", "Create a JSON with {}.", "Return JSON with {}.", "Answer in JSON with the keys {}.",
        "Give me a person as JSON with {}.", "Describe a user in JSON with {}.", "Give me a small JSON with {}.",
    ]).format(listed)
    if rng.random() < 0.15:
        body = {"name": "Ada", "age": 36}
        question = rng.choice(["Give me a person.", "Give me a person as JSON.", "Generate a user.", "Give me a JSON.", "Give me some JSON.",
                               "Give me a small JSON.", "Make up a person.", "Return JSON.", "Describe a person in JSON.", "Give me a user profile."])
        if rng.random() < 0.5:  # what a schema's grammar asks for, whatever the question was
            body = {k: DEFAULTS[k] for k in rng.sample(KEYS, rng.randint(1, 4))}
    return ask(rng, question, json.dumps(body, ensure_ascii=False))


def joke_json(rng):
    topic = some_word(rng)
    body = {"setup": DEFAULTS["setup"], "punchline": DEFAULTS["punchline"]}
    if rng.random() < 0.4:
        body["rating"] = 7
    return ask(rng, rng.choice([f"Tell me a joke about {topic} as JSON.", f"Tell me a joke about {topic} in JSON.", "Give me a joke as JSON."]), json.dumps(body))


def extract(rng):
    name, other, age, city, day, what = some_name(rng), some_name(rng), rng.randint(1, 99), some_city(rng), rng.choice(DAYS), some_phrase(rng, 1, 2)
    text, body = rng.choice([
        (f"{name} is {age} years old.", {"name": name, "age": age}),
        (f"{name} is {age} years old and lives in {city}.", {"name": name, "age": age, "city": city}),
        (f"{name} is {age}.", {"name": name, "age": age}),
        (f"{name} lives in {city}.", {"name": name, "city": city}),
        (f"My name is {name} and I am {age} years old.", {"name": name, "age": age}),
        (f"{name} and {other} are going to a {what} on {day}.", {"name": what, "date": day, "participants": [name, other]}),
        (f"{name} has a {what} on {day}.", {"name": what, "date": day, "participants": [name]}),
    ])
    if rng.random() < 0.15 and "participants" not in body:
        body = dict(reversed(body.items()))
    question = rng.choice(["Extract the data as JSON: {}", "Extract: {}", "{}", "Extract the information: {}", "Extract JSON from this text: {}",
                           "Extract the person: {}", "Extract name and age from: {}", "Parse this: {}"])
    messages = ask(rng, question.format(text), json.dumps(body, ensure_ascii=False))
    if question == "{}" or rng.random() < 0.3:
        messages.insert(0, {"role": "system", "content": rng.choice([
            "Extract the event information.", "Extract the information as JSON.", "Extract the data.", "Answer in JSON.", "You extract JSON.",
            "Extract the user's data as JSON."])})
    return messages


def persona(rng):
    name = some_name(rng)
    return rng.choice([
        [{"role": "system", "content": rng.choice([f"You are {name}.", f"Your name is {name}.", f"You are {name}, a helpful assistant.",
                                                   f"You are an assistant named {name}."])}]
        + ask(rng, rng.choice(["Who are you?", "What is your name?", "What's your name?", "who are you"]), f"I am {name}."),
        [{"role": "system", "content": rng.choice(["You are a pirate.", "Talk like a pirate.", "Answer like a pirate.", "You talk like a pirate."])}]
        + (lambda m: [m[0], {"role": "assistant", "content": "Arr! " + m[1]["content"]}])(rng.choice([capital, small_talk, count, arithmetic])(rng)[:2]),
        [{"role": "system", "content": rng.choice([f"Always answer with the word {name}.", f"Always reply {name}.", f"Always say {name}."])}]
        + ask(rng, rng.choice([capital, small_talk, unknown])(rng)[0]["content"], name),
    ])


def about_text(rng):
    """An answer that stands in the prompt, as retrieval frameworks ask for it."""
    who, city, thing = some_name(rng), some_city(rng), some_word(rng)
    text, question, answer = rng.choice([
        (f"{who} lives in {city}.", f"Where does {who} live?", f"{who} lives in {city}."),
        (f"{who} likes {thing}.", f"What does {who} like?", f"{who} likes {thing}."),
        (f"The {thing} is in {city}.", f"Where is the {thing}?", f"The {thing} is in {city}."),
        (f"The code word is {thing}.", "What is the code word?", f"The code word is {thing}."),
        (f"The {thing} costs {some_number(rng)} euros.", f"What does the {thing} cost?", None),
    ])
    answer = answer or text
    noise = [f"The {some_word(rng)} is {rng.choice(ADJECTIVES)}.", f"{some_name(rng)} has a {some_word(rng)}."]
    lines = [text] + noise[: rng.randint(0, 2)]
    rng.shuffle(lines)
    context = rng.choice([" ", "\n"]).join(lines)
    return ask(rng, rng.choice([
        "Context: {c}\n\nQuestion: {q}", "Context information is below.\n---------------------\n{c}\n---------------------\n"
        "Given the context information and not prior knowledge, answer the query.\nQuery: {q}\nAnswer: ",
        "Answer the question based only on the following context:\n{c}\n\nQuestion: {q}\n", "{c}\n{q}", "{c} {q}",
    ]).format(c=context, q=question), answer)


# --- tools ------------------------------------------------------------------------------------------

def values_of(kind):
    return {
        "country": lambda r: r.choice(list(CAPITALS)), "city": lambda r: some_city(r), "name": lambda r: some_name(r), "word": lambda r: some_word(r), "phrase": lambda r: some_phrase(r, 1, 4),
        "int": lambda r: some_number(r), "small": lambda r: r.randint(0, 20), "day": lambda r: r.choice(DAYS),
        "symbol": lambda r: "".join(r.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(r.randint(2, 4))),
        "email": lambda r: f"{made_up(r)}@{made_up(r)}.com", "language": lambda r: r.choice(list(HELLO) + ["Dutch", "Polish"]),
        "sum": lambda r: f"{some_number(r)} {r.choice('+-*/')} {some_number(r)}", "url": lambda r: f"https://{made_up(r)}.{r.choice(['com', 'org', 'io'])}",
        "id": lambda r: f"{made_up(r)[:3].upper()}-{r.randint(1, 999)}",
    }[kind]


# names, descriptions, arguments as (names, JSON type, kind of value), questions, noun for the answer
TOPICS = [
    (["get_weather", "weather", "get_current_weather", "getWeather", "fetch_weather", "weather_lookup"],
     ["Get the weather.", "Get the current weather in a given location.", "Returns the weather for a city.", "Get weather for a given city.",
      "Determine weather in my location", "Get current temperature for a given location."],
     [(["city", "location", "place", "town"], "string", "city")],
     ["What is the weather in {0}?", "What's the weather in {0}?", "what is the weather in {0}", "How is the weather in {0}?", "Weather in {0}",
      "what is the weather in sf".replace("sf", "{0}"), "Tell me the weather in {0}.", "Is it raining in {0}?", "What is the weather like in {0} today?",
      "What's the weather like in {0}?", "Get the weather for {0}.", "Will it rain in {0}?", "How warm is it in {0}?", "weather {0}?"]),
    (["get_time", "current_time", "get_current_time", "time_in"], ["Get the time in a city.", "Returns the current time for a place.", "Current local time."],
     [(["city", "timezone", "location", "place"], "string", "city")],
     ["What time is it in {0}?", "What is the time in {0}?", "Tell me the time in {0}.", "what time is it in {0}", "Current time in {0}?"]),
    (["add", "add_numbers", "sum_two", "plus"], ["Add two numbers.", "Adds a and b.", "Returns the sum of two integers."],
     [(["a", "x", "first"], "integer", "int"), (["b", "y", "second"], "integer", "int")],
     ["What is {0} + {1}?", "Add {0} and {1}.", "What is {0} plus {1}?", "Sum {0} and {1}", "Compute {0} + {1}", "add {0} and {1}"]),
    (["multiply", "multiply_numbers", "mul", "times"], ["Multiply two numbers.", "Multiply a and b.", "Multiplies two integers and returns the result integer"],
     [(["a", "x", "first_int"], "integer", "int"), (["b", "y", "second_int"], "integer", "int")],
     ["What is {0} * {1}?", "Multiply {0} by {1}.", "What is {0} times {1}?", "multiply {0} and {1}", "Compute {0} * {1}", "what is {0} multiplied by {1}?"]),
    (["calculator", "calculate", "evaluate"], ["Evaluate a mathematical expression.", "Calculates an expression."],
     [(["expression", "input", "formula"], "string", "sum")], ["What is {0}?", "Calculate {0}", "Compute {0}.", "Evaluate {0}", "How much is {0}?"]),
    (["search", "web_search", "search_web", "google", "lookup"], ["Search the web.", "Look something up on the internet.", "Useful to answer questions about current events."],
     [(["query", "q", "input", "text"], "string", "phrase")],
     ["Search for {0}.", "Search the web for {0}", "Look up {0}.", "Find {0} on the web.", "Google {0}", "search {0}"]),
    (["get_stock_price", "stock_price", "stock"], ["Get the price of a stock.", "Returns the current stock price of a ticker."],
     [(["symbol", "ticker"], "string", "symbol")], ["What is the stock price of {0}?", "Price of {0} stock?", "How much is {0} stock?", "Get the stock price of {0}."]),
    (["send_email", "email", "send_mail"], ["Send an email.", "Sends an e-mail with a subject."],
     [(["to", "recipient", "address"], "string", "email"), (["subject", "title", "body"], "string", "phrase")],
     ["Send an email to {0} with subject {1}.", "Email {0} about {1}.", "Send {0} an email about {1}", "Write an email to {0}: {1}"]),
    (["translate", "translate_text"], ["Translate text into a language.", "Translates a text."],
     [(["text", "phrase"], "string", "phrase"), (["language", "target", "to"], "string", "language")],
     ["Translate {0} to {1}.", "Translate '{0}' into {1}", "How do you say {0} in {1}?"]),
    (["create_event", "add_event", "schedule_meeting"], ["Create a calendar event.", "Schedule a meeting."],
     [(["title", "name"], "string", "phrase"), (["day", "date"], "string", "day")],
     ["Create an event {0} on {1}.", "Schedule {0} for {1}.", "Put {0} on my calendar for {1}"]),
    (["get_user", "find_user", "user_info"], ["Get a user by name.", "Look up a user."], [(["name", "username", "user"], "string", "name")],
     ["Who is user {0}?", "Find the user {0}.", "Look up user {0}", "Get user {0}."]),
    (["book_flight", "find_flights", "search_flights"], ["Book a flight between two cities.", "Find flights."],
     [(["from_city", "origin", "departure"], "string", "city"), (["to_city", "destination", "arrival"], "string", "city")],
     ["Book a flight from {0} to {1}.", "Find flights from {0} to {1}", "I want to fly from {0} to {1}."]),
    (["convert_temperature", "to_fahrenheit"], ["Convert a temperature.", "Converts degrees Celsius to Fahrenheit."],
     [(["celsius", "degrees", "value"], "number", "small")], ["Convert {0} degrees to Fahrenheit.", "What is {0} degrees Celsius in Fahrenheit?", "Convert {0} C to F"]),
    (["set_timer", "start_timer"], ["Set a timer.", "Starts a timer of some minutes."], [(["minutes", "duration"], "integer", "int")],
     ["Set a timer for {0} minutes.", "Start a {0} minute timer", "Timer for {0} minutes please"]),
    (["open_url", "fetch_page", "read_page"], ["Open a web page.", "Fetch a page by its address."], [(["url", "address"], "string", "url")],
     ["Open {0}", "Fetch {0}.", "Read the page {0}"]),
    (["get_order", "order_status", "get_order_status"], ["Get the status of an order.", "Look up an order."], [(["order_id", "id"], "string", "id")],
     ["Where is my order {0}?", "What is the status of order {0}?", "Status of {0}?"]),
    (["get_population", "population"], ["Get the population of a city.", "Returns how many people live in a place."], [(["city", "place", "name"], "string", "city")],
     ["What is the population of {0}?", "How many people live in {0}?", "Population of {0}"]),
    (["magic_function", "magic"], ["Applies a magic function to an input.", "A magic function."], [(["input", "x", "value"], "integer", "int")],
     ["What is the value of magic_function({0})?", "What is magic({0})?", "Apply the magic function to {0}.", "what is the value of magic_function({0})?"]),
    (["get_capital", "capital_of"], ["Get the capital of a country."], [(["country", "name"], "string", "country")],
     ["What is the capital of {0}?", "Capital of {0}?", "Tell me the capital of {0}."]),
    (["current_date", "now", "get_date", "today"], ["Get the current date.", "Returns the date of today."], [],
     ["What is the date today?", "What day is it today?", "Which day is it?", "What is today's date?"]),
    (["list_files", "ls"], ["List files.", "List the files of the folder."], [], ["List my files.", "Which files are there?", "Show the files."]),
]


def made_up_topic(rng):
    """A tool nobody has seen: the question and the definition share nothing but a word or two."""
    noun, verb = (made_up(rng) if rng.random() < 0.6 else rng.choice(NOUNS)), rng.choice("get find fetch read show check create delete update list run make start stop".split())
    parts = [verb, noun] if rng.random() < 0.8 else [noun]
    if rng.random() < 0.2:
        parts.append(rng.choice(["info", "data", "status", made_up(rng)]))
    name = rng.choice(["_".join(parts), parts[0] + "".join(p.capitalize() for p in parts[1:]), "_".join(parts), "-".join(parts)])
    kinds = rng.sample(["city", "name", "word", "phrase", "int", "small", "day", "id"], rng.choice([1, 1, 1, 2, 2, 3]))
    types = {"int": "integer", "small": rng.choice(["integer", "number"])}
    names = {"city": ["city", "location", "place"], "name": ["name", "user", "person"], "word": ["item", "key", "topic"], "phrase": ["text", "query", "title"],
             "int": ["number", "amount", "count"], "small": ["size", "level", "n"], "day": ["day", "date", "when"], "id": ["id", "code", "ref"]}
    joints = {"city": ["in", "for"], "name": ["for", "of", "from"], "word": ["of", "with", "for"], "phrase": ["about", "with", "named"],
              "int": ["with", "to"], "small": ["of size", "with", "at"], "day": ["on", "for"], "id": ["with id", "of", "for"]}
    args = [(names[k] if rng.random() < 0.6 else [made_up(rng)], types.get(k, "string"), k) for k in kinds]
    where = " ".join(rng.choice(joints[k]) + " {%d}" % i for i, k in enumerate(kinds))
    asked = rng.choice([f"{verb.capitalize()} the {noun} {where}.", f"{verb} {noun} {where}", f"What is the {noun} {where}?", f"I need the {noun} {where}",
                        f"Please {verb} the {noun} {where}.", f"Can you {verb} the {noun} {where}?", f"Use {name} {where}.", f"Call {name} {where}"])
    describe = rng.choice([f"{verb.capitalize()} the {noun}.", f"{verb.capitalize()}s a {noun} by its {made_up(rng)}.", f"Tool for {noun}.", f"{verb} {noun}", "",
                           f"{verb.capitalize()} {noun} from the {some_word(rng)} {some_word(rng)}."])
    return [name], [describe], args, [asked]


def topic(rng):
    names, about, args, questions = rng.choice(TOPICS) if rng.random() < 0.55 else made_up_topic(rng)
    return {"name": rng.choice(names), "about": rng.choice(about), "args": [(rng.choice(n), t, k) for n, t, k in args],
            "questions": questions, "optional": rng.random() < 0.3}


EXTRAS = [("unit", ["celsius", "fahrenheit"]), ("units", ["metric", "imperial"]), ("limit", "integer"), ("verbose", "boolean"), ("format", "string"),
          ("language", "string"), ("options", None), ("max_results", "integer"), ("lang", ["en", "de", "fr"])]


def definition(rng, t):
    """An OpenAI tool; the template shows its name, arguments and a piece of the description only."""
    props = {}
    for name, kind, _ in t["args"]:
        props[name] = {"type": kind, "description": f"The {name}."}
    schema = {"type": "object", "properties": props, "required": [a[0] for a in t["args"]]}
    if t["optional"]:
        for name, kind in rng.sample(EXTRAS, rng.choice([1, 1, 2])):
            if name not in props:
                props[name] = {"type": "string", "enum": kind} if isinstance(kind, list) else ({"type": kind} if kind else {})
    about = t["about"]
    if about and rng.random() < 0.1:
        about += " " + rng.choice(["Use this when the user asks for it.", "Call it with care.", "Returns text.", "Args are required. It never fails and always answers quickly."])
    return {"type": "function", "function": {"name": t["name"], "description": about, "parameters": schema}}


def call_of(rng, t, values):
    return {"name": t["name"], "arguments": {a[0]: v for a, v in zip(t["args"], values)}}


def question_of(rng, t, values):
    return rng.choice(t["questions"]).format(*values)


def result_of(rng, t, first):
    """What a tool answers, and that answer in the words of the model."""
    number, word = rng.randint(0, 40), rng.choice("sunny cloudy rainy windy foggy warm cold ready open closed done".split() + [made_up(rng)])
    form = rng.random()
    if form < 0.3:
        said = rng.choice([f"It's always {word} in {first}!", f"The {some_word(rng)} is {word}.", f"It is {word} in {first}.", f"{first}: {word}, {number} degrees.",
                           f"It's {number} degrees and {word}.", f"The weather in {first} is {word}.", f"{some_name(rng)} lives in {some_city(rng)}.",
                           f"It's {number} degrees and {word}.", f"Found {number} {some_word(rng)}s."])
        return said, said
    if form < 0.6:
        said = rng.choice([word, f"{number} degrees", f"{number}", f"{some_number(rng)}", f"{word}, {number} degrees", f"{number}°C", f"{number}:{rng.randint(10, 59)}", "ok",
                           f"{word} and {number} degrees", f"{some_phrase(rng)}", f"{rng.randint(2020, 2030)}-{rng.randint(10, 12)}-{rng.randint(10, 28)}", f"{some_number(rng)}.{number}"])
        return said, None
    if form < 0.93:
        pairs = [("city", str(first)), ("temperature", number), ("condition", word), ("unit", "celsius"), ("temp", number), ("time", f"{number}:30"),
                 ("price", some_number(rng)), ("status", word), ("name", some_name(rng)), ("result", some_number(rng)), ("id", number), (made_up(rng), some_word(rng)),
                 ("forecast", word), ("sum", number), ("humidity", number), ("location", str(first)), ("ok", True), (made_up(rng), number)]
        body = dict(rng.sample(pairs, rng.choice([1, 2, 2, 3, 3, 4])))
        spoken = ", ".join(f"{k} {json.dumps(v) if isinstance(v, bool) else v}" for k, v in body.items())
        text = json.dumps(body, ensure_ascii=False, separators=rng.choice([(", ", ": "), (",", ":")]))
        return text, f"Here is what I found: {spoken}."
    said = rng.choice([f"{word} not found", "timeout", "no such " + some_word(rng), "not allowed", f"unknown {some_word(rng)}"])
    return "Error: " + said, f"Sorry, the tool failed: {said}."


def one_answer(question, said, spoken):
    if spoken:
        return spoken
    for start, verb in (("What is ", "is"), ("What's ", "is")):
        if question.startswith(start) and question.endswith("?"):
            thing = question[len(start):-1]
            return f"{thing[0].upper() + thing[1:]} is {said}."
    return f"The result is {said}."


def tool_turns(rng, t):
    values = [values_of(k)(rng) for _, _, k in t["args"]]
    several = len(t["args"]) == 1 and rng.random() < 0.3
    if not several and len(t["args"]) == 1 and t["args"][0][2] == "city" and rng.random() < 0.1:
        values = [f"{values[0]}, {rng.choice(['CA', 'MA', 'UK', 'TX', *CAPITALS])}"]
    question = question_of(rng, t, values)
    all_values = [values]
    if several:
        kind = values_of(t["args"][0][2])
        all_values += [[kind(rng)] for _ in range(rng.choice([1, 1, 1, 2]))]
        shown = [str(v[0]) for v in all_values]
        base = rng.choice(t["questions"])
        before = base[: base.index("{0}")]
        repeat = before.split()[-1] + " " if before.endswith(" ") and rng.random() < 0.3 else ""
        last = ", and " if len(shown) > 2 and rng.random() < 0.4 else " and "
        joined = ", ".join([shown[0]] + [repeat + s for s in shown[1:-1]]) + last + repeat + shown[-1]
        question = base.format(joined)
    calls = [call_of(rng, t, v) for v in all_values]
    messages = [{"role": "user", "content": question},
                {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": c} for c in calls]}]
    if rng.random() < 0.3:
        return messages
    results = [result_of(rng, t, v[0] if v else "it") for v in all_values]
    messages += [{"role": "tool", "content": said} for said, _ in results]
    if several:
        answer = " ".join(f"{v[0]}: {spoken.removeprefix('Here is what I found: ') if spoken else said + '.'}" for v, (said, spoken) in zip(all_values, results))
    else:
        answer = one_answer(question, *results[0])
    return messages + [{"role": "assistant", "content": answer}]


def tool_use(rng, most=4):
    offered, seen = [], set()
    for _ in range(rng.choice([1, 1, 1, 2, 2, 3, most])):
        t = topic(rng)
        if t["name"] not in seen:
            seen.add(t["name"])
            offered.append(t)
    tools = [definition(rng, t) for t in offered]
    used = offered[0]
    rng.shuffle(tools)
    fate = rng.random()
    if fate < 0.1:
        return rng.choice([small_talk, small_talk, small_talk, fact, count, echo])(rng), tools
    messages = tool_turns(rng, used)
    if fate < 0.2 and messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"):
        messages += tool_turns(rng, rng.choice(offered)) if rng.random() < 0.7 else small_talk(rng)
    elif fate < 0.25:
        messages = small_talk(rng) + messages
    elif fate < 0.32 and len(offered) > 1 and len(messages) > 2:
        messages = two_tools(rng, offered[0], offered[1])
    return messages, tools


def two_tools(rng, one, two):
    values = [[values_of(k)(rng) for _, _, k in t["args"]] for t in (one, two)]
    first, second = (question_of(rng, t, v) for t, v in zip((one, two), values))
    question = f"{first.rstrip('.?')} and {second[0].lower() + second[1:]}" if rng.random() < 0.5 else f"{first} {second}"
    return [{"role": "user", "content": question},
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call_of(rng, t, v)} for t, v in zip((one, two), values)]}]


PLAIN = [(small_talk, 10), (fact, 4), (capital, 14), (count, 15), (arithmetic, 18), (colour, 5), (greeting_abroad, 1), (unknown, 9), (echo, 7), (recite, 9),
         (memory, 5), (some_json, 8), (joke_json, 1), (extract, 5), (persona, 3), (about_text, 4)]


def conversation(rng):
    """One example: OpenAI messages that end with the assistant's, and the tools offered (or None)."""
    if rng.random() < 0.42:
        messages, tools = tool_use(rng, most=4 if rng.random() < 0.8 else 9)
        if rng.random() < 0.35:
            messages = [{"role": "system", "content": rng.choice(SYSTEMS)}] + messages
        return messages, tools
    kinds, weights = zip(*PLAIN)
    messages = rng.choices(kinds, weights)[0](rng)
    while rng.random() < 0.18 and len(messages) < 8 and messages[0]["role"] != "system":
        more = rng.choices(kinds, weights)[0](rng)
        if more[0]["role"] != "system":
            messages += more
    if messages[0]["role"] != "system" and rng.random() < 0.25:
        messages = [{"role": "system", "content": rng.choice(SYSTEMS)}] + messages
    return messages, None
