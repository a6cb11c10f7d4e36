# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""longspan for Hugging Face transformers.

    longspan.transformers.register()
    model = AutoModel.from_pretrained(name, attn_implementation="longspan")

register() tells transformers of the attention function and of the mask function under one name: a name without a mask
function would drop every mask. Masks stay small: causal, padding, sliding windows and packed sequences are never written
out as seqlen_q x seqlen_k. Models that are not on that interface are patched: patch(model). What else a long input needs,
plan(model, seqlen) says.
"""

from ._patch import patch
from ._plan import plan
from ._probe import probe
from ._register import register, register_lsh

__all__ = ["patch", "plan", "probe", "register", "register_lsh"]
