# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Keys and values of the tokens so far.
from . import _core
from ._options import call_options
from ._token_cache import TokenCache
from ._types import Array, Layout, MaskLike, QueryOffset


class KVCache(TokenCache):
    """Keys and values of the tokens so far, for decoding: append a step, attend to all of it.

    Memory doubles when it runs out. Calls that fail leave the cache as it was. Several threads may use one cache:
    appending waits for those who attend.

    num_heads_kv, head_dim, head_dim_v, batch
        The sizes of key, [batch, tokens, num_heads_kv, head_dim], and value, [batch, tokens, num_heads_kv, head_dim_v].
        head_dim_v=0: that of head_dim.
    dtype
        Of both: "float32", "float64", "float16", "bfloat16", or such a dtype of NumPy.
    capacity
        Tokens to have memory for from the start: a hint.

        cache = longspan.KVCache(num_heads_kv=2, head_dim=64, head_dim_v=64, dtype="float32")
        cache.append(key, value)          # [batch, n, num_heads_kv, head_dim]
        output = cache.attend(query)      # [batch, n, num_heads, head_dim_v]
    """

    def __init__(self, num_heads_kv: int, head_dim: int, head_dim_v: int, dtype, batch: int = 1, capacity: int = 0):
        super().__init__(_core.KVCache, num_heads_kv, head_dim, head_dim_v, dtype, batch, capacity)

    def append(self, key: Array, value: Array, *, layout: Layout = "bshd") -> None:
        """Adds n tokens.

        key, value
            [batch, n, num_heads_kv, head_dim], [batch, n, num_heads_kv, head_dim_v], of the cache's dtype.
        """
        self._cache.append(key, value, call_options(layout=layout))

    def attend(self, query: Array, *, mask: MaskLike = None, bias: Array | None = None, scale: float | None = None,
               softcap: float = 0.0, alibi_slopes: Array | None = None, sinks: Array | None = None,
               dropout_p: float = 0.0, seed: int = 0, query_offset: QueryOffset = None, query_chunk: int | None = None,
               key_chunk: int | None = None, layout: Layout = "bshd", return_lse: bool = False,
               out: Array | None = None) -> Array | tuple[Array, Array]:
        """attention() of query with all keys; the last query sits at the last key unless query_offset says otherwise.

        Several queries see each other's keys unless mask=causal(). Options and results are those of attention().

        query
            [batch, n, num_heads, head_dim], of the cache's dtype; num_heads is a multiple of num_heads_kv.
        """
        options = call_options(mask, bias, scale, softcap, alibi_slopes, sinks, dropout_p, seed, query_offset, query_chunk,
                               key_chunk, layout)
        return self._cache.attend(query, options, bool(return_lse), out)

    def __repr__(self):
        c = self._cache
        return (f"KVCache(num_heads_kv={c.num_heads_kv}, head_dim={c.head_dim}, head_dim_v={c.head_dim_v}, "
                f"dtype={c.dtype!r}, batch={c.batch}, capacity={c.capacity}) of {c.length} tokens")
