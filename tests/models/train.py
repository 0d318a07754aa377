"""Trains the demo model: `python train.py OUT.npz --steps N`. Seeded; about 2,048 tokens a step.

Conversations are packed into rows and made anew at each step. Matrices are trained with Muon, the
embedding and the norms with Adam; the rate rises over 100 steps and then falls to zero in a straight line.
"""

import argparse
import queue
import random
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib
from tokenizers import Tokenizer

import network
import tokens

TOKENS = 2048
PROMPT_WEIGHT = 0.1  # learning to predict prompts helps copying, but is not the aim


def batches(tokenizer, seed, steps):
    """Rows of 256, 512 or 1,024 tokens, filled with whole conversations; one too long waits for longer rows."""
    rng, waiting = random.Random(seed), []
    for step in range(steps):
        length = (256, 256, 512, 256, 256, 512, 256, 1024)[step % 8]
        shape = (TOKENS // length, length + 1)
        ids, document, weight = np.zeros(shape, np.int32), np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
        for row in range(shape[0]):
            at, number, refused = 0, 0, 0
            while refused < (3 if len(waiting) < 64 else 1):
                fits = next((i for i, (waits, _) in enumerate(waiting) if at + len(waits) <= length + 1), None)
                drawn, said = waiting.pop(fits) if fits is not None else tokens.example(rng, tokenizer)
                end = at + len(drawn)
                if end > length + 1:
                    refused += 1
                    if len(drawn) <= 1025 and len(waiting) < 64:
                        waiting.append((drawn, said))
                    continue
                ids[row, at:end], document[row, at:end] = drawn, number
                weight[row, at + 1:end] = np.maximum(PROMPT_WEIGHT, said[1:])
                at, number = end, number + 1
        yield ids, document, weight


def ahead(source, depth=8):
    """Runs `source` on a thread of its own, `depth` items ahead."""
    ready = queue.Queue(depth)

    def fill():
        for item in source:
            ready.put(item)
        ready.put(None)

    threading.Thread(target=fill, daemon=True).start()
    return iter(ready.get, None)


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("out")
    args.add_argument("--tokenizer", default="tokenizer.json")
    args.add_argument("--steps", type=int, default=3000)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--layers", type=int, default=4)
    args.add_argument("--start", help="weights to go on from instead of fresh ones")
    args.add_argument("--rate", type=float, default=1.0, help="factor on both learning rates")
    args = args.parse_args()

    tokenizer = Tokenizer.from_file(args.tokenizer)
    shape = network.Shape(vocab=tokenizer.get_vocab_size(), layers=args.layers)
    weights = dict(np.load(args.start)) if args.start else network.init(shape, args.seed)
    weights = jax.tree.map(jnp.asarray, weights)
    rate = lambda peak: optax.join_schedules(
        [optax.linear_schedule(0, peak * args.rate, 100), optax.linear_schedule(peak * args.rate, 0, args.steps - 100)], [100])
    kind = lambda name, w: "muon" if w.ndim == 2 and name != "embed" else "adam"
    optimizer = optax.multi_transform(
        {"muon": contrib.muon(rate(0.008), consistent_rms=0.2), "adam": optax.adam(rate(0.004), b2=0.99)},
        {name: kind(name, w) for name, w in weights.items()})
    state = optimizer.init(weights)

    def loss(weights, ids, document, weight):
        scores = network.logits(weights, ids[:, :-1], document[:, :-1], shape)
        each = optax.softmax_cross_entropy_with_integer_labels(scores, ids[:, 1:])
        w = weight[:, 1:]
        said = w == 1
        return (each * w).sum() / w.sum(), (each * said).sum() / said.sum()

    @jax.jit
    def step(weights, state, ids, document, weight):
        (_, said), slope = jax.value_and_grad(loss, has_aux=True)(weights, ids, document, weight)
        change, state = optimizer.update(slope, state, weights)
        return optax.apply_updates(weights, change), state, said

    start, recent = time.time(), []
    for number, batch in enumerate(ahead(batches(tokenizer, args.seed, args.steps)), 1):
        weights, state, said = step(weights, state, *batch)
        recent.append(float(said))
        if number % 25 == 0:
            print(f"step {number} loss of the assistant's tokens {np.mean(recent):.4f}, {time.time() - start:.0f} s", flush=True)
            recent = []
        if number % 250 == 0 or number == args.steps:
            np.savez(args.out, **jax.tree.map(np.asarray, weights))


if __name__ == "__main__":
    main()
