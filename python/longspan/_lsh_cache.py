# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Keys and values of the tokens so far, hashed.
from collections.abc import Sequence

from . import _core
from ._lsh import Dedup, KeyNorm, Preset, Wrap, _lsh_options
from ._options import call_options
from ._token_cache import TokenCache
from ._types import Array, Layout, MaskLike, QueryOffset


class LshCache(TokenCache):
    """Keys and values of the tokens so far, hashed: decoding by lsh_attention(), at a cost that hardly depends on their number.

    Each key is hashed once, when it is appended. A query meets the keys that its windows hold, 512 at most by default, in
    place of all. Memory doubles when it runs out. Calls that fail leave the tokens as they were. Several threads may use
    one cache: appending waits for those who attend.

    num_heads_kv, head_dim, head_dim_v, dtype, batch, capacity
        As in KVCache.
    shared
        Query and key are one tensor, as with key=None in lsh_attention(): num_heads_kv is num_heads.
    num_buckets
        Of a round, for the life of the cache: an even number, or even factors such as (8, 16). None: what
        lsh_attention() would choose for `capacity` tokens.
    num_hashes, chunk_len, chunks_before, chunks_after, dedup, wrap, key_norm, seed, rotations, preset, whole_buckets, local_window
        As in lsh_attention(). Rotations are copied.

        cache = longspan.LshCache(num_heads_kv=2, head_dim=64, head_dim_v=64, dtype="float32", capacity=65536)
        cache.append(key, value)          # [batch, n, num_heads_kv, head_dim]
        output = cache.attend(query)      # [batch, n, num_heads, head_dim_v]
    """

    def __init__(self, num_heads_kv: int, head_dim: int, head_dim_v: int, dtype, batch: int = 1, capacity: int = 0, *,
                 shared: bool = False, num_hashes: int = 4, num_buckets: int | Sequence[int] | None = None,
                 chunk_len: int = 64, chunks_before: int = 1, chunks_after: int = 0, dedup: Dedup = None,
                 wrap: Wrap = None, key_norm: KeyNorm = None, seed: int = 0, rotations: Array | None = None,
                 preset: Preset = None, whole_buckets: bool = False, local_window: tuple[int, int] | None = None):
        lsh = _lsh_options(num_hashes, num_buckets, chunk_len, chunks_before, chunks_after, dedup, wrap, key_norm, seed,
                           rotations, None, preset, whole_buckets, local_window)
        super().__init__(_core.LshCache, num_heads_kv, head_dim, head_dim_v, dtype, batch, capacity, bool(shared), lsh)

    def append(self, key: Array, value: Array, *, layout: Layout = "bshd") -> None:
        """Adds n tokens.

        key, value
            [batch, n, num_heads_kv, head_dim], [batch, n, num_heads_kv, head_dim_v], of the cache's dtype. key is raw: it is
            normalised and hashed here; with shared it is the shared query and key.
        """
        self._cache.append(key, value, call_options(layout=layout))

    def attend(self, query: Array, *, mask: MaskLike = None, scale: float | None = None, softcap: float = 0.0,
               alibi_slopes: Array | None = None, sinks: Array | None = None, query_offset: QueryOffset = None,
               layout: Layout = "bshd", return_lse: bool = False,
               out: Array | None = None) -> Array | tuple[Array, Array]:
        """The last rows of lsh_attention() over all tokens; the last query sits at the last key unless query_offset says otherwise.

        Several queries see each other's keys unless mask=causal(). Options and results are those of lsh_attention(), but
        that padding (key_lengths(), and a dense mask of one row) is refused: it would have been hashed apart.

        query
            [batch, n, num_heads, head_dim], of the cache's dtype; num_heads is a multiple of num_heads_kv. With shared: the
            newest n rows as they were appended.
        """
        options = call_options(mask, None, scale, softcap, alibi_slopes, sinks, query_offset=query_offset, layout=layout)
        return self._cache.attend(query, options, bool(return_lse), out)

    @property
    def num_buckets(self) -> tuple[int, ...]:
        """The factors of a round's number of buckets."""
        return tuple(self._cache.num_buckets)

    def __repr__(self):
        c = self._cache
        return (f"LshCache(num_heads_kv={c.num_heads_kv}, head_dim={c.head_dim}, head_dim_v={c.head_dim_v}, "
                f"dtype={c.dtype!r}, batch={c.batch}, capacity={c.capacity}, shared={c.shared}, "
                f"num_buckets={self.num_buckets}) of {c.length} tokens")
