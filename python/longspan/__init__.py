# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""Attention over long sequences on CPUs, for NumPy arrays and whatever speaks DLPack.

Tensors are [batch, seqlen, num_heads, dim], or [batch, num_heads, seqlen, dim] with layout="bhsd"; rank 3 lacks the
batch, rank 2 batch and heads. Inputs are read where they lie, whatever their strides; nothing is copied.

    import numpy as np, longspan

    query = key = value = np.random.default_rng(0).standard_normal((1, 4096, 8, 64), dtype=np.float32)
    output = longspan.attention(query, key, value, mask=longspan.causal())

Errors are exceptions of Python: TypeError for what longspan cannot compute with (a dtype, a device, a keyword),
ValueError for shapes and numbers that do not fit, MemoryError, and KeyboardInterrupt within a moment of Ctrl-C.
Calls run without the GIL. In a forked child they run on one thread. `longspan.__version__` is the version, a string.
"""

try:
    import numpy as _numpy  # noqa: F401
except ImportError as error:
    raise ImportError("longspan needs NumPy: pip install numpy") from error

from ._attention import Gradients, attention, attention_backward, merge
from ._core import __version__
from ._explain import Explanation, explain
from ._kv_cache import KVCache
from ._lsh import diagnose_lsh, lsh_attention, lsh_attention_backward
from ._lsh_cache import LshCache
from ._masks import Mask, causal, dense, documents, key_lengths, predicate, prefix, window
from ._process import doctor, get_num_threads, set_num_threads
from ._weights import attention_weights

__all__ = [
    "Explanation", "Gradients", "KVCache", "LshCache", "Mask", "__version__", "attention", "attention_backward",
    "attention_weights", "causal", "dense", "diagnose_lsh", "doctor", "documents", "explain", "get_num_threads", "key_lengths",
    "lsh_attention", "lsh_attention_backward", "merge", "predicate", "prefix", "set_num_threads", "window",
]
