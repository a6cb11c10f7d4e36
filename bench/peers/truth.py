# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""The answer in float64, of the last head of keys and the heads that share it."""

from __future__ import annotations

import numpy as np

from case import LSH_CHUNK, Arrays, Case, Inputs

BLOCK = 1024  # queries whose scores are in memory at once

# Relative L2 that an answer may have. Ours are the library's promises; a peer's say only that it
# computes the same function.
OUR_TOLERANCE = {("float32", "output"): 2e-6, ("bfloat16", "output"): 4e-3,
                 ("float32", "gradient"): 1e-5, ("bfloat16", "gradient"): 1e-2}
PEER_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
# Peers of LSH attention keep lse near the score of a position with itself, -1e5, in float32, where a
# step is 2^-7: the weights of rounds that see nothing else are off by up to 0.4 %.
LSH_PEER_TOLERANCE = 4e-3


def _weights(case: Case, scores: np.ndarray, first: int) -> np.ndarray:
    """Softmax over the keys that queries first, first + 1, ... may see."""
    if case.causal:
        queries = np.arange(first, first + len(scores))[:, None] + case.seqlen_k - case.seqlen_q
        scores = np.where(np.arange(case.seqlen_k) <= queries, scores, -np.inf)
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def attention(case: Case, inputs: Inputs) -> Arrays:
    """output (not for a backward), or the three gradients of sum(output * doutput)."""
    group = case.heads // case.heads_kv
    key, value = inputs.key[:, -1].astype(np.float64), inputs.value[:, -1].astype(np.float64)
    scale = 1 / np.sqrt(case.head_dim)
    shape = (case.seqlen_q, group, case.head_dim)
    output, dquery = np.zeros(shape), np.zeros(shape)
    dkey, dvalue = np.zeros(key.shape), np.zeros(value.shape)
    for head in range(group):
        for first in range(0, case.seqlen_q, BLOCK):
            rows = slice(first, min(first + BLOCK, case.seqlen_q))
            query = inputs.query[rows, case.heads - group + head].astype(np.float64)
            doutput = inputs.doutput[rows, case.heads - group + head].astype(np.float64)
            weights = _weights(case, scale * query @ key.T, first)
            output[rows, head] = weights @ value
            if case.work != "backward":
                continue
            total = (doutput * output[rows, head]).sum(axis=1, keepdims=True)
            dscores = scale * weights * (doutput @ value.T - total)
            dvalue += weights.T @ doutput
            dkey += dscores.T @ query
            dquery[rows, head] = dscores @ key
    if case.work != "backward":
        return {"output": output}
    return {"dquery": dquery, "dkey": dkey[:, None], "dvalue": dvalue[:, None]}


def lsh(case: Case, inputs: Inputs, buckets: np.ndarray) -> Arrays:
    """LSH attention of the last head given its buckets [rounds, seqlen]: chunks of all rounds in one
    cycle, each pair counted each time, a fixed score of a position with itself."""
    query, value, doutput = (x[:, -1].astype(np.float64)
                             for x in (inputs.query, inputs.value, inputs.doutput))
    hugging_face = case.lsh == "hf"
    self_score = -1e5 if hugging_face else -5e4
    scale = 1 if hugging_face else 1 / np.sqrt(case.head_dim)
    length = np.sqrt((query**2).sum(axis=1, keepdims=True)
                     + (1e-6 * case.head_dim if hugging_face else 0))
    key = query / length
    chunk = np.argsort(buckets, axis=1, kind="stable").reshape(-1, LSH_CHUNK)
    window = np.concatenate([chunk, np.roll(chunk, 1, axis=0)], axis=1)

    scores = scale * query[chunk] @ key[window].transpose(0, 2, 1)
    own = chunk[:, :, None] == window[:, None, :]
    scores[own] = self_score
    scores[chunk[:, :, None] < window[:, None, :]] = -np.inf
    most, total = np.full(case.seqlen_q, -np.inf), np.zeros(case.seqlen_q)
    np.maximum.at(most, chunk, scores.max(axis=2))
    weights = np.exp(scores - most[chunk][:, :, None])
    np.add.at(total, chunk, weights.sum(axis=2))
    weights /= total[chunk][:, :, None]
    output = np.zeros(value.shape)
    np.add.at(output, chunk, weights @ value[window])
    if case.work == "forward":
        return {"output": output[:, None]}

    delta = (doutput * output).sum(axis=1)
    dscores = doutput[chunk] @ value[window].transpose(0, 2, 1) - delta[chunk][:, :, None]
    dscores *= scale * weights
    dscores[own] = 0
    dquery, dkey, dvalue = (np.zeros(value.shape) for _ in range(3))
    np.add.at(dquery, chunk, dscores @ key[window])
    np.add.at(dkey, window, dscores.transpose(0, 2, 1) @ query[chunk])
    np.add.at(dvalue, window, weights.transpose(0, 2, 1) @ doutput[chunk])
    dquery += (dkey - key * (key * dkey).sum(axis=1, keepdims=True)) / length
    return {"output": output[:, None], "dquery_key": dquery[:, None], "dvalue": dvalue[:, None]}


def products(case: Case, inputs: Inputs) -> Arrays:
    """(Q K^T) V of the last head, without a softmax."""
    query, key, value = (x[:, -1].astype(np.float64)
                         for x in (inputs.query, inputs.key, inputs.value))
    return {"output": (query @ (key.T @ value))[:, None]}


def error(found: Arrays, truth: Arrays) -> float:
    """The worst relative L2 of the tensors; NaN when there is one in it."""
    errors = []
    for name, expected in truth.items():
        delta = found[name][:, -expected.shape[1]:].astype(np.float64) - expected
        errors.append(np.linalg.norm(delta) / np.linalg.norm(expected))
    return float(np.max(errors))  # np.max keeps NaN
