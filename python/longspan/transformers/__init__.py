# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""longspan for Hugging Face transformers."""

from ._patch import patch
from ._plan import plan

__all__ = ["patch", "plan"]
