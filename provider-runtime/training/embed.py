"""Makes padi-embed, the bundled model of vectors: a text's vector is the sum of its tokens', which come out of a closed formula.

The formula is linear discriminant analysis: wordings of one question (`corpus.py`) are to lie together, different questions apart.
No step is random, and numpy is all it takes: seconds. Engines load it as a Qwen3 whose only layer passes on what it gets (its weights
are zero). Exits with 1 when wordings of questions that it was not made from are not found again.
"""

import argparse
import functools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from corpus import Block, all_blocks

MODELS = Path(__file__).parents[1] / "models"
WIDTH, RIDGE = 128, 0.1
HIDDEN, INNER, HEADS, KV_HEADS, HEAD = 192, 8, 6, 2, 32
FAINT = 0.02
BESIDE = ("tokenizer.json", "tokenizer_config.json")


def reader(folder: Path):
    """How often each token is in a text."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    return functools.cache(lambda text: np.bincount(tokenizer.encode(text).ids, minlength=size).astype(np.float32))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def fit(read, blocks: list[Block], width: int = WIDTH, ridge: float = RIDGE) -> np.ndarray:
    """The matrix, a column for each token: whitens what wordings of one question differ by, then keeps the directions in which questions
    differ most."""
    groups = [unit(np.stack([read(text) for text in (*block.questions, block.answer)])).astype(np.float64) for block in blocks]
    within = np.concatenate([group - group.mean(0) for group in groups])
    within = within.T @ within / len(within)
    within += np.eye(len(within)) * ridge * np.trace(within) / len(within)
    values, vectors = np.linalg.eigh(within)
    whiten = vectors / np.sqrt(values) @ vectors.T
    means = np.stack([group.mean(0) for group in groups])
    centre = unit(means.mean(0) @ whiten)  # the direction that all texts share says nothing
    means = means @ whiten
    means -= np.outer(means @ centre, centre)
    _, directions = np.linalg.eigh(means.T @ means)
    kept = directions[:, ::-1][:, :width]
    kept *= np.sign(kept[np.abs(kept).argmax(0), np.arange(kept.shape[1])])  # a direction has no sign of its own
    return ((whiten - np.outer(whiten @ centre, centre)) @ kept).T.astype(np.float32)


def found(read, matrix: np.ndarray, blocks: list[Block]) -> float:
    """The share of wordings whose nearest among all other texts is another wording of the same question."""
    texts = [(number, text) for number, block in enumerate(blocks) for text in block.questions]
    of = np.array([number for number, _ in texts])
    vectors = unit(np.stack([read(text) for _, text in texts]) @ matrix.T)
    near = vectors @ vectors.T
    np.fill_diagonal(near, -np.inf)
    several = np.bincount(of)[of] > 1
    return float((of[near.argmax(1)] == of)[several].mean())


def tensors(matrix: np.ndarray, padi: np.ndarray) -> dict[str, np.ndarray]:
    """The matrix as the table of a Qwen3. Its norm makes all tokens equally long, so each row has, beside its own numbers, one that makes
    all rows equally long before; the dense layer leaves that out again."""
    rows = matrix.T / np.linalg.norm(matrix, axis=0).max()
    # Tokens that the corpus does not have are told apart by padi's own table, faintly: no text is without a direction.
    unseen = np.linalg.norm(rows, axis=1) < FAINT
    rows[unseen] = FAINT * unit(padi[unseen, :WIDTH])
    table = np.zeros((len(rows), HIDDEN), np.float32)
    table[:, :WIDTH] = rows
    table[:, WIDTH] = np.sqrt(np.maximum(0, 1 - (rows**2).sum(1)))
    at = "layers.0."
    zeros = {
        "self_attn.q_proj": (HEADS * HEAD, HIDDEN), "self_attn.k_proj": (KV_HEADS * HEAD, HIDDEN), "self_attn.v_proj": (KV_HEADS * HEAD, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HEADS * HEAD), "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER),
    }
    ones = {"input_layernorm": HIDDEN, "post_attention_layernorm": HIDDEN, "self_attn.q_norm": HEAD, "self_attn.k_norm": HEAD}
    layer = {f"{at}{name}.weight": np.zeros(shape) for name, shape in zeros.items()} | {f"{at}{name}.weight": np.ones(size) for name, size in ones.items()}
    named = {"embed_tokens.weight": table, "norm.weight": np.ones(HIDDEN), **layer}
    return {name: value.astype(np.float16) for name, value in named.items()}


def write(folder: Path, source: Path, matrix: np.ndarray) -> None:
    """As sentence-transformers lays a model out: transformer, pooling, dense, normalize."""
    if folder.exists():
        shutil.rmtree(folder)
    for part in ("1_Pooling", "2_Dense"):
        (folder / part).mkdir(parents=True)
    for name in BESIDE:
        shutil.copyfile(source / name, folder / name)

    def write_json(name: str, value) -> None:
        (folder / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")

    config = json.loads((source / "config.json").read_text("utf-8"))
    shape = dict(hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=1, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
                 head_dim=HEAD, max_window_layers=1)
    write_json("config.json", config | shape)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize")]
    write_json(
        "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"} for i, (path, kind) in enumerate(kinds)],
    )
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    pooling = {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in modes}
    write_json("1_Pooling/config.json", {"word_embedding_dimension": HIDDEN, **pooling, "include_prompt": True})
    identity = "torch.nn.modules.linear.Identity"
    write_json("2_Dense/config.json", {"in_features": HIDDEN, "out_features": WIDTH, "bias": False, "activation_function": identity})

    def save(name: str, named: dict[str, np.ndarray]) -> None:
        save_file(named, str(folder / name), metadata={"format": "pt"})
        (folder / name).chmod(0o644)  # safetensors writes 600, which a container's user could not read

    padi = load_file(source / "model.safetensors")["model.embed_tokens.weight"].astype(np.float32)
    save("model.safetensors", tensors(matrix, padi))
    save("2_Dense/model.safetensors", {"linear.weight": np.eye(WIDTH, HIDDEN, dtype=np.float16)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write padi-embed into")
    out = parser.parse_args().out
    source = MODELS / "padi"
    read, blocks = reader(source), all_blocks()
    # Made from one half of the questions, and asked for the other half.
    halves = [blocks[0::2], blocks[1::2]]
    unseen = [found(read, fit(read, made_from), asked) for made_from, asked in (halves, halves[::-1])]
    plain = [found(read, np.eye(len(read("x")), dtype=np.float32), half) for half in halves[::-1]]
    matrix = fit(read, blocks)
    print(f"wordings found again, of questions it was not made from: {unseen[0]:.3f}, {unseen[1]:.3f}; by counting tokens: {plain[0]:.3f}, {plain[1]:.3f}")
    print(f"of all questions: {found(read, matrix, blocks):.3f}")
    write(out / "padi-embed", source, matrix)
    sys.exit(0 if min(unseen) >= 0.65 else 1)
