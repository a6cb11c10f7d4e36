// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// lsh_attention() with somebody who looks on.
#pragma once

#include "engine/recorder.h"
#include "longspan/lsh_attention.h"

namespace longspan::lsh {

// On one thread, with the reference of every row at its true maximum: results differ from those of
// lsh_attention() by rounding. A phase is a round; with a local window phase 0 is that, and round
// r is phase r + 1. The pair of a position with itself is in no tile and no part (running_rows.h).
void record_lsh_attention(const ConstTensorView& query, const ConstTensorView& key,
                          const ConstTensorView& value, const Partial& result,
                          const LshOptions& options, const AttentionOptions& attention,
                          Execution execution, engine::Recorder& recorder);

}  // namespace longspan::lsh
