# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""longspan for Hugging Face transformers."""

from ._patch import patch

__all__ = ["patch"]
