# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Packages that longspan works with where they are installed.
import importlib
import os

import pytest


def package(name):
    """The module, or else the tests of this file are skipped; LONGSPAN_REQUIRE=torch,jax makes that a failure."""
    if name in os.environ.get("LONGSPAN_REQUIRE", "").split(","):
        return importlib.import_module(name)
    return pytest.importorskip(name, reason=f"{name} is not installed (make deps-frameworks)")
