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
#include "engine/rows.h"
#include "engine/segments.h"
#include "kernels/kernel_table.h"
#include "longspan/execution.h"
#include "mask/bound_mask.h"

namespace longspan::engine {

// Score terms beyond scale and mask, over the whole call. Strides are those of the broadcast tensor
// (0 where it has extent 1); a null pointer means that the term is absent.
struct BiasSource {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  std::int64_t strides[4] = {};  // batch, head, query, key
};
struct HeadSource {  // one number for each (batch, head): ALiBi slopes, sinks
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  std::int64_t strides[2] = {};  // batch, head
  double at(std::int64_t batch, std::int64_t head) const noexcept {
    return base::load_double(data, dtype, batch * strides[0] + head * strides[1]);
  }
};

template <class T>
struct ForwardCall {
  const kernel::KernelTable<T>* kernel = nullptr;
  const mask::BoundMask* mask = nullptr;
  KeySegments segments;
  std::int64_t head_dim = 0;
  std::int64_t head_dim_v = 0;
  double scale = 1;
  double softcap = 0;
  BiasSource bias;
  HeadSource alibi_slopes;
  HeadSource sinks;
  bool packs_keys = false;       // key or value rows are copied before a kernel reads them
  bool exact_reference = false;  // keep the true maximum (the paper's chunk summary)
  std::stop_token stop;
  Progress* progress = nullptr;

  bool has_terms() const noexcept {
    return softcap > 0 || bias.data != nullptr || alibi_slopes.data != nullptr;
  }

  // Kernels work with logarithms to base 2. The factor to them is rounded to T; dividing the
  // reference by the rounded factor takes the rounding out of lse again (6e-8 of the score itself,
  // which is the larger part where scores are in the hundreds).
  T exponent_scale() const noexcept {
    return static_cast<T>((has_terms() ? 1.0 : scale) * std::numbers::log2e);
  }
  double reference_unit() const noexcept {
    const auto factor = static_cast<double>(exponent_scale());
    return factor == 0 ? std::numbers::ln2 : (has_terms() ? 1.0 : scale) / factor;
  }
};

// Consecutive queries of one head that are handled as the lanes of one panel. Row n of the sources
// and targets is query n of the head; absent targets have data == nullptr.
struct PanelRows {
  std::int64_t head = 0;
  std::int64_t first = 0;
  std::int64_t count = 0;
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
