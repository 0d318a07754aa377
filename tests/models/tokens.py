"""The demo model's vocabulary, and conversations as tokens with the weight of each in the loss.

Byte-level BPE whose merges never join a space, quote or underscore to the word behind it, except for the
commonest words: `Paris` is the same tokens in ` Paris` and in `"Paris"`, which is what makes copying a
value from a sentence into JSON learnable for a model this small.
"""

import collections
import json
import pathlib
import random
import re

import jinja2
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers, decoders

import corpus

# The split of llama.cpp's `qwen2` pre-tokenizer.
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# The same, with words split from the character before them: used to learn merges only.
APART = r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s"
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TAGS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
SPACED = 110


def template():
    env = jinja2.Environment()
    env.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    with open(pathlib.Path(__file__).parent / "chat_template.jinja", encoding="utf-8") as file:
        return env.from_string(file.read())


TEMPLATE = template()


def render(messages, tools, generate=False):
    return TEMPLATE.render(messages=messages, tools=tools, add_generation_prompt=generate)


def train(path, size, seed=1, examples=12000):
    """Learns the merges from `examples` conversations and writes a tokenizer.json of exactly `size` tokens."""
    rng = random.Random(seed)
    texts = [re.sub(r"<\|?/?\w+\|?>", "", render(*corpus.conversation(rng))) for _ in range(examples)]
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(APART), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    specials = len(CONTROL) + len(TAGS)
    learner.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size - specials - SPACED, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    vocab, merges = dict(learnt["vocab"]), [tuple(m) for m in learnt["merges"]]
    words = collections.Counter(w for text in texts for w in re.findall(r"(?<= )[a-z]+\b", text))
    for word, _ in words.most_common():
        if len(vocab) == size - specials:
            break
        if word in vocab and "Ġ" + word not in vocab:
            vocab["Ġ" + word] = len(vocab)
            merges.append(("Ġ", word))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN2), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(CONTROL)
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    assert tokenizer.get_vocab_size() == size, tokenizer.get_vocab_size()
    tokenizer.save(path)


def example(rng, tokenizer):
    """One conversation: its token ids, and 1 for each that the assistant has to say itself."""
    ids = tokenizer.encode(render(*corpus.conversation(rng)), add_special_tokens=False).ids
    start, end = tokenizer.token_to_id("<|im_start|>"), tokenizer.token_to_id("<|im_end|>")
    header = tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False).ids
    said, speaking = [0] * len(ids), False
    for i, token in enumerate(ids):
        if token == start:
            speaking = ids[i: i + len(header)] == header
            begin = i + len(header)
        elif speaking and i >= begin:
            said[i] = 1
            speaking = token != end
    return ids, said
