# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Keys and values of the tokens so far.
import operator

import numpy as np

from . import _core
from ._masks import as_parts
from ._types import Array, Layout, MaskLike, QueryOffset


class KVCache:
    """Keys and values of the tokens so far, for decoding: append a step, attend to all of it.

    Memory doubles when it runs out; capacity (tokens) is a hint. Calls that fail leave the cache as it was. Several
    threads may use one cache: appending waits for those who attend.

        cache = longspan.KVCache(num_heads_kv=2, head_dim=64, head_dim_v=64, dtype="float32")
        cache.append(key, value)          # [batch, n, num_heads_kv, head_dim]
        output = cache.attend(query)      # [batch, n, num_heads, head_dim_v]
    """

    def __init__(self, num_heads_kv: int, head_dim: int, head_dim_v: int, dtype, batch: int = 1, capacity: int = 0):
        name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
        self._cache = _core.KVCache(num_heads_kv, head_dim, head_dim_v, name, batch, capacity)

    def append(self, key: Array, value: Array, *, layout: Layout = "bshd") -> None:
        """key: [batch, n, num_heads_kv, head_dim], value: [batch, n, num_heads_kv, head_dim_v], of the cache's dtype."""
        self._cache.append(key, value, _core.Options(layout=layout))

    def attend(self, query: Array, *, mask: MaskLike = None, bias: Array | None = None, scale: float | None = None,
               softcap: float = 0.0, alibi_slopes: Array | None = None, sinks: Array | None = None,
               dropout_p: float = 0.0, seed: int = 0, query_offset: QueryOffset = None, query_chunk: int | None = None,
               key_chunk: int | None = None, layout: Layout = "bshd", return_lse: bool = False,
               out: Array | None = None) -> Array | tuple[Array, Array]:
        """attention() of query with all keys; the last query sits at the last key unless query_offset says otherwise.

        Several queries see each other's keys unless mask=causal().
        """
        options = _core.Options(as_parts(mask), bias, scale, softcap, alibi_slopes, sinks, dropout_p, seed, query_offset,
                                query_chunk, key_chunk, layout)
        return self._cache.attend(query, options, return_lse, out)

    def truncate(self, n: int) -> None:
        """Forgets the tokens from n on."""
        self._cache.truncate(n)

    def reorder(self, indices) -> None:
        """Batch entry b becomes what entry indices[b] was (beam search); the batch becomes len(indices)."""
        self._cache.reorder([operator.index(n) for n in indices])

    @property
    def length(self) -> int:
        """Tokens."""
        return self._cache.length

    @property
    def capacity(self) -> int:
        """Tokens that fit before the cache grows."""
        return self._cache.capacity

    @property
    def nbytes(self) -> int:
        """Memory held for keys and values."""
        return self._cache.nbytes

    @property
    def dtype(self) -> str:
        return self._cache.dtype

    def __len__(self):
        return self.length

    def __repr__(self):
        c = self._cache
        return (f"KVCache(num_heads_kv={c.num_heads_kv}, head_dim={c.head_dim}, head_dim_v={c.head_dim_v}, "
                f"dtype={c.dtype!r}, batch={c.batch}, capacity={c.capacity}) of {c.length} tokens")
