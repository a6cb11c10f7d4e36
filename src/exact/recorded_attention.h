// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// attention() with somebody who looks on.
#pragma once

#include "engine/recorder.h"
#include "longspan/attention.h"

namespace longspan::exact {

// On one thread, panel by panel, with the reference of every row at its true maximum, as in
// summarize_chunk(): results differ from those of attention() by rounding. A phase is a chunk of
// execution.key_chunk keys; one that a row does not see may have no tile and no part.
void record_attention(const ConstTensorView& query, const ConstTensorView& key,
                      const ConstTensorView& value, const Partial& result,
                      const AttentionOptions& options, Execution execution,
                      engine::Recorder& recorder);

}  // namespace longspan::exact
