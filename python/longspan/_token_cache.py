# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# What the caches have in common, around one of _core.
import numpy as np

from ._arguments import whole_number


def dtype_name(dtype):
    """The name of a dtype that is given by its name or as one of NumPy; what is none, _core refuses by that name."""
    if dtype is None or isinstance(dtype, str):  # None is NumPy's float64
        return str(dtype)
    dtype = np.dtype(dtype)
    return dtype.name if dtype.isnative else dtype.str


class TokenCache:
    """Keys and values of the tokens so far."""

    def __init__(self, kind, num_heads_kv, head_dim, head_dim_v, dtype, batch, capacity, *options):
        self._cache = kind(whole_number("num_heads_kv", num_heads_kv), whole_number("head_dim", head_dim),
                           whole_number("head_dim_v", head_dim_v), dtype_name(dtype), whole_number("batch", batch),
                           whole_number("capacity", capacity), *options)

    def truncate(self, n: int) -> None:
        """Forgets the tokens from n on."""
        self._cache.truncate(whole_number("n", n))

    def reorder(self, indices) -> None:
        """Batch entry b becomes what entry indices[b] was (beam search); the batch becomes len(indices).

        indices
            Whole numbers, 0 ... batch - 1, in any order; an entry may be named again.
        """
        self._cache.reorder([whole_number("indices", n) for n in indices])

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self._cache.length

    @property
    def capacity(self) -> int:
        """Tokens that fit before the cache grows."""
        return self._cache.capacity

    @property
    def nbytes(self) -> int:
        """Bytes held for keys and values, and of hashed ones for buckets and rotations."""
        return self._cache.nbytes

    @property
    def dtype(self) -> str:
        """The name of the dtype of keys and values."""
        return self._cache.dtype

    def __len__(self):
        return self.length
