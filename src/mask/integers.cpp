// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Reading and checking them.
#include "mask/integers.h"

#include "base/check.h"

namespace longspan::mask {

std::vector<std::int64_t> read_integers(const ConstTensorView& tensor, const std::string& name,
                                        std::int64_t count) {
  base::require(is_given(tensor),
                [&] { return name + " must be a tensor of int32 or int64; found none"; });
  base::require(tensor.dtype == DType::kInt32 || tensor.dtype == DType::kInt64,
                [&] { return name + " must be int32 or int64; found " + name_of(tensor.dtype); });
  base::require(tensor.rank == 1, [&] {
    return name + " must have rank 1; found rank " + std::to_string(tensor.rank);
  });
  base::require(tensor.shape[0] >= 0 && (count < 0 || tensor.shape[0] == count), [&] {
    return name + " must have shape [" + (count < 0 ? "n" : std::to_string(count)) + "]; found " +
           shape_string(tensor);
  });
  base::require(tensor.data != nullptr || tensor.shape[0] == 0,
                [&] { return name + " has shape " + shape_string(tensor) + " but no data"; });
  std::vector<std::int64_t> values(static_cast<std::size_t>(tensor.shape[0]));
  for (std::int64_t n = 0; n < tensor.shape[0]; ++n) {
    const std::int64_t at = n * tensor.strides[0];
    values[n] = tensor.dtype == DType::kInt32 ? static_cast<const std::int32_t*>(tensor.data)[at]
                                              : static_cast<const std::int64_t*>(tensor.data)[at];
  }
  return values;
}

}  // namespace longspan::mask
