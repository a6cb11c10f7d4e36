# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# What callers give, converted by name before _core sees it: another type is a TypeError that names the argument, a
# number out of range a ValueError. torch.compile traces all of it.
import operator

import numpy as np

INT64 = (-2**63, 2**63 - 1, "-2^63..2^63 - 1")
UINT64 = (0, 2**64 - 1, "0..2^64 - 1")
INT32 = (-2**31, 2**31 - 1, "-2^31..2^31 - 1")


def _refused(name, expected, found):
    return TypeError(f"{name} must be {expected}; found {type(found).__name__}")


def whole_number(name, x, bounds=INT64):
    if not isinstance(x, int):  # sizes that torch.compile leaves open are, and operator.index() would settle them
        try:
            x = operator.index(x)
        except TypeError:
            raise _refused(name, "a whole number", x) from None
    least, most, words = bounds
    if not least <= x <= most:
        raise ValueError(f"{name} must be in {words}; found {x}")
    return x


def whole_numbers(name, numbers):
    """Lists become int64 arrays; arrays stay what they are."""
    if not isinstance(numbers, (list, tuple, range)):
        return numbers
    return np.array([whole_number(name, x) for x in numbers], np.int64)


def whole_pair(name, x):
    try:
        first, second = x
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} must be two whole numbers; found {x!r}") from None
    return whole_number(name, first), whole_number(name, second)


def real_number(name, x):
    if isinstance(x, float):
        return x
    if isinstance(x, (str, bytes, bytearray)):  # float() would read them
        raise _refused(name, "a number", x)
    try:
        return float(x)
    except TypeError:
        raise _refused(name, "a number", x) from None
    except OverflowError:
        raise ValueError(f"{name} must be in the range of float64; found {x}") from None


def word(name, x):
    if not isinstance(x, str):
        raise _refused(name, "a word", x)
    return x


def optional(convert, name, x):
    """None stays None."""
    return None if x is None else convert(name, x)


def is_heads_first(layout):
    if layout == "bshd":
        return False
    if word("layout", layout) != "bhsd":
        raise ValueError(f'layout must be "bshd" or "bhsd"; found "{layout}"')
    return True
