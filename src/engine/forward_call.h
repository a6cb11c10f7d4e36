// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The words of the engine: what is the same for a whole forward call, and what one task is. Who
// meets whom is decided by the floor above, which fills these in; the engine only carries them out.
#pragma once

#include <cstdint>
#include <numbers>
#include <span>
#include <stop_token>

#include "base/buffer.h"
#include "engine/attention_call.h"
#include "engine/rows.h"
#include "engine/segments.h"
#include "kernels/kernel_table.h"
#include "longspan/execution.h"
#include "mask/bound_mask.h"

namespace longspan::engine {

template <class T>
struct ForwardCall : AttentionCall<T> {
  KeySegments segments;
  bool packs_keys = false;       // key or value rows are copied before a kernel reads them
  bool exact_reference = false;  // keep the true maximum (the paper's chunk summary)
  bool decodes = false;          // few queries: the heads that share keys are handled as rows
};

// A panel with its tensors. Row n of the sources and targets is query n of the head; absent targets
// have data == nullptr.
struct PanelRows : PanelQueries {
  RowSource query;
  RowTarget output;  // normalised, or the numerator when `sum` is wanted
  RowTarget lse;
  RowTarget sum;  // of the summary (numerator, sum, max)
  RowTarget max;
};

// Panels that share keys and values: one (batch, kv head).
struct ForwardTask {
  std::int64_t batch = 0;
  RowSource key;
  RowSource value;
  std::span<const PanelRows> panels;
};

}  // namespace longspan::engine
