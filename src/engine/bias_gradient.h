// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The gradient of a bias is dS, summed over the axes along which the bias is broadcast. What that
// costs depends on the axes:
//   queries and keys both there    tiles of dS are added where they belong. Heads and batch entries
//                                  that share a bias must be done one after the other.
//   keys only                      one sum for each (batch, head, key), reduced at the end
//   queries only, or neither       one number for each (batch, head, query), reduced at the end.
//                                  Without a sink the weights of a row sum to 1, so it is
//                                  sum_j dS_ij = dlse_i and no tile is looked at. With one it is
//                                  dlse_i + P_i,sink delta_i, which cancels where the sink has
//                                  nearly all the weight: tiles are summed over their keys.
#pragma once

#include <cstdint>
#include <vector>

#include "base/broadcast.h"
#include "engine/attention_call.h"

namespace longspan::engine {

template <class T>
class BiasGradient {
 public:
  // `into` fits `full`, [batch, num_heads, seqlen_q, seqlen_k] of the call.
  BiasGradient(const TensorView& into, const Extents& full, bool has_sinks);

  bool wants_tiles() const noexcept { return kind_ != Kind::kKnown; }
  bool sums_queries() const noexcept { return kind_ == Kind::kQueries; }  // of tiles: add_queries
  bool knows_queries() const noexcept { return kind_ == Kind::kKnown; }   // set_query
  // Tiles of different batch entries (heads) are added to the same place.
  bool shares_batch() const noexcept { return kind_ == Kind::kFull && axes_.shape[0] < full_[0]; }
  bool shares_heads() const noexcept { return kind_ == Kind::kFull && axes_.shape[1] < full_[1]; }

  // tile[key][lane] of dS; scratch holds width * keys elements.
  void add_tile(const kernel::KernelTable<T>& kernel, std::int64_t batch,
                const PanelQueries& queries, mask::Range keys, const T* tile, std::int64_t width,
                T* scratch) noexcept;
  // Adds to what is there, [lane]: tasks that share queries must take turns.
  void add_queries(std::int64_t batch, const PanelQueries& queries, const T* sums) noexcept {
    T* into = query_sum(batch, queries.head, queries.first);
    for (std::int64_t lane = 0; lane < queries.count; ++lane) into[lane] += sums[lane];
  }
  void set_query(std::int64_t batch, std::int64_t head, std::int64_t query, T sum) noexcept {
    *query_sum(batch, head, query) = sum;
  }

  // What begin() allocates: one number for each (batch, head, key) or (batch, head, query) where
  // that is how it is summed.
  std::size_t bytes() const noexcept {
    return static_cast<std::size_t>(sums()) * sizeof(T) +
           static_cast<std::size_t>(places()) * sizeof(double);
  }
  void begin();            // before the first tile
  void finish() noexcept;  // after the last

 private:
  enum class Kind { kFull, kKeys, kQueries, kKnown };

  std::size_t axis() const noexcept { return kind_ == Kind::kKeys ? 3 : 2; }  // of the sums
  std::int64_t sums() const noexcept {
    return kind_ == Kind::kFull ? 0 : full_[0] * full_[1] * full_[axis()];
  }
  std::int64_t places() const noexcept { return kind_ == Kind::kFull ? 0 : axes_.shape[axis()]; }

  T* query_sum(std::int64_t batch, std::int64_t head, std::int64_t query) noexcept {
    return sums_.data() + (batch * full_[1] + head) * full_[2] + query;
  }

  T* into_;
  base::Broadcast axes_;
  Extents full_;
  Kind kind_;
  std::vector<T> sums_;         // [batch][head][key], or [batch][head][query]
  std::vector<double> totals_;  // of one (batch, head) of the gradient
};

}  // namespace longspan::engine
