# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""longspan for PyTorch: attention on CPU tensors, with gradients and under torch.compile.

    from longspan.torch import attention

    output = attention(query, key, value, mask=longspan.causal())     # [batch, seqlen, num_heads, head_dim]
    output.sum().backward()

Calls use torch.get_num_threads() threads and follow autocast. Gradients go to query, key, value, bias and sinks, from the
output and from lse; there is no double backward. The operators (torch.ops.longspan) are not compiled against PyTorch.
"""

from ._attention import attention
from ._lsh import lsh_attention
from ._sdpa import disable, enable, scaled_dot_product_attention

__all__ = ["attention", "disable", "enable", "lsh_attention", "scaled_dot_product_attention"]
