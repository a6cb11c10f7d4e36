# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# From the mask functions of transformers (masking_utils.py) to masks of longspan.
import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers import masking_utils

from .. import _masks as ours


class LongspanMask(BlockMask):
    """What the mask function returns. transformers hands a BlockMask through as it is, so this is one by name."""

    def __init__(self, mask, shape):
        self.longspan_mask = mask
        self.four_extents = shape

    @property
    def shape(self):
        """[batch, 1, seqlen_q, seqlen_k]"""
        return self.four_extents

    @property
    def ndim(self):
        return 4

    def __repr__(self):
        return f"LongspanMask({self.longspan_mask!r})"


def make_mask(batch_size, q_length, kv_length, q_offset=0, kv_offset=0, mask_function=masking_utils.causal_mask_function,
              attention_mask=None, use_vmap=False, **_):
    """The mask function that register() registers; its arguments are those of masking_utils.sdpa_mask()."""
    place = _Place(batch_size, q_length, kv_length, q_offset, kv_offset)
    mask = _translate(mask_function, place)
    if mask is None:
        mask = _evaluated(mask_function, place, use_vmap)
    padding = masking_utils.prepare_padding_mask(attention_mask, kv_length, kv_offset)
    if padding is not None:
        mask = mask & _padding(padding[:, kv_offset:kv_offset + kv_length])
    return LongspanMask(mask, (batch_size, 1, q_length, kv_length))


class _Place:
    """Query i of the call is at q_offset + i of the sequence, key j at kv_offset + j."""

    def __init__(self, batch_size, q_length, kv_length, q_offset, kv_offset):
        self.batch_size, self.q_length, self.kv_length = batch_size, q_length, kv_length
        self.q_offset, self.kv_offset = q_offset, kv_offset

    @property
    def query_offset(self):
        """A number, or [batch] where a static cache counts with a tensor."""
        offset = self.q_offset - self.kv_offset
        return offset.reshape(-1).expand(self.batch_size) if isinstance(offset, torch.Tensor) else offset


def _translate(function, place):
    """A mask of longspan, or None for what it has no term for."""
    if function is masking_utils.causal_mask_function:
        return ours.causal(place.query_offset)
    if function is masking_utils.bidirectional_mask_function:
        return ours.Mask(())
    held = dict(zip(function.__code__.co_freevars, (cell.cell_contents for cell in function.__closure__ or ())))
    made_by = function.__qualname__.partition(".<locals>")[0]
    if function.__module__ != masking_utils.__name__:
        return None
    if made_by == "and_masks":
        return _all_of([_translate(part, place) for part in held["mask_functions"]])
    if made_by == "sliding_window_overlay":
        return ours.window(held["sliding_window"] - 1, -1, place.query_offset)
    if made_by == "sliding_window_bidirectional_overlay":
        return ours.window(held["sliding_window"], held["sliding_window"], place.query_offset)
    if torch.compiler.is_compiling():
        return None  # what follows looks at numbers
    if made_by == "packed_sequence_mask_function":
        return _documents(held["packed_sequence_mask"])
    if made_by == "remap_positions_for_packed_sequence" and len(held["position_ids"]) == 1:
        # Positions count from the start of each sequence; so do ours, inside documents.
        return _translate(held["mask_function"], place)
    if made_by == "chunked_overlay":
        return _chunks(held["chunk_size"], held["left_padding"], place)
    return None


def _all_of(masks):
    if any(mask is None for mask in masks):
        return None
    both = ours.Mask(())
    for mask in masks:
        both = both & mask
    return both


def _documents(sequence_of):
    """Where the number of the sequence changes; for a batch of one."""
    if len(sequence_of) != 1:
        return None
    _, counts = torch.unique_consecutive(sequence_of[0], return_counts=True)
    return ours.documents(torch.nn.functional.pad(counts.cumsum(0), (1, 0)))


def _chunks(size, left_padding, place):
    """Chunks that a whole sequence is cut into; for a batch of one."""
    whole = place.q_length == place.kv_length and isinstance(place.query_offset, int) and place.query_offset == 0
    if place.batch_size != 1 or not whole:
        return None
    # Before a position 0 there are chunks, too.
    first = (place.kv_offset - int(left_padding.reshape(-1)[0])) % size
    starts = torch.arange(-first, place.kv_length, size).clamp(min=0)
    return ours.documents(torch.cat([starts, torch.tensor([place.kv_length])]))


def _padding(visible):
    """[batch, seqlen_k]. Padding at the right is a length, which skips keys unseen."""
    if not torch.compiler.is_compiling():
        if visible.all():
            return ours.Mask(())
        if (visible[:, 1:] <= visible[:, :-1]).all():
            return ours.key_lengths(visible.sum(1))
    return ours.dense(visible[:, None, None, :])


def _evaluated(function, place, use_vmap):
    """Any other function: asked tile by tile; written out under torch.compile, which cannot keep it."""
    if torch.compiler.is_compiling():
        return ours.dense(masking_utils.sdpa_mask(
            place.batch_size, place.q_length, place.kv_length, place.q_offset, place.kv_offset, function,
            allow_is_causal_skip=False, use_vmap=use_vmap))
    ask = masking_utils._vmap_expansion_sdpa(function) if use_vmap else None

    def may_see(batch, head, query, key):
        batch, query, key = (torch.from_numpy(x).reshape(-1) for x in (batch, query, key))
        query, key, none = query + place.q_offset, key + place.kv_offset, torch.zeros(1, dtype=torch.long)
        if ask is None:
            visible = function(batch[:, None, None, None], none[:, None, None], query[:, None], key)
            return visible.expand(1, 1, len(query), len(key))[0, 0].numpy()
        with masking_utils.TransformGetItemToIndex():
            return ask(batch, none, query, key)[0, 0].numpy()

    return ours.predicate(may_see)
