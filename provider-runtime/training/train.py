"""Trains Padi, the model that comes with Lumbung, and writes provider-runtime/models/. See README.md.

Usage: python train.py [--steps N] [--out ../models]
Exits with 1 when the saved weights give less than LEAST_RIGHT of the fixed answers. questions.json lists those that they give.
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import check
import export
import model
import optimizer
from chats import Teller
from corpus import Block, all_blocks

VOCAB, SEED = 1024, 7
# (rows, length) for each kind of conversation. Most are short, and attention over long rows is dear on a CPU.
SIZES = {"short": (24, 128), "long": (6, 384), "deep": (2, 768)}
ROUND = ("short", "short", "long", "short", "short", "long", "short", "short", "long", "short", "short", "deep")
# What an answer's weakest token must lead by, in logits, so that another order of summation or another kernel cannot turn it.
LEAST_MARGIN = 1.0
LONG_TOKENS = 100
# The part of the fixed answers that must be right, each with that margin.
LEAST_RIGHT = 0.95


class Rows:
    """Packs conversations into rows of one length, several to a row."""

    def __init__(self, teller: Teller, tokenizer, kind: str):
        self.teller, self.tokenizer, self.kind, self.size = teller, tokenizer, kind, SIZES[kind]
        self.known: dict[str, list[int]] = {}
        self.waiting: tuple[list[int], list[bool]] | None = None

    def encode(self, text: str) -> list[int]:
        if text not in self.known:
            self.known[text] = self.tokenizer.encode(text).ids
        return self.known[text]

    def chat(self) -> tuple[list[int], list[bool]]:
        # Pieces are encoded one by one, as at inference, where an answer never merges with what stands before it.
        chat, tokens, learn = self.teller.draw(self.kind), [], []
        for piece, learned in zip(chat.pieces, chat.learn):
            ids = self.encode(piece)
            tokens += ids
            learn += [learned] * len(ids)
        return tokens, learn

    def batch(self):
        count, length = self.size
        tokens = np.zeros((count, length), np.int32)
        segments = np.zeros((count, length), np.int32)
        learn = np.zeros((count, length), np.float32)
        for row in range(count):
            at, number = 0, 1
            while True:
                ids, learned = self.waiting or self.chat()
                self.waiting = None
                if len(ids) > length:  # too many turns: keep the first ones
                    ids, learned = ids[:length], learned[:length]
                if at + len(ids) > length:
                    self.waiting = ids, learned
                    break
                end = at + len(ids)
                tokens[row, at:end], segments[row, at:end], learn[row, at:end] = ids, number, learned
                at, number = end, number + 1
        return tokens, segments, learn


def falling(done: float) -> float:
    """Warm up over the first 2 %, hold, then fall to zero over the second half."""
    return min(1.0, done / 0.02, max(0.0, (1 - done) / 0.5))


class Trainer:
    def __init__(self, rows: dict[str, Rows], params, shape: model.Shape):
        @partial(jax.jit, donate_argnums=(0, 1))
        def update(params, state, count, rate, tokens, segments, learn):
            value, grads = jax.value_and_grad(model.loss)(params, tokens, segments, learn, shape)
            params, state = optimizer.step(params, grads, state, count, rate)
            return params, state, value

        self.rows, self.params, self.update = rows, params, update
        self.state, self.count, self.started, self.losses = optimizer.init(params), 0, time.time(), []

    def run(self, steps: int) -> None:
        for step in range(steps):
            batch = self.rows[ROUND[self.count % len(ROUND)]].batch()
            self.count += 1
            rate = falling((step + 1) / (steps + 1))
            self.params, self.state, value = self.update(self.params, self.state, jnp.float32(self.count), jnp.float32(rate), *batch)
            self.losses.append(float(value))
            if (step + 1) % 25 == 0 or step + 1 == steps:
                print(f"step {self.count}  loss {self.loss():.4f}  {time.time() - self.started:.0f} s", flush=True)

    def loss(self) -> float:
        return float(np.mean(self.losses[-2 * len(ROUND) :]))


def ask(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def fixed_questions(asker: check.Asker, blocks: list[Block]) -> tuple[list[dict], dict[str, str]]:
    """Every written block's first question, and a few of the made ones. Returns those that are right, and what is wrong by question."""
    right, wrong = [], {}
    made = [b for b in blocks if b.topic == "sums"][::9] + [b for b in blocks if b.topic == "json"][::6]
    for block in [b for b in blocks if b.topic not in ("sums", "json", "unknown")] + made:
        verdict = asker.judge(ask(block.questions[0]), block.answer)
        if not verdict.right:
            wrong[block.questions[0]] = f"wrote {verdict.wrote!r}"
            continue
        if verdict.margin < LEAST_MARGIN:
            wrong[block.questions[0]] = f"margin {verdict.margin:.2f} is too small"
            continue
        entry = {"question": block.questions[0], "answer": block.answer, "tokens": verdict.tokens, "topic": block.topic}
        if verdict.tokens >= LONG_TOKENS:
            entry["long"] = True
        if not block.answer.isascii():
            entry["multibyte"] = True
        right.append(entry)
    return right, wrong


def survey(asker: check.Asker, blocks: list[Block]) -> None:
    """How often an answer survives other circumstances. Reported, not required."""
    earlier = [*ask("What is a ledger?"), {"role": "assistant", "content": "A book."}, *ask("ok"), {"role": "assistant", "content": "Good."}]
    words = "the gateway asks every provider for a price and keeps a book of what was delivered to whom and when " * 12
    ways = {
        "plain": lambda q: ask(q),
        "lower case, no mark": lambda q: ask(q.rstrip("?.!").lower() or q),
        "helpful assistant": lambda q: [{"role": "system", "content": "You are a helpful assistant."}, *ask(q)],
        "unseen system message": lambda q: [{"role": "system", "content": "Act as a librarian who loves trains and tea."}, *ask(q)],
        "long system message": lambda q: [{"role": "system", "content": words}, *ask(q)],
        "earlier turns": lambda q: [*earlier, *ask(q)],
    }
    for name, way in ways.items():
        chosen = [b for b in blocks if b.topic not in ("sums", "json") and len(b.answer) < 250][::2]
        right = sum(asker.judge(way(b.questions[0]), b.answer).right for b in chosen)
        print(f"survey: {name}: {right} of {len(chosen)}")
    sums = [b for b in blocks if b.topic in ("sums", "json")]
    print(f"survey: sums and JSON: {sum(asker.judge(ask(b.questions[0]), b.answer).right for b in sums)} of {len(sums)}")
    others = [(q, b) for b in blocks if b.topic not in ("sums", "json") and len(b.answer) < 250 for q in b.questions[1:]][::2]
    print(f"survey: other wordings: {sum(asker.judge(ask(q), b.answer).right for q, b in others)} of {len(others)}")


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--steps", type=int, default=800)
    options.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "models")
    chosen = options.parse_args()

    blocks = all_blocks()
    tellers = {kind: Teller(blocks, SEED + i) for i, kind in enumerate(SIZES)}
    # The tokenizer sees what the model will: every question and answer, and some tool lists and names.
    sample = [text for _ in range(100) for teller in tellers.values() for text in teller.draw("long").pieces]
    texts = [q for b in blocks for q in b.questions] + [b.answer for b in blocks] * 2 + sample
    tokenizer = export.make_tokenizer(texts, VOCAB)
    shape = model.Shape(VOCAB)
    params = model.init(shape, SEED)
    print(f"{len(blocks)} answers, {sum(v.size for v in params.values())} parameters", flush=True)

    rows = {kind: Rows(teller, tokenizer, kind) for kind, teller in tellers.items()}
    trainer, folder = Trainer(rows, params, shape), chosen.out / "padi"
    trainer.run(chosen.steps)
    export.write_folder(folder, trainer.params, tokenizer, shape)
    asker = check.Asker(folder)
    right, wrong = fixed_questions(asker, blocks)
    for question, complaint in wrong.items():
        print("WRONG", question, complaint[:200], flush=True)
    seen = export.write_q4(chosen.out / "padi-q4" / "padi-q4_0.gguf", folder, tokenizer, shape)
    export.write_json(chosen.out / "questions.json", right, indent=1)
    survey(asker, blocks)
    quantized = check.Asker(folder, seen)
    same = sum(quantized.judge(ask(e["question"]), e["answer"]).right for e in right)
    fixed = len(right) + len(wrong)
    print(f"trained in {time.time() - trainer.started:.0f} s, final loss {trainer.loss():.5f}; {len(right)} of {fixed} fixed answers "
          f"right; Q4_0 gives {same} of those {len(right)}")
    return 1 if len(right) < LEAST_RIGHT * fixed else 0


if __name__ == "__main__":
    sys.exit(main())
