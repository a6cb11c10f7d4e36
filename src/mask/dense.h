// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// A dense boolean mask, broadcast by strides of 0: the one term that is read pair by pair from
// memory.
#pragma once

#include <cstdint>
#include <span>

#include "base/rows.h"
#include "longspan/tensor.h"
#include "mask/tile.h"

namespace longspan::mask {

class Dense {
 public:
  // Throws Error unless the tensor is boolean and broadcastable to [batch, num_heads, seqlen_q,
  // seqlen_k].
  Dense(const ConstTensorView& tensor, const CallShape& shape);

  // Exact; stops at the first hidden pair after a visible one or the reverse.
  Coverage coverage(std::int64_t batch, std::int64_t head, Range queries,
                    Range keys) const noexcept;
  void clear_hidden(std::int64_t batch, std::int64_t head, Positions queries, Positions keys,
                    std::span<std::uint64_t> key_words) const noexcept;
  base::RowSource rows(std::int64_t batch, std::int64_t head,
                       std::int64_t first_key) const noexcept {
    return {row(batch, head, 0) + first_key * strides_[3], DType::kBool, strides_[2], strides_[3]};
  }

 private:
  const std::uint8_t* row(std::int64_t batch, std::int64_t head,
                          std::int64_t query) const noexcept {
    return data_ + batch * strides_[0] + head * strides_[1] + query * strides_[2];
  }

  const std::uint8_t* data_;
  Extents strides_;  // of batch, head, query, key
};

}  // namespace longspan::mask
