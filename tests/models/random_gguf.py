"""Makes a llama-architecture GGUF with random weights in Q8_0, of any size, for load tests.

    python random_gguf.py OUT.gguf --params 250M --context 4096 --vocab 32000

It computes what a real model of that size computes and says gibberish. Tokens that end a text or are not
text by themselves have no weight in the output matrix, so a generation runs to its `max_tokens` and is
valid UTF-8. The same arguments give the same bytes.
"""

import argparse

import gguf
import numpy as np

import vocabulary

HEAD = 64
UNIFORM = 127 / 3 ** 0.5  # the spread of evenly drawn int8 values
UNITS = {"K": 10 ** 3, "M": 10 ** 6, "B": 10 ** 9}


def count(text):
    """Reads `250M`, `1.5B` or a plain number."""
    unit = UNITS.get(text[-1].upper())
    return int(float(text[:-1]) * unit) if unit else int(text)


def parameters(width, layers, vocab):
    hidden, kv = hidden_of(width), kv_heads_of(width) * HEAD
    return layers * (2 * width * width + 2 * width * kv + 3 * width * hidden) + 2 * vocab * width


def hidden_of(width):
    return (width * 8 // 3 + 31) // 32 * 32


def kv_heads_of(width):
    """About a quarter of the heads, as in most models of today; it has to divide them."""
    heads = width // HEAD
    return next(kv for kv in range(max(1, heads // 4), 0, -1) if heads % kv == 0)


def proportions(wanted, vocab):
    """The width and number of layers nearest to `wanted` parameters, about one layer per 64 of width."""
    candidates = []
    for width in range(HEAD, 16384, HEAD):
        if width > 4 * HEAD and width % (4 * HEAD):
            continue  # heads in fours, to be shared by one KV head
        for layers in {max(1, width // HEAD + more) for more in range(-6, 13)}:
            candidates.append((abs(parameters(width, layers, vocab) - wanted), width, layers))
    return min(candidates)[1:]


def matrix(rng, rows, columns, spread):
    """Q8_0 blocks drawn at once: a half-precision scale and 32 signed bytes each."""
    blocks = np.empty((rows, columns // 32, 34), np.uint8)
    blocks[:, :, :2] = np.frombuffer(np.float16(spread / UNIFORM).tobytes(), np.uint8)
    blocks[:, :, 2:] = rng.integers(-127, 128, (rows, columns // 32, 32), np.int8).view(np.uint8)
    return blocks.reshape(rows, -1)


def is_text(token):
    """Whether a byte-level token is printable ASCII, and so text wherever it stands."""
    return token.isascii() or token.startswith("Ġ") and token[1:].isascii()


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("out")
    args.add_argument("--params", type=count, default=count("250M"), help="parameters, as in 250M")
    args.add_argument("--vocab", type=int, default=32000, help="tokens; the demo's are filled up with made-up words")
    args.add_argument("--context", type=int, default=4096)
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()

    width, layers = proportions(args.params, args.vocab)
    heads, kv_heads, hidden = width // HEAD, kv_heads_of(width), hidden_of(width)
    rng = np.random.default_rng(args.seed)
    writer = gguf.GGUFWriter(args.out, "llama", use_temp_file=True)
    writer.add_name(f"random {args.params}")
    writer.add_context_length(args.context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(10000.0)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    tokens = vocabulary.write(writer, args.vocab)

    def add(name, rows, columns, spread):
        writer.add_tensor(name, matrix(rng, rows, columns, spread), raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    even = lambda columns: columns ** -0.5
    add("token_embd.weight", len(tokens), width, 1.0)
    silent = [i for i, token in enumerate(tokens) if not is_text(token) or token in vocabulary.CONTROL + vocabulary.TAGS]
    output = matrix(rng, len(tokens), width, 4 * even(width))
    output.reshape(len(tokens), -1, 34)[silent, :, 2:] = 0
    writer.add_tensor("output.weight", output, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for i in range(layers):
        writer.add_tensor(f"blk.{i}.attn_norm.weight", np.ones(width, np.float32))
        writer.add_tensor(f"blk.{i}.ffn_norm.weight", np.ones(width, np.float32))
        add(f"blk.{i}.attn_q.weight", width, width, even(width))
        add(f"blk.{i}.attn_k.weight", kv_heads * HEAD, width, even(width))
        add(f"blk.{i}.attn_v.weight", kv_heads * HEAD, width, even(width))
        add(f"blk.{i}.attn_output.weight", width, width, even(width))
        add(f"blk.{i}.ffn_gate.weight", hidden, width, even(width))
        add(f"blk.{i}.ffn_up.weight", hidden, width, even(width))
        add(f"blk.{i}.ffn_down.weight", width, hidden, even(hidden))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    total = parameters(width, layers, len(tokens))
    print(f"{args.out}: {total / 1e6:.0f}M parameters, width {width}, {layers} layers, {heads} heads ({kv_heads} KV), context {args.context}")


if __name__ == "__main__":
    main()
