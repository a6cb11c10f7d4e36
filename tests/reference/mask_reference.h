// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The definition of a mask, pair by pair: every term written out literally, in numbers that cannot
// overflow. Slow.
#pragma once

#include <cstdint>

#include "longspan/mask.h"

namespace longspan::reference {

// True when query i may see key j. An offset that must be said and is not counts as 0; nothing is
// validated.
bool may_see(const Mask& mask, const QueryOffset& call_offset, std::int64_t seqlen_q,
             std::int64_t seqlen_k, std::int64_t batch, std::int64_t head, std::int64_t query,
             std::int64_t key);

// query + offset - key, both counted inside their document (in the tensors, without documents or
// outside of them).
double distance(const Mask& mask, const QueryOffset& call_offset, std::int64_t seqlen_q,
                std::int64_t seqlen_k, std::int64_t batch, std::int64_t query, std::int64_t key);

}  // namespace longspan::reference
