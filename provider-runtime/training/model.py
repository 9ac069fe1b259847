"""The Qwen3 architecture in jax, with the parameters under the names that the safetensors file uses."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Shape:
    """Sizes. Rows are multiples of 32, the block size of Q4_0; a head of 32 is what candle's kernels take."""

    vocab: int
    hidden: int = 192
    layers: int = 3
    heads: int = 6
    kv_heads: int = 2
    head: int = 32
    inner: int = 512
    context: int = 2048
    eps: float = 1e-6
    theta: float = 10000.0


def init(shape: Shape, seed: int) -> dict[str, jnp.ndarray]:
    rng = np.random.default_rng(seed)

    def normal(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        return (rng.standard_normal((rows, columns)) * scale / np.sqrt(columns)).astype(np.float32)

    h, ones = shape.hidden, lambda n: np.ones(n, np.float32)
    params = {"model.embed_tokens.weight": normal(shape.vocab, h), "model.norm.weight": ones(h)}
    for i in range(shape.layers):
        at = f"model.layers.{i}."
        params |= {
            at + "self_attn.q_proj.weight": normal(shape.heads * shape.head, h),
            at + "self_attn.k_proj.weight": normal(shape.kv_heads * shape.head, h),
            at + "self_attn.v_proj.weight": normal(shape.kv_heads * shape.head, h),
            at + "self_attn.o_proj.weight": normal(h, shape.heads * shape.head, 0.3),
            at + "self_attn.q_norm.weight": ones(shape.head),
            at + "self_attn.k_norm.weight": ones(shape.head),
            at + "mlp.gate_proj.weight": normal(shape.inner, h),
            at + "mlp.up_proj.weight": normal(shape.inner, h),
            at + "mlp.down_proj.weight": normal(h, shape.inner, 0.3),
            at + "input_layernorm.weight": ones(h),
            at + "post_attention_layernorm.weight": ones(h),
        }
    return {name: jnp.asarray(value) for name, value in params.items()}


def rms_norm(x, weight, eps):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * weight


def rotate(x, cos, sin):
    """Rotary positions in the half-split form that Qwen uses. x: [batch, time, heads, head]."""
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def hidden_states(params, tokens, segments, shape: Shape):
    """Tokens of several conversations may share a row; `segments` keeps them from seeing each other."""
    batch, time = tokens.shape
    angles = jnp.arange(time)[:, None] * shape.theta ** (-jnp.arange(0, shape.head, 2) / shape.head)
    cos, sin = jnp.cos(angles)[:, None, :], jnp.sin(angles)[:, None, :]
    seen = (segments[:, :, None] == segments[:, None, :]) & jnp.tril(jnp.ones((time, time), bool))
    bias = jnp.where(seen, 0.0, -1e9)[:, None, None]
    x = params["model.embed_tokens.weight"][tokens]
    for i in range(shape.layers):
        p = lambda name: params[f"model.layers.{i}.{name}.weight"]
        y = rms_norm(x, p("input_layernorm"), shape.eps)
        q = (y @ p("self_attn.q_proj").T).reshape(batch, time, shape.heads, shape.head)
        k = (y @ p("self_attn.k_proj").T).reshape(batch, time, shape.kv_heads, shape.head)
        v = (y @ p("self_attn.v_proj").T).reshape(batch, time, shape.kv_heads, shape.head)
        q = rotate(rms_norm(q, p("self_attn.q_norm"), shape.eps), cos, sin)
        k = rotate(rms_norm(k, p("self_attn.k_norm"), shape.eps), cos, sin)
        q = q.reshape(batch, time, shape.kv_heads, shape.heads // shape.kv_heads, shape.head)
        scores = jnp.einsum("btgrd,bsgd->bgrts", q, k) / np.sqrt(shape.head) + bias
        mixed = jnp.einsum("bgrts,bsgd->btgrd", jax.nn.softmax(scores, -1), v).reshape(batch, time, -1)
        x = x + mixed @ p("self_attn.o_proj").T
        y = rms_norm(x, p("post_attention_layernorm"), shape.eps)
        x = x + (jax.nn.silu(y @ p("mlp.gate_proj").T) * (y @ p("mlp.up_proj").T)) @ p("mlp.down_proj").T
    return rms_norm(x, params["model.norm.weight"], shape.eps)


def loss(params, tokens, segments, learn, shape: Shape):
    """Mean cross-entropy over the assistant's tokens. learn[b, t] says whether token t is one of them."""
    x = hidden_states(params, tokens, segments, shape)[:, :-1]
    logits = x @ params["model.embed_tokens.weight"].T
    chosen = jnp.sum(logits * jax.nn.one_hot(tokens[:, 1:], shape.vocab), -1)
    weight = learn[:, 1:]
    return jnp.sum((jax.nn.logsumexp(logits, -1) - chosen) * weight) / jnp.maximum(weight.sum(), 1.0)
