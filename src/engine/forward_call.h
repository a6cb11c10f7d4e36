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
  // Queries of a head when they are few (decode_segment.h): a panel then holds all of them, and the
  // panels that share keys are at most kernel::kDecodeRows rows. 0: panels meet keys one by one.
  std::int64_t decode_queries = 0;

  bool decodes() const noexcept { return decode_queries > 0; }
  std::int64_t panel_width() const noexcept {
    const std::int64_t lanes = this->kernel->lanes;
    return decodes() ? base::round_up(decode_queries, lanes) : lanes * this->kernel->vectors;
  }
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

// Panels that share keys and values: one (batch, kv head). When few queries are decoded, several kv
// heads, which have equally many panels each.
struct ForwardTask {
  std::int64_t batch = 0;
  RowSource key;  // of the first kv head
  RowSource value;
  std::span<const PanelRows> panels;
  std::int64_t heads_kv = 1;
  std::int64_t key_head_stride = 0;  // elements from head to head
  std::int64_t value_head_stride = 0;
};

}  // namespace longspan::engine
