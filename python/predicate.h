// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Masks that are functions of Python, asked about a tile of pairs at a time.
#pragma once

#include <nanobind/nanobind.h>

#include <vector>

#include "longspan/mask.h"

namespace longspan::python {

namespace nb = nanobind;

struct TileShape {
  std::int64_t seqlen_q = 0, seqlen_k = 0;  // of the call
  std::int64_t queries = 1, keys = 1;       // of a tile
};

// True where all of `predicates` are. Each thread remembers the tiles that it asked about last. The
// vector must outlive what is returned, which may be called and destroyed without the GIL.
MaskPredicate tiled_predicate(const std::vector<nb::object>& predicates, TileShape shape);

}  // namespace longspan::python
