# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""longspan for JAX: attention on the CPU inside jit, grad and vmap.

    from longspan.jax import attention

    output = jax.jit(attention)(query, key, value)     # [batch, seqlen, num_heads, head_dim]

Calls of XLA's foreign function interface: arrays are read where they lie. Gradients go to query, key, value, bias and
sinks, from the output and from lse; there are none of gradients, and no jvp. vmap over query, key and value makes one
call of a larger batch, else a call for each entry. Threads are those of longspan.set_num_threads(). Shapes and types are
checked while a call is traced; what the values of arrays make wrong is an error of the runtime with longspan's words.
"""

from ._attention import attention
from ._lsh import lsh_attention

__all__ = ["attention", "lsh_attention"]
