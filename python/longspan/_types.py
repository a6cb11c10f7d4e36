# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# The words of signatures.
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from ._core import Mask

Array: TypeAlias = Any  # NumPy's, or what has the buffer protocol, DLPack or the array interface
MaskLike: TypeAlias = Mask | Array | None
QueryOffset: TypeAlias = int | Literal["end"] | Sequence[int] | Array | None
Layout: TypeAlias = Literal["bshd", "bhsd"]
