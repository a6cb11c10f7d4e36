# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Kinds of arrays: what comes in as a tensor of some package goes out as one.
import sys

from . import _core


def as_kind_of(like, array):
    """The NumPy array `array` as an array of the package that `like` is of, sharing memory.

    The package is that of the array API (`like.__array_namespace__()`), else the top-level module of its type. Where it
    has no `from_dlpack`, the NumPy array itself is returned.
    """
    if hasattr(like, "__array_namespace__"):
        package = like.__array_namespace__()
    else:
        package = sys.modules.get(type(like).__module__.partition(".")[0])
    from_dlpack = getattr(package, "from_dlpack", None)
    return array if from_dlpack is None else from_dlpack(_core.as_dlpack(array))
