// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What the pairs of one tile have beside their dot products, in the form that kernels read: which
// are visible, which dropout keeps, and the terms of their scores.
#pragma once

#include <cstdint>

#include "base/buffer.h"
#include "engine/attention_call.h"

namespace longspan::engine {

template <class T>
class TileTerms {
 public:
  // `keys` and `width`: the largest tile, with the padding of its keys.
  TileTerms(const AttentionCall<T>& call, std::int64_t keys, std::int64_t width)
      : call_(call), most_keys_(keys), most_width_(width) {}
  void carve(base::Carver& carver);

  // False when no pair of the tile is visible. May throw what a predicate throws.
  bool load(std::int64_t batch, const PanelQueries& queries, mask::Range keys, std::int64_t width);

  // The rows of bias and mask that the tile of other queries will read.
  void ahead(std::int64_t batch, const PanelQueries& queries, mask::Range keys,
             kernel::RowsAhead (&rows)[kernel::kRowsAhead]) const noexcept;

  // Of the tile that was loaded last.
  const std::uint64_t* visible() const noexcept { return visible_; }  // null: all pairs
  const std::uint64_t* kept() const noexcept { return kept_; }        // null: no dropout
  const kernel::ScoreTerms<T>* terms() const noexcept {               // null: scale only
    return call_.has_terms() ? &terms_ : nullptr;
  }

 private:
  void hide_padding(std::int64_t count, std::int64_t keys);

  const AttentionCall<T>& call_;
  std::int64_t most_keys_;
  std::int64_t most_width_;
  const std::uint64_t* visible_ = nullptr;
  kernel::ScoreTerms<T> terms_;
  std::uint64_t* words_ = nullptr;  // [keys]
  std::uint64_t* kept_ = nullptr;   // [keys], with dropout
  T* bias_ = nullptr;               // [keys][width]
  T* query_positions_ = nullptr;    // [width]
  T* key_positions_ = nullptr;      // [keys]
};

}  // namespace longspan::engine
