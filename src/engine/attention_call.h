// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What is the same for a whole call of attention, forward or backward: the kernel, the mask, and
// how a dot product becomes a score.
#pragma once

#include <cstdint>
#include <numbers>
#include <stop_token>

#include "base/visit_dtype.h"
#include "kernels/kernel_table.h"
#include "longspan/execution.h"
#include "mask/bound_mask.h"

namespace longspan::engine {

class Recorder;  // recorder.h

// Score terms beyond scale and mask, over the whole call. Strides are those of the broadcast tensor
// (0 where it has extent 1); a null pointer means that the term is absent.
struct BiasSource {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  Extents strides{};  // batch, head, query, key
};
struct HeadSource {  // one number for each (batch, head): ALiBi slopes, sinks
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  std::int64_t strides[2] = {};  // batch, head
  double at(std::int64_t batch, std::int64_t head) const noexcept {
    return base::load_double(data, dtype, batch * strides[0] + head * strides[1]);
  }
};

struct DropoutRule {
  std::uint64_t seed = 0;
  std::uint64_t threshold = 0;  // as in kernel::DropoutTile; 0: no dropout
  double factor = 1;            // of the numerator: 1 / (1 - probability), 0 at probability 1
};

template <class T>
struct AttentionCall {
  const char* function = "";  // that was called; named in errors
  const kernel::KernelTable<T>* kernel = nullptr;
  const mask::BoundMask* mask = nullptr;
  std::int64_t head_dim = 0;
  std::int64_t head_dim_v = 0;
  double scale = 1;
  double softcap = 0;
  BiasSource bias;
  HeadSource alibi_slopes;
  HeadSource sinks;
  DropoutRule dropout;
  std::stop_token stop;
  Progress* progress = nullptr;
  Recorder* recorder = nullptr;  // who wants to see what is computed; one thread works then

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

// Consecutive queries of one head that are handled as the lanes of one panel.
struct PanelQueries {
  std::int64_t head = 0;
  std::int64_t first = 0;
  std::int64_t count = 0;
  mask::Range range() const noexcept { return {first, first + count}; }
};

}  // namespace longspan::engine
