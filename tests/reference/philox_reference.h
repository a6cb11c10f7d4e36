// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Philox 4x32 (Salmon et al. 2011, section 3.3), a round at a time, and the dropout pattern drawn
// from it.
#pragma once

#include <array>
#include <cstdint>

#include "longspan/attention.h"

namespace longspan::reference {

using PhiloxCounter = std::array<std::uint32_t, 4>;  // [0] is the least significant word
using PhiloxKey = std::array<std::uint32_t, 2>;

PhiloxCounter philox4x32(PhiloxCounter counter, PhiloxKey key, int rounds = 10);

// True when the weight of this pair stays in the numerator; indices of the tensors.
bool keeps(const Dropout& dropout, std::int64_t batch, std::int64_t head, std::int64_t query,
           std::int64_t key);

}  // namespace longspan::reference
