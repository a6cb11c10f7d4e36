// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Whole numbers from the caller's tensors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "longspan/tensor.h"

namespace longspan::mask {

// An int32 or int64 tensor of rank 1, any stride. `count` < 0 takes any length. Errors begin with
// `name`.
std::vector<std::int64_t> read_integers(const ConstTensorView& tensor, const std::string& name,
                                        std::int64_t count);

}  // namespace longspan::mask
