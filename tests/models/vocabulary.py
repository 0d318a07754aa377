"""Writes the demo model's vocabulary and chat template into a GGUF file."""

import json
import pathlib

import gguf

HERE = pathlib.Path(__file__).parent
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TAGS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]


def write(writer, size=None, tokenizer=HERE / "tokenizer.json"):
    """Adds tokens, merges, special ids and template; returns the tokens in order.

    Control tokens are never rendered as text; the tool tags are, since a parser has to see them. With a
    `size` the vocabulary is filled up with made-up words, which no text is ever split into.
    """
    read = json.loads(pathlib.Path(tokenizer).read_text(encoding="utf-8"))
    ids = dict(read["model"]["vocab"]) | {added["content"]: added["id"] for added in read["added_tokens"]}
    tokens = sorted(ids, key=ids.get)
    if size is not None and size < len(tokens):
        raise ValueError(f"a vocabulary of {size} is smaller than the demo's {len(tokens)}")
    tokens += [f"Ġw{n}" for n in range(len(tokens), size or 0)]
    kinds = {**dict.fromkeys(CONTROL, gguf.TokenType.CONTROL), **dict.fromkeys(TAGS, gguf.TokenType.USER_DEFINED)}
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.get(token, gguf.TokenType.NORMAL) for token in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in read["model"]["merges"]])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_bos_token_id(ids["<|endoftext|>"])
    writer.add_pad_token_id(ids["<|endoftext|>"])
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_eot_token_id(ids["<|im_end|>"])
    writer.add_chat_template((HERE / "chat_template.jinja").read_text(encoding="utf-8"))
    return tokens
