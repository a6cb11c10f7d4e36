# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# The function of PyTorch under its own signature, and in its place.
import torch
import torch.nn.functional as functional

from .._masks import causal
from ._attention import attention
from ._dispatch import in_transform

_theirs = functional.scaled_dot_product_attention
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def scaled_dot_product_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                                 attn_mask: torch.Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False,
                                 scale: float | None = None, enable_gqa: bool = False) -> torch.Tensor:
    """torch.nn.functional.scaled_dot_product_attention() on CPU tensors.

    query, key, value
        [..., num_heads, seqlen, dim], two axes or more; those before num_heads broadcast.
    attn_mask
        Boolean, True = may be seen; or floating, added to the scores, with a gradient. Broadcast to
        [..., num_heads, seqlen_q, seqlen_k]. A row that sees nothing gives 0.
    dropout_p
        Draws its seed from torch's generator.
    is_causal
        Query i sees keys 0 ... i, also where the lengths differ.
    """
    if is_causal and attn_mask is not None:
        raise ValueError("scaled_dot_product_attention: is_causal=True and attn_mask exclude each other")
    if not enable_gqa and query.dim() > 2 and key.dim() > 2 and query.shape[-3] != key.shape[-3] != 1:
        raise ValueError(f"scaled_dot_product_attention: query has {query.shape[-3]} heads, key has {key.shape[-3]}; "
                         "enable_gqa=True lets groups of query heads share one of key")
    if query.dim() > 2 and key.dim() > 2 and query.shape[-3] == 1:
        query = query.expand(*query.shape[:-3], *key.shape[-3:-2], *query.shape[-2:])
    leading = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
    mask = causal(0) if is_causal else None
    bias = None
    if attn_mask is not None:
        own = attn_mask.shape[:-3]  # where it says all, the batch need not be written out
        attn_mask = _as_rank_4(attn_mask, leading if len(own) > 1 or (len(leading) > 1 and own.numel() > 1) else own)
        if attn_mask.dtype == torch.bool:
            mask = attn_mask
        else:
            bias = attn_mask
    seed = torch.randint(2**62, ()) if dropout_p > 0 else 0
    output = attention(*(_as_rank_4(x, leading) for x in (query, key, value)), mask=mask, bias=bias, scale=scale,
                       dropout_p=dropout_p, seed=seed, layout="bhsd")
    return output.reshape(*leading, *output.shape[1:]) if query.dim() >= 4 else output[(0,) * (4 - query.dim())]


def _as_rank_4(x, leading):
    """[batch, num_heads, seqlen, dim], the leading axes taken together."""
    if x.dim() < 4:
        x = x[(None,) * (4 - x.dim())]
    return x.expand(*(leading or (1,)), *x.shape[-3:]).flatten(0, -4)


def _routed(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """longspan's where it can be, PyTorch's own elsewhere: other devices, types, transforms, and tensors that only PyTorch
    knows."""
    tensors = (query, key, value, attn_mask)
    ours = all(x is None or (x.device.type == "cpu" and x.layout == torch.strided) for x in tensors)
    ours = ours and query.dtype in _DTYPES and query.dtype == key.dtype == value.dtype
    ours = ours and query.dim() >= 2 and query.dim() == key.dim() == value.dim()
    if not ours or in_transform():
        return _theirs(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    return scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)


class _Enabled:
    """What enable() returns: leaving a `with` block of it disables."""

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        disable()


def enable() -> _Enabled:
    """From now on torch.nn.functional.scaled_dot_product_attention goes to longspan for CPU tensors.

    So does what calls it by that name: nn.MultiheadAttention, nn.TransformerEncoderLayer (whose fused path for inference
    is switched off, since it cannot be routed), timm, diffusers, transformers with attn_implementation="sdpa". Not routed:
    a function that a module took by `from torch.nn.functional import scaled_dot_product_attention` before this call, what
    torch.compile or torch.jit has compiled before it, nested tensors, FlexAttention, and calls inside a transform of
    torch.func (vmap, jvp, grad) or forward-mode differentiation. Also a context manager:

        with longspan.torch.enable():
            output = model(inputs)
    """
    functional.scaled_dot_product_attention = _routed
    _fast_path.append(torch.backends.mha.get_fastpath_enabled())
    torch.backends.mha.set_fastpath_enabled(False)
    return _Enabled()


def disable() -> None:
    """Undoes the last enable()."""
    if not _fast_path:
        return
    torch.backends.mha.set_fastpath_enabled(_fast_path.pop())
    if not _fast_path:
        functional.scaled_dot_product_attention = _theirs


_fast_path = []  # what it was at each enable()
