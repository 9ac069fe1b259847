"""Asks the saved model, as an engine would: files from disk, the chat template, greedy, in plain numpy (no jax, so a second implementation).

An answer is greedy exactly when, with the answer itself as input, the best token at every position is the next one. So one pass per
question tells whether the model would write the answer, and by how much each token won (the margin, in logits).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer


@dataclass(frozen=True)
class Verdict:
    right: bool
    margin: float  # the smallest lead of the right token over the runner-up; negative when wrong
    tokens: int  # of the answer, <|im_end|> included
    wrote: str  # the answer, cut where the model would leave it


class Asker:
    def __init__(self, folder: Path, weights: dict[str, np.ndarray] | None = None):
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        source = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
        environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        self.template = environment.from_string(source)
        weights = weights or load_file(folder / "model.safetensors")
        self.weights = {name: value.astype(np.float32) for name, value in weights.items()}

    def logits(self, tokens: list[int]) -> np.ndarray:
        c, w, t = self.config, self.weights, len(tokens)
        heads, kv_heads, head = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        angles = np.arange(t)[:, None] * c["rope_theta"] ** (-np.arange(0, head, 2) / head)
        cos, sin = np.cos(angles)[:, None].astype(np.float32), np.sin(angles)[:, None].astype(np.float32)
        future = np.triu(np.full((t, t), -np.inf, np.float32), 1)

        def norm(x, name):
            return x / np.sqrt((x * x).mean(-1, keepdims=True) + c["rms_norm_eps"]) * w[name + ".weight"]

        def rotate(x):
            a, b = np.split(x, 2, -1)
            return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

        x = w["model.embed_tokens.weight"][tokens]
        for i in range(c["num_hidden_layers"]):
            at = f"model.layers.{i}."
            y = norm(x, at + "input_layernorm")
            q = rotate(norm((y @ w[at + "self_attn.q_proj.weight"].T).reshape(t, heads, head), at + "self_attn.q_norm"))
            k = rotate(norm((y @ w[at + "self_attn.k_proj.weight"].T).reshape(t, kv_heads, head), at + "self_attn.k_norm"))
            v = (y @ w[at + "self_attn.v_proj.weight"].T).reshape(t, kv_heads, head)
            k, v = np.repeat(k, heads // kv_heads, 1), np.repeat(v, heads // kv_heads, 1)
            scores = q.transpose(1, 0, 2) @ k.transpose(1, 2, 0) / np.sqrt(np.float32(head)) + future
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed = (scores / scores.sum(-1, keepdims=True) @ v.transpose(1, 0, 2)).transpose(1, 0, 2).reshape(t, -1)
            x = x + mixed @ w[at + "self_attn.o_proj.weight"].T
            y = norm(x, at + "post_attention_layernorm")
            gate = y @ w[at + "mlp.gate_proj.weight"].T
            x = x + (gate / (1 + np.exp(-gate)) * (y @ w[at + "mlp.up_proj.weight"].T)) @ w[at + "mlp.down_proj.weight"].T
        return norm(x, "model.norm") @ w["model.embed_tokens.weight"].T

    def prompt(self, messages: list[dict], tools: list | None = None) -> list[int]:
        return self.tokenizer.encode(self.template.render(messages=messages, tools=tools, add_generation_prompt=True)).ids

    def judge(self, messages: list[dict], answer: str, tools: list | None = None) -> Verdict:
        prompt = self.prompt(messages, tools)
        target = self.tokenizer.encode(answer + "<|im_end|>").ids
        logits = self.logits(prompt + target)[len(prompt) - 1 : -1]
        rows = np.arange(len(target))
        won = logits[rows, target].copy()
        logits[rows, target] = -np.inf
        lead = won - logits.max(-1)
        wrong = np.flatnonzero(lead <= 0)
        wrote = self.tokenizer.decode([*target[: wrong[0]], int(logits[wrong[0]].argmax())]) if len(wrong) else answer
        return Verdict(not len(wrong), float(lead.min()), len(target), wrote)

    def write(self, messages: list[dict], limit: int = 200, tools: list | None = None) -> str:
        """Greedy, token by token and without a cache: slow, for trying things out."""
        tokens = self.prompt(messages, tools)
        start = len(tokens)
        while len(tokens) - start < limit:
            tokens.append(int(self.logits(tokens)[-1].argmax()))
            if tokens[-1] == self.config["eos_token_id"]:
                break
        return self.tokenizer.decode(tokens[start:])


if __name__ == "__main__":  # python check.py "What is a lumbung?" ["second turn" ...]
    import sys

    asker, messages = Asker(Path(__file__).parents[1] / "models" / "padi"), []
    for text in sys.argv[1:]:
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": asker.write(messages)})
        print("-", text, "\n ", messages[-1]["content"])
