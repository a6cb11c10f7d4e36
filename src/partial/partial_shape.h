// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Checks a partial's shapes and dtypes and brings ranks 2 and 3 to [batch, seqlen, num_heads, dim].
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "longspan/partial.h"

namespace longspan::partial {

// A partial whose every axis is there; broadcast axes have stride 0. Pointers are null where a
// tensor is absent.
struct PartialRows {
  const void* output = nullptr;
  void* output_out = nullptr;  // the same when it may be written
  DType dtype = DType::kFloat32;
  std::array<std::int64_t, 4> output_strides{};  // batch, seqlen, head, dim
  const void* lse = nullptr;
  void* lse_out = nullptr;
  DType lse_dtype = DType::kFloat32;
  std::array<std::int64_t, 3> lse_strides{};  // batch, head, seqlen
  std::int64_t batch = 0;
  std::int64_t seqlen = 0;
  std::int64_t heads = 0;
  std::int64_t dim = 0;
};

// Throws Error(kInvalidArgument) whose message begins with `where`.
PartialRows check_partial(const std::string& where, const Partial& partial);

// The same for a part that is read, whose shapes must be those of `like`.
PartialRows check_part(const std::string& where, const ConstPartial& part, const Partial& like);

}  // namespace longspan::partial
