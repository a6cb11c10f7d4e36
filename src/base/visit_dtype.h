// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// From a dtype at run time to an element type: visit_floating(dtype, [](auto tag) { using E =
// decltype(tag); ... }).
#pragma once

#include "base/float16.h"
#include "longspan/tensor.h"

namespace longspan::base {

// dtype must be floating (checked at the public entries).
template <class F>
decltype(auto) visit_floating(DType dtype, F&& body) {
  switch (dtype) {
    case DType::kFloat64:
      return body(double{});
    case DType::kFloat16:
      return body(Float16{});
    case DType::kBFloat16:
      return body(BFloat16{});
    default:
      return body(float{});
  }
}

// One element, widened to float64.
inline double load_double(const void* data, DType dtype, std::int64_t offset) noexcept {
  return visit_floating(dtype, [&](auto tag) {
    return static_cast<double>(to_float(static_cast<const decltype(tag)*>(data)[offset]));
  });
}

}  // namespace longspan::base
