"""Writes trained weights as a GGUF file in Q8_0: `python demo_gguf.py weights.npz demo.gguf`."""

import argparse

import gguf
import numpy as np

import network
import vocabulary

NAMES = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
         "attn_norm": "attn_norm", "ffn_norm": "ffn_norm"}


def neighbours(matrix, shape):
    """Reorders the rows of a query or key matrix from rotated halves to rotated neighbouring pairs."""
    heads = matrix.shape[0] // shape.head
    return matrix.reshape(heads, 2, shape.head // 2, -1).swapaxes(1, 2).reshape(matrix.shape)


def write(weights, path, shape):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Bodhi demo")
    writer.add_description("A tiny chat model trained on made-up conversations, for trying Bodhi offline")
    writer.add_license("Apache-2.0")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(shape.theta)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    vocabulary.write(writer)
    for name, weight in weights.items():
        if name == "embed":
            full = "token_embd"
        elif name == "norm":
            full = "output_norm"
        else:
            layer, part = name.split(".")
            full = f"blk.{layer}.{NAMES[part]}"
            if part in ("q", "k"):
                weight = neighbours(weight, shape)
        if weight.ndim == 1:
            writer.add_tensor(full + ".weight", weight.astype(np.float32))
        else:
            quantized = gguf.quants.quantize(weight.astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(full + ".weight", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(path):
    """The weights of such a file as `network` wants them, and their shape; the reverse of `write`."""
    reader = gguf.GGUFReader(path)
    value = lambda key: reader.fields[f"llama.{key}"].contents()
    tensors = {t.name.removesuffix(".weight"): gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    shape = network.Shape(vocab=value("vocab_size"), width=value("embedding_length"), layers=value("block_count"), heads=value("attention.head_count"),
                          kv_heads=value("attention.head_count_kv"), hidden=value("feed_forward_length"), context=value("context_length"))
    parts = {full: part for part, full in NAMES.items()}
    weights = {"embed": tensors.pop("token_embd"), "norm": tensors.pop("output_norm")}
    for name, tensor in tensors.items():
        _, layer, full = name.split(".")
        if full in ("attn_q", "attn_k"):
            heads = tensor.shape[0] // shape.head
            tensor = tensor.reshape(heads, shape.head // 2, 2, -1).swapaxes(1, 2).reshape(tensor.shape)
        weights[f"{layer}.{parts[full]}"] = tensor
    return weights, shape


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("weights")
    args.add_argument("out")
    args = args.parse_args()
    weights = dict(np.load(args.weights))
    layers = 1 + max(int(name.split(".")[0]) for name in weights if "." in name)
    write(weights, args.out, network.Shape(vocab=len(weights["embed"]), layers=layers))


if __name__ == "__main__":
    main()
