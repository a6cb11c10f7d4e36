// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What the elements of an array may be.
#pragma once

#include <cstdint>

namespace longspan::python {

enum class Numbers : std::uint8_t {
  kFloating,  // float32, float64, float16, bfloat16 (of ml_dtypes, or of DLPack)
  kInteger,   // int32, int64
  kBool,
};

}  // namespace longspan::python
