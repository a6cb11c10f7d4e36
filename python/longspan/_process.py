# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# What concerns the process and the machine: threads, and whether all is well.
import os

import numpy as np

from . import _core
from ._arguments import INT32, whole_number
from ._masks import causal
from ._options import call_options


def set_num_threads(n: int) -> None:
    """Calls use n threads from now on; 0: all that the process may use. It changes no bit of a result."""
    _core.set_num_threads(whole_number("n", n, INT32))


def get_num_threads() -> int:
    """Threads that a call uses."""
    return _core.get_num_threads()


class Diagnosis(dict):
    """A dict that prints as lines."""

    def __repr__(self):
        lines = [f"longspan {self['version']}, NumPy {self['numpy']}",
                 f"threads     {self['threads']['used']} used, {self['threads']['available']} available "
                 f"({self['threads']['online']} processors online)",
                 "kernels     best first; self-test: relative L2 of the output against float64"]
        for kernel in self["kernels"]:
            state = "used" if kernel["chosen"] else "can run" if kernel["usable"] else "cannot run"
            test = "" if kernel["error"] is None else f"  {kernel['error']:.1e} {'ok' if kernel['passed'] else 'FAIL'}"
            lines.append(f"  {kernel['name']:<12} {state}{': ' if kernel['reason'] else ''}{kernel['reason']}{test}")
        lines.append("all is well" if self["healthy"] else "the self-test FAILED: please report this with the lines above")
        return "\n".join(lines)

    __str__ = __repr__


def _self_test(kernel):
    """The relative L2 error of a small causal case in float32; None where the kernel is for other types."""
    rng = np.random.default_rng(0)
    query, key, value = rng.standard_normal((3, 67, 2, 40), np.float32)
    options = call_options(causal())
    options.set_kernel(kernel)
    try:
        output = _core.attention(query, key, value, options, False, None)
    except RuntimeError:
        return None
    scores = np.einsum("qhd,khd->hqk", query.astype(float), key.astype(float)) / np.sqrt(40)
    weights = np.exp(np.where(np.tri(67, dtype=bool), scores, -np.inf))
    exact = np.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdims=True), value.astype(float))
    return float(np.linalg.norm(output - exact) / np.linalg.norm(exact))


def doctor() -> dict:
    """What longspan finds on this machine, and whether every kernel that can run computes rightly.

    Returns a dict that prints as lines: version, numpy, threads, kernels (name, usable, chosen, reason, error, passed) and
    healthy.
    """
    kernels = _core.kernels()
    for kernel in kernels:
        kernel["error"] = _self_test(kernel["name"]) if kernel["usable"] else None
        kernel["passed"] = None if kernel["error"] is None else kernel["error"] <= 2e-6
    threads = {"used": get_num_threads(), "available": _core.available_threads(), "online": os.cpu_count()}
    tests = [kernel["passed"] for kernel in kernels if kernel["passed"] is not None]
    return Diagnosis(version=_core.__version__, numpy=np.__version__, threads=threads, kernels=kernels,
                     healthy=bool(tests) and all(tests))
