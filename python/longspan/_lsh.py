# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Hashed attention, its gradients, its diagnosis.
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from . import _core
from ._arguments import UINT64, optional, whole_number, whole_pair, word
from ._attention import Gradients
from ._options import call_options
from ._types import Array, Layout, MaskLike, QueryOffset


Dedup: TypeAlias = Literal["exact", "log-count", "none"] | None
Wrap: TypeAlias = Literal["none", "round", "all"] | None
KeyNorm: TypeAlias = Literal["rms", "l2"] | None
Preset: TypeAlias = Literal["hf-reformer", "lucidrains", "lab"] | None


class Hashing(NamedTuple):
    """How to hash, as _core takes it."""

    num_hashes: int
    num_buckets: tuple[int, ...]  # the factors; none: to be chosen
    chunk_len: int
    chunks_before: int
    chunks_after: int
    dedup: str | None
    wrap: str | None
    key_norm: str | None
    preset: str | None
    whole_buckets: bool
    local_window: tuple[int, int] | None


def hashing(num_hashes, num_buckets, chunk_len, chunks_before, chunks_after, dedup, wrap, key_norm, preset, whole_buckets,
            local_window, rotations=None):
    """The arguments of a call as Hashing. Rotations, which _core does not see in every call, say the factor if nothing does."""
    if num_buckets is None:
        factors = (2 * rotations.shape[3],) if rotations is not None and len(rotations.shape) == 4 else ()
    else:
        factors = num_buckets if hasattr(num_buckets, "__iter__") else (num_buckets,)
    return Hashing(whole_number("num_hashes", num_hashes), tuple(whole_number("num_buckets", n) for n in factors),
                   whole_number("chunk_len", chunk_len), whole_number("chunks_before", chunks_before),
                   whole_number("chunks_after", chunks_after), optional(word, "dedup", dedup),
                   optional(word, "wrap", wrap), optional(word, "key_norm", key_norm), optional(word, "preset", preset),
                   bool(whole_buckets), optional(whole_pair, "local_window", local_window))


def pair_of_buckets(buckets):
    """(query_buckets, key_buckets) of what buckets= takes; key_buckets is None for a shared query and key."""
    if isinstance(buckets, (tuple, list)):
        query_buckets, key_buckets = buckets
        return query_buckets, key_buckets
    return buckets, None


def _lsh_options(num_hashes, num_buckets, chunk_len, chunks_before, chunks_after, dedup, wrap, key_norm, seed, rotations,
                 buckets, preset, whole_buckets, local_window):
    return _core.LshOptions(*hashing(num_hashes, num_buckets, chunk_len, chunks_before, chunks_after, dedup, wrap, key_norm,
                                     preset, whole_buckets, local_window),
                            whole_number("seed", seed, UINT64), rotations, *pair_of_buckets(buckets))


def lsh_attention(query: Array, key: Array | None, value: Array, *, num_hashes: int = 4,
                  num_buckets: int | Sequence[int] | None = None, chunk_len: int = 64, chunks_before: int = 1,
                  chunks_after: int = 0, dedup: Dedup = None,
                  wrap: Wrap = None, key_norm: KeyNorm = None,
                  mask: MaskLike = None, seed: int = 0, rotations: Array | None = None,
                  buckets: Array | tuple[Array, Array] | None = None,
                  preset: Preset = None, softcap: float = 0.0,
                  alibi_slopes: Array | None = None, sinks: Array | None = None, scale: float | None = None,
                  query_offset: QueryOffset = None, whole_buckets: bool = False,
                  local_window: tuple[int, int] | None = None, layout: Layout = "bshd", return_lse: bool = False,
                  return_buckets: bool = False) -> Array | tuple:
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
    options = call_options(mask, None, scale, softcap, alibi_slopes, sinks, query_offset=query_offset, layout=layout)
    return _core.lsh_attention(query, key, value, lsh, options, bool(return_lse), bool(return_buckets))


def lsh_attention_backward(doutput: Array, query: Array, key: Array | None, value: Array, output: Array, lse: Array, *,
                           buckets: Array | tuple[Array, Array] | None = None, dlse: Array | None = None,
                           num_hashes: int = 4, num_buckets: int | Sequence[int] | None = None, chunk_len: int = 64,
                           chunks_before: int = 1, chunks_after: int = 0,
                           dedup: Dedup = None,
                           wrap: Wrap = None,
                           key_norm: KeyNorm = None, mask: MaskLike = None, seed: int = 0,
                           rotations: Array | None = None,
                           preset: Preset = None, softcap: float = 0.0,
                           alibi_slopes: Array | None = None, sinks: Array | None = None, scale: float | None = None,
                           query_offset: QueryOffset = None, whole_buckets: bool = False,
                           local_window: tuple[int, int] | None = None, layout: Layout = "bshd") -> Gradients:
    """The gradients of sum(output * doutput) + sum(lse * dlse), with output and lse of lsh_attention().

    Buckets are constants: found again from the seed when they are not given.

    doutput, dlse
        As in attention_backward().
    query, key, value
        As lsh_attention() had them; so are all options that are not named here.
    output, lse, buckets
        What lsh_attention() gave for them.

    Returns Gradients, whose bias is None. With key=None, its query is the whole gradient of the shared tensor and its key
    is None.
    """
    lsh = _lsh_options(num_hashes, num_buckets, chunk_len, chunks_before, chunks_after, dedup, wrap, key_norm, seed,
                       rotations, buckets, preset, whole_buckets, local_window)
    options = call_options(mask, None, scale, softcap, alibi_slopes, sinks, query_offset=query_offset, layout=layout)
    return Gradients(*_core.lsh_attention_backward(doutput, query, key, value, output, lse, dlse, lsh, options))


def diagnose_lsh(query: Array, key: Array | None, value: Array, *, samples: int = 256, num_hashes: int = 4,
                 num_buckets: int | Sequence[int] | None = None, chunk_len: int = 64, chunks_before: int = 1,
                 chunks_after: int = 0, dedup: Dedup = None, wrap: Wrap = None, key_norm: KeyNorm = None,
                 mask: MaskLike = None, seed: int = 0, rotations: Array | None = None,
                 buckets: Array | tuple[Array, Array] | None = None,
                 preset: Preset = None, softcap: float = 0.0,
                 alibi_slopes: Array | None = None, sinks: Array | None = None, scale: float | None = None,
                 query_offset: QueryOffset = None, whole_buckets: bool = False,
                 local_window: tuple[int, int] | None = None, layout: Layout = "bshd") -> dict:
    """How much of exact attention the call lsh_attention(query, key, value, ...) finds, on sampled rows.

    Runs that call and compares some of its rows with all keys in float64. Options are those of lsh_attention().

    samples
        So many rows (batch entry, head, query) are drawn from the seed.

    Returns a dict, as `longspan attend --diagnose --json` prints it:

    rows
        The sampled rows that see a key.
    recalled_mass, recalled_pairs
        The mean share of a row's exact weights, and of its keys, that was found.
    output_error
        Relative L2 against exact attention.
    cut_pairs
        Of the pairs in one bucket, the share that the edge of a chunk parts.
    finds_per_pair
        How often a pair that was found stands in windows.
    bucket_sizes
        A list by round of smallest, mean, largest, empty, and over_chunk, the share of keys in buckets larger than a chunk.

    All from recalled_mass to finds_per_pair are {"value", "low", "high"}, a 95 % interval; NaN where nothing is there.
    """
    lsh = _lsh_options(num_hashes, num_buckets, chunk_len, chunks_before, chunks_after, dedup, wrap, key_norm, seed,
                       rotations, buckets, preset, whole_buckets, local_window)
    options = call_options(mask, None, scale, softcap, alibi_slopes, sinks, query_offset=query_offset, layout=layout)
    return _core.diagnose_lsh(query, key, value, whole_number("samples", samples), lsh, options)
