# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# The words of signatures.
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union

if TYPE_CHECKING:
    from ._masks import Mask  # noqa: F401

Array: TypeAlias = Any  # NumPy's, or what has the buffer protocol, DLPack or the array interface
MaskLike: TypeAlias = Union["Mask", Array, None]
QueryOffset: TypeAlias = int | Literal["end"] | Sequence[int] | Array | None
Layout: TypeAlias = Literal["bshd", "bhsd"]
