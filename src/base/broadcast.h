// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// A tensor that stands for one of rank 4: axes are aligned at the right, as in NumPy.
#pragma once

#include <string>

#include "longspan/tensor.h"

namespace longspan::base {

struct Broadcast {
  Extents shape{1, 1, 1, 1};  // axes that the tensor lacks have extent 1
  Extents strides{};          // 0 where the extent is 1
};

// The rank is 0 to 4.
Broadcast align_right(const ConstTensorView& tensor) noexcept;

// For scores, `full` = [batch, num_heads, seqlen_q, seqlen_k]: each axis has its extent there,
// or 1. Errors begin with `where`, as in "attention: ".
Broadcast check_broadcast(const std::string& where, const char* name, const ConstTensorView& tensor,
                          const Extents& full);

}  // namespace longspan::base
