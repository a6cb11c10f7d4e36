# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Hashed attention and its gradients.
import operator

from . import _core
from ._attention import Gradients


def _lsh_options(num_hashes, num_buckets, chunk_len, chunks_before, chunks_after, dedup, wrap, key_norm, seed, rotations,
                 buckets, preset, whole_buckets, local_window):
    if num_buckets is None:
        factors = []
    else:
        factors = [operator.index(n) for n in (num_buckets if hasattr(num_buckets, "__iter__") else [num_buckets])]
    if isinstance(buckets, list):
        buckets = tuple(buckets)
    return _core.LshOptions(num_hashes, factors, chunk_len, chunks_before, chunks_after, dedup, wrap, key_norm, seed,
                            rotations, buckets, preset, whole_buckets, local_window)


def lsh_attention(query, key, value, *, num_hashes=4, num_buckets=None, chunk_len=64, chunks_before=1, chunks_after=0,
                  dedup=None, wrap=None, key_norm=None, mask=None, seed=0, rotations=None, buckets=None, preset=None,
                  softcap=0.0, alibi_slopes=None, sinks=None, scale=None, query_offset=None, whole_buckets=False,
                  local_window=None, layout="bshd", return_lse=False, return_buckets=False):
    """LSH attention of the Reformer: every query meets the keys that some hash round puts near it.

    query, key, value
        As in attention(). key=None: query and key are one tensor (the Reformer's); keys are its rows normalised, and a
        position attends to itself only where it sees nothing else.
    num_hashes, num_buckets
        Rounds, and buckets of a round: an even number, or even factors such as (8, 16). None: chosen by seqlen_k.
    chunk_len, chunks_before, chunks_after
        Sorted positions are cut into chunks; a chunk attends to itself and to so many before and after it.
    dedup
        How a pair found several times counts: "exact" (once; the default), "log-count" (the same, by subtracting the log
        of its number) or "none" (each time).
    wrap
        What lies beyond the edge of a round: "none" (nothing; the default), "round" or "all" (cyclic in the round, or in the
        chunks of all rounds).
    key_norm
        "rms" (the default) or "l2": how the rows of a shared query and key become keys.
    preset
        "hf-reformer", "lucidrains" or "lab": the choices of that implementation. What is said of dedup, wrap and key_norm
        goes first.
    seed, rotations, buckets
        Rotations are drawn from the seed; or given, [num_heads_kv, head_dim, num_hashes, sum(factors) / 2]; or buckets
        are, [batch, num_heads, num_hashes, seqlen], int32 or int64: one array for a shared query and key, else a pair
        (query_buckets, key_buckets).
    whole_buckets, local_window
        Attend to whole buckets instead of chunks; attend to the keys window(left, right) exactly, too: (left, right).
    mask, softcap, alibi_slopes, sinks, scale, query_offset, layout, return_lse
        As in attention(), by the positions of the tensors. key_lengths() are padding, which is not hashed. A shared query and
        key take no scale.
    return_buckets
        Return the buckets, too: int32, shaped as they are given.

    Returns output; or a tuple of output, then lse and buckets as asked for.
    """
    lsh = _lsh_options(num_hashes, num_buckets, chunk_len, chunks_before, chunks_after, dedup, wrap, key_norm, seed,
                       rotations, buckets, preset, whole_buckets, local_window)
    options = _core.Options(mask, None, scale, softcap, alibi_slopes, sinks, query_offset=query_offset, layout=layout)
    return _core.lsh_attention(query, key, value, lsh, options, return_lse, return_buckets)


def lsh_attention_backward(doutput, query, key, value, output, lse, *, buckets=None, dlse=None, num_hashes=4,
                           num_buckets=None, chunk_len=64, chunks_before=1, chunks_after=0, dedup=None, wrap=None,
                           key_norm=None, mask=None, seed=0, rotations=None, preset=None, softcap=0.0, alibi_slopes=None,
                           sinks=None, scale=None, query_offset=None, whole_buckets=False, local_window=None,
                           layout="bshd"):
    """The gradients of sum(output * doutput) + sum(lse * dlse), with output and lse of lsh_attention().

    Buckets are constants: found again from the seed when they are not given. With key=None, Gradients.query is the
    whole gradient of the shared tensor and Gradients.key is None.
    """
    lsh = _lsh_options(num_hashes, num_buckets, chunk_len, chunks_before, chunks_after, dedup, wrap, key_norm, seed,
                       rotations, buckets, preset, whole_buckets, local_window)
    options = _core.Options(mask, None, scale, softcap, alibi_slopes, sinks, query_offset=query_offset, layout=layout)
    return Gradients(*_core.lsh_attention_backward(doutput, query, key, value, output, lse, dlse, lsh, options))
