// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Alignment at the right, and its checks.
#include "base/broadcast.h"

#include "base/check.h"

namespace longspan::base {

Broadcast align_right(const ConstTensorView& tensor) noexcept {
  Broadcast aligned;
  for (int axis = 0; axis < tensor.rank; ++axis) {
    const int at = kMaxRank - tensor.rank + axis;
    aligned.shape[at] = tensor.shape[axis];
    aligned.strides[at] = tensor.shape[axis] == 1 ? 0 : tensor.strides[axis];
  }
  return aligned;
}

Broadcast check_broadcast(const std::string& where, const char* name, const ConstTensorView& tensor,
                          const Extents& full) {
  require(tensor.rank >= 0 && tensor.rank <= kMaxRank, [&] {
    return where + name + " must have rank 0 to 4; found rank " + std::to_string(tensor.rank);
  });
  const Broadcast aligned = align_right(tensor);
  for (int axis = 0; axis < kMaxRank; ++axis) {
    require(aligned.shape[axis] == full[axis] || aligned.shape[axis] == 1, [&] {
      return where + name + " must be broadcastable to [batch, num_heads, seqlen_q, seqlen_k] = " +
             shape_string({nullptr, tensor.dtype, kMaxRank, full, {}}) + "; found " +
             shape_string(tensor);
    });
  }
  require(tensor.data != nullptr || element_count(tensor) == 0, [&] {
    return where + name + " " + shape_string(tensor) + " has no data (null pointer)";
  });
  return aligned;
}

}  // namespace longspan::base
