"""Muon for the matrices of the layers, Adam for embeddings and norms.

Muon is momentum followed by the nearest orthogonal matrix. It was chosen because it is known to need few steps, which is what counts on
two CPU cores; it was not compared with Adam alone on this text.
"""

import jax
import jax.numpy as jnp


def is_matrix(name: str, value) -> bool:
    return value.ndim == 2 and "embed" not in name


def orthogonal(m):
    """Newton-Schulz iteration towards U V^T of m = U S V^T; the coefficients trade exactness for few steps."""
    tall = m.shape[0] > m.shape[1]
    x = (m.T if tall else m) / (jnp.linalg.norm(m) + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if tall else x


def init(params):
    return {name: (jnp.zeros_like(v), jnp.zeros_like(v)) for name, v in params.items()}


def step(params, grads, state, count, rate):
    """One update. `rate` is the schedule's factor, from 0 to 1."""
    new_params, new_state = {}, {}
    for name, value in params.items():
        grad, (first, second) = grads[name], state[name]
        if is_matrix(name, value):
            first = 0.95 * first + grad
            change = orthogonal(grad + 0.95 * first) * 0.02 * jnp.sqrt(max(1.0, value.shape[0] / value.shape[1]))
        else:
            first = 0.9 * first + 0.1 * grad
            second = 0.98 * second + 0.02 * grad * grad
            change = 0.006 * (first / (1 - 0.9**count)) / (jnp.sqrt(second / (1 - 0.98**count)) + 1e-9)
        new_params[name], new_state[name] = value - rate * change, (first, second)
    return new_params, new_state
