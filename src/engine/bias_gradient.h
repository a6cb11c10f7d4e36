// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The gradient of a bias is dS, summed over the axes along which the bias is broadcast. What that
// costs depends on the axes:
//   queries and keys both there    tiles of dS are added where they belong. Heads and batch entries
//                                  that share a bias must be done one after the other.
//   keys only                      one sum for each (batch, head, key), reduced at the end
//   queries only, or neither       no tile is looked at: sum_j dS_ij = doutput_i . output_i -
//                                  delta_i (1 - P_i,sink), because the weights of a row sum to 1
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "engine/attention_call.h"

namespace longspan::engine {

struct BiasAxes {  // of the gradient tensor; axes that it lacks have extent 1
  std::array<std::int64_t, 4> shape{1, 1, 1, 1};  // batch, head, query, key
  std::array<std::int64_t, 4> strides{};          // 0 where the extent is 1
};

template <class T>
class BiasGradient {
 public:
  // `full`: [batch, num_heads, seqlen_q, seqlen_k] of the call. Allocates one number for each
  // (batch, head, key) or (batch, head, query) where that is how it is summed.
  BiasGradient(T* into, const BiasAxes& axes, const std::array<std::int64_t, 4>& full);

  bool wants_tiles() const noexcept { return kind_ != Kind::kRows; }
  bool wants_rows() const noexcept { return kind_ == Kind::kRows; }
  // Tiles of different batch entries (heads) are added to the same place.
  bool shares_batch() const noexcept { return kind_ == Kind::kFull && axes_.shape[0] < full_[0]; }
  bool shares_heads() const noexcept { return kind_ == Kind::kFull && axes_.shape[1] < full_[1]; }

  // tile[key][lane] of dS; scratch holds width * keys elements.
  void add_tile(const kernel::KernelTable<T>& kernel, std::int64_t batch,
                const PanelQueries& queries, mask::Range keys, const T* tile, std::int64_t width,
                T* scratch) noexcept;
  void set_row(std::int64_t batch, std::int64_t head, std::int64_t query, T sum) noexcept {
    sums_[static_cast<std::size_t>((batch * full_[1] + head) * full_[2] + query)] = sum;
  }

  std::size_t bytes() const noexcept { return sums_.size() * sizeof(T); }
  void clear() noexcept;   // before the first tile
  void finish() noexcept;  // after the last

 private:
  enum class Kind { kFull, kKeys, kRows };

  T* into_;
  BiasAxes axes_;
  std::array<std::int64_t, 4> full_;
  Kind kind_;
  std::vector<T> sums_;  // [batch][head][key], or [batch][head][query]
};

}  // namespace longspan::engine
