// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Dense masks: broadcasting and the scan of a tile.
#include "mask/dense.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "base/broadcast.h"
#include "base/check.h"

namespace longspan::mask {
namespace {

// visible[k] |= bit where element k is visible; a function of its own so that it vectorises.
void add_bit(const std::uint8_t* __restrict elements, std::int64_t count, std::uint8_t bit,
             std::uint8_t* __restrict visible) noexcept {
  for (std::int64_t k = 0; k < count; ++k) {
    const auto seen = static_cast<std::uint8_t>(-static_cast<std::int8_t>(elements[k] != 0));
    visible[k] = static_cast<std::uint8_t>(visible[k] | (seen & bit));
  }
}

}  // namespace

Dense::Dense(const ConstTensorView& tensor, const CallShape& shape)
    : data_(static_cast<const std::uint8_t*>(tensor.data)) {
  base::require(is_given(tensor),
                [&] { return shape.where() + "dense mask must be a tensor of bool; found none"; });
  base::require(tensor.dtype == DType::kBool, [&] {
    return shape.where() + "dense mask must be bool; found " + name_of(tensor.dtype);
  });
  strides_ = base::check_broadcast(shape.where(), "dense mask", tensor,
                                   {shape.batch, shape.num_heads, shape.seqlen_q, shape.seqlen_k})
                 .strides;
}

Coverage Dense::coverage(std::int64_t batch, std::int64_t head, Range queries,
                         Range keys) const noexcept {
  // A broadcast axis is looked at once.
  const std::int64_t rows = strides_[2] == 0 ? 1 : queries.size();
  const std::int64_t columns = strides_[3] == 0 ? 1 : keys.size();
  bool visible = false, hidden = false;
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::uint8_t* at = row(batch, head, queries.begin + r) + keys.begin * strides_[3];
    std::uint8_t any_visible = 0, any_hidden = 0;
    if (strides_[3] == 1) {  // said apart so that it vectorises
      for (std::int64_t k = 0; k < columns; ++k) {
        any_visible = static_cast<std::uint8_t>(any_visible | (at[k] != 0));
        any_hidden = static_cast<std::uint8_t>(any_hidden | (at[k] == 0));
      }
    } else {
      for (std::int64_t k = 0; k < columns; ++k) {
        (at[k * strides_[3]] != 0 ? any_visible : any_hidden) = 1;
      }
    }
    visible = visible || any_visible != 0;
    hidden = hidden || any_hidden != 0;
    if (visible && hidden) return Coverage::kPartial;
  }
  return visible ? Coverage::kFull : Coverage::kNone;
}

// Rows outside, keys inside, as memory lies; eight rows at a time meet in bytes, which vectorise,
// and the bytes of a key stand together as its word.
void Dense::clear_hidden(std::int64_t batch, std::int64_t head, Positions queries, Positions keys,
                         std::span<std::uint64_t> key_words) const noexcept {
  static_assert(std::endian::native == std::endian::little);
  constexpr std::int64_t kBlock = 128;
  constexpr std::int64_t kRows = 8;
  for (std::int64_t first = 0; first < keys.count; first += kBlock) {
    const std::int64_t count = std::min(kBlock, keys.count - first);
    std::array<std::uint8_t, kBlock * sizeof(std::uint64_t)> bytes{};  // [key][group of rows]
    for (std::int64_t lane = 0; lane < queries.count; lane += kRows) {
      std::array<std::uint8_t, kBlock> visible{};
      for (std::int64_t r = 0; r < std::min(kRows, queries.count - lane); ++r) {
        const std::uint8_t* at = row(batch, head, queries[lane + r]);
        const auto bit = static_cast<std::uint8_t>(1 << r);
        if (keys.index == nullptr && strides_[3] == 1) {
          add_bit(at + keys.first + first, count, bit, visible.data());
        } else {
          for (std::int64_t k = 0; k < count; ++k) {
            if (at[keys[first + k] * strides_[3]] != 0) visible[k] |= bit;
          }
        }
      }
      for (std::int64_t k = 0; k < count; ++k) bytes[k * kRows + lane / kRows] = visible[k];
    }
    for (std::int64_t k = 0; k < count; ++k) {
      std::uint64_t word;
      std::memcpy(&word, &bytes[k * kRows], sizeof word);
      key_words[first + k] &= word;
    }
  }
}

}  // namespace longspan::mask
