// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Products of rows, by the engine: they are the scores of attention with scale 1.
#pragma once

#include <cstdint>
#include <vector>

namespace longspan::explain {

// [m][n]: row i of a (m rows of dim numbers) times row j of b (n rows).
std::vector<double> products(const std::vector<double>& a, const std::vector<double>& b,
                             std::int64_t dim);

}  // namespace longspan::explain
