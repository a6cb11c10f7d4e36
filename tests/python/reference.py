# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Attention and its gradients written out in float64 NumPy, n^2. Tensors are [batch, seqlen, num_heads, dim].
import numpy as np


def by_head(x, heads):
    """[batch, seqlen, num_heads_kv, dim] -> [batch, heads, seqlen, dim], float64; heads of a group share one."""
    x = np.moveaxis(np.asarray(x, np.float64), 2, 1)
    return np.repeat(x, heads // x.shape[1], axis=1) if heads else x


def per_head(x):
    """[num_heads] or [batch, num_heads] -> broadcastable to [batch, num_heads, seqlen_q, seqlen_k]."""
    return np.asarray(x, np.float64)[..., None, None]


class Attention:
    """The forward pass; `visible` is boolean, broadcastable to [batch, num_heads, seqlen_q, seqlen_k]."""

    def __init__(self, query, key, value, *, visible=True, bias=None, scale=None, softcap=0.0, alibi_slopes=None,
                 query_offset=0, sinks=None):
        self.heads, self.heads_kv = query.shape[2], key.shape[2]
        self.q, self.k, self.v = (by_head(x, self.heads) for x in (query, key, value))
        self.scale = 1 / np.sqrt(query.shape[3]) if scale is None else scale
        self.softcap, self.sinks = softcap, sinks
        scores = self.scale * self.q @ np.swapaxes(self.k, 2, 3)
        if softcap:
            scores = softcap * np.tanh(scores / softcap)
        self.capped = scores
        self.bias_shape = None
        if bias is not None:
            self.bias_shape = np.shape(bias)
            scores = scores + np.asarray(bias, np.float64)
        if alibi_slopes is not None:
            queries, keys = np.indices(scores.shape[2:])
            scores = scores - per_head(alibi_slopes) * np.abs(queries + query_offset - keys)
        scores = np.where(visible, scores, -np.inf)
        columns = scores if sinks is None else np.concatenate(
            [scores, np.broadcast_to(per_head(sinks), (*scores.shape[:3], 1))], 3)
        top = np.max(columns, 3, initial=-np.inf, keepdims=True)
        top = np.where(np.isfinite(top), top, 0)
        with np.errstate(divide="ignore"):
            self.lse = (np.log(np.sum(np.exp(columns - top), 3, keepdims=True)) + top)[..., 0]
        safe = np.where(np.isfinite(self.lse), self.lse, 0)[..., None]
        self.weights = np.exp(scores - safe)
        self.safe = safe
        self.output = np.moveaxis(self.weights @ self.v, 1, 2)

    def _of_groups(self, x):
        """Sums the heads of a group: [batch, num_heads, seqlen, dim] -> [batch, seqlen, num_heads_kv, dim]."""
        batch, _, seqlen, dim = x.shape
        grouped = x.reshape(batch, self.heads_kv, self.heads // self.heads_kv, seqlen, dim)
        return np.moveaxis(grouped.sum(2), 1, 2)

    def gradients(self, doutput, dlse=0.0):
        """query, key, value, bias, sinks; None where not an input."""
        do = by_head(doutput, self.heads)
        delta = np.sum(do * np.moveaxis(self.output, 2, 1), 3) - dlse
        dscores = self.weights * (do @ np.swapaxes(self.v, 2, 3) - delta[..., None])
        dbias = dsinks = None
        if self.bias_shape is not None:
            full = (1,) * (4 - len(self.bias_shape)) + tuple(self.bias_shape)
            axes = tuple(axis for axis in range(4) if full[axis] == 1)
            dbias = dscores.sum(axes, keepdims=True).reshape(self.bias_shape)
        if self.sinks is not None:
            weight = np.exp(per_head(self.sinks) - self.safe)[..., 0]
            dsinks = np.sum(-weight * delta, (0, 2))
        draw = dscores * (1 - (self.capped / self.softcap) ** 2) if self.softcap else dscores
        return (np.moveaxis(self.scale * draw @ self.k, 1, 2),
                self._of_groups(self.scale * np.swapaxes(draw, 2, 3) @ self.q),
                self._of_groups(np.swapaxes(self.weights, 2, 3) @ do), dbias, dsinks)


def rel_l2(actual, expected):
    """NaN where either is not finite at another place; the absolute norm where the expected is zero."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    finite = np.isfinite(expected)
    if not np.array_equal(actual[~finite], expected[~finite], equal_nan=True):
        return np.nan
    error = np.linalg.norm(actual[finite] - expected[finite])
    norm = np.linalg.norm(expected[finite])
    return error / norm if norm > 0 else error


def check(actual, expected, tolerance, what=""):
    error = rel_l2(actual, expected)
    assert error <= tolerance, f"{what}: relative L2 {error:.2e}, at most {tolerance:.0e}"  # false for NaN


def check_lse(actual, expected, absolute=2e-6, relative=1e-6):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    np.testing.assert_allclose(actual, expected, rtol=relative, atol=absolute)  # inf meets inf, NaN meets NaN
