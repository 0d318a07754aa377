"""The demo model's network in jax: the llama architecture, as small as it comes.

Weights are a flat dictionary of float32 matrices, [output, input] as GGUF stores them. Rotary positions turn
the two halves of a head here; `demo.py` reorders the rows to the neighbouring pairs that llama.cpp turns.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Shape:
    vocab: int = 1024
    width: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 384
    context: int = 1024
    theta: float = 10000.0
    eps: float = 1e-5

    @property
    def head(self):
        return self.width // self.heads


def init(shape, seed):
    """Fresh weights; the matrices that write into the residual stream start at zero."""
    rng = np.random.default_rng(seed)
    normal = lambda rows, columns: rng.standard_normal((rows, columns), np.float32) * columns ** -0.5
    weights = {"embed": rng.standard_normal((shape.vocab, shape.width), np.float32) * 0.05, "norm": np.ones(shape.width, np.float32)}
    for i in range(shape.layers):
        weights |= {
            f"{i}.attn_norm": np.ones(shape.width, np.float32), f"{i}.ffn_norm": np.ones(shape.width, np.float32),
            f"{i}.q": normal(shape.width, shape.width), f"{i}.k": normal(shape.kv_heads * shape.head, shape.width),
            f"{i}.v": normal(shape.kv_heads * shape.head, shape.width), f"{i}.o": np.zeros((shape.width, shape.width), np.float32),
            f"{i}.gate": normal(shape.hidden, shape.width), f"{i}.up": normal(shape.hidden, shape.width),
            f"{i}.down": np.zeros((shape.width, shape.hidden), np.float32),
        }
    return weights


def rms_norm(x, gain, eps):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * gain


def rotate(x, cos, sin):
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def logits(weights, ids, document, shape):
    """Scores of the next token, [batch, time, vocab]. Tokens see only earlier ones of the same `document`."""
    batch, time = ids.shape
    x = weights["embed"][ids]
    angle = jnp.arange(time)[:, None] * shape.theta ** (-jnp.arange(0, shape.head, 2) / shape.head)[None]
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    seen = (document[:, :, None] == document[:, None, :]) & jnp.tril(jnp.ones((time, time), bool))
    bias = jnp.where(seen, 0.0, -1e9)[:, None, None]
    group = shape.heads // shape.kv_heads
    for i in range(shape.layers):
        w = lambda name: weights[f"{i}.{name}"]
        h = rms_norm(x, w("attn_norm"), shape.eps)
        q = rotate((h @ w("q").T).reshape(batch, time, shape.heads, shape.head), cos, sin)
        k = rotate((h @ w("k").T).reshape(batch, time, shape.kv_heads, shape.head), cos, sin)
        v = (h @ w("v").T).reshape(batch, time, shape.kv_heads, shape.head)
        q = q.reshape(batch, time, shape.kv_heads, group, shape.head)
        score = jnp.einsum("btkgd,bskd->bkgts", q, k) * shape.head ** -0.5 + bias
        mixed = jnp.einsum("bkgts,bskd->btkgd", jax.nn.softmax(score, -1), v)
        x = x + mixed.reshape(batch, time, shape.width) @ w("o").T
        h = rms_norm(x, w("ffn_norm"), shape.eps)
        x = x + (jax.nn.silu(h @ w("gate").T) * (h @ w("up").T)) @ w("down").T
    return rms_norm(x, weights["norm"], shape.eps) @ weights["embed"].T
