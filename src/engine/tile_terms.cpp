// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Loads visibility, bias and positions of one tile.
#include "engine/tile_terms.h"

#include <algorithm>

#include "engine/score_terms.h"

namespace longspan::engine {
template <class T>
void TileTerms<T>::carve(base::Carver& carver) {
  words_ = carver.take<std::uint64_t>(most_keys_);
  if (call_.dropout.threshold > 0) kept_ = carver.take<std::uint64_t>(most_keys_);
  if (call_.bias.data != nullptr) bias_ = carver.take<T>(most_keys_ * most_width_);
  if (call_.alibi_slopes.data != nullptr) {
    query_positions_ = carver.take<T>(most_width_);
    key_positions_ = carver.take<T>(most_keys_);
  }
}

template <class T>
bool TileTerms<T>::load(std::int64_t batch, const PanelQueries& queries, mask::Range keys,
                        std::int64_t width) {
  visible_ = nullptr;
  if (!call_.mask->everything_visible()) {
    switch (call_.mask->coverage(batch, queries.head, queries.range(), keys)) {
      case mask::Coverage::kNone:
        return false;
      case mask::Coverage::kFull:
        break;
      case mask::Coverage::kPartial:
        call_.mask->fill_bits(batch, queries.head, queries.range(), keys,
                              {words_, static_cast<std::size_t>(keys.size())});
        visible_ = words_;
    }
  }
  if (call_.dropout.threshold > 0) {
    call_.kernel->fill_kept({call_.dropout.seed, call_.dropout.threshold, batch, queries.head,
                             queries.first, queries.count, keys.begin, keys.size()},
                            kept_);
  }
  if (!call_.has_terms()) return true;
  const std::int64_t rows = call_.kernel->format.rows(keys.size());
  terms_.softcap = static_cast<T>(call_.softcap);
  if (call_.softcap > 0) terms_.softcap_inverse = static_cast<T>(1 / call_.softcap);
  if (call_.bias.data != nullptr) {
    if (visible_ == nullptr) std::fill_n(words_, keys.size(), ~std::uint64_t{0});
    if (call_.kernel->load_bias(bias_rows(call_.bias, batch, queries.head, keys.begin),
                                queries.first, queries.count, keys.size(), width, bias_, words_)) {
      visible_ = words_;
      hide_padding(queries.count, keys.size());
    }
    std::fill(bias_ + keys.size() * width, bias_ + rows * width, T{0});
    terms_.bias = bias_;
  }
  if (call_.alibi_slopes.data != nullptr) {
    load_positions(*call_.mask, batch, queries, keys, width, query_positions_, key_positions_);
    std::fill(key_positions_ + keys.size(), key_positions_ + rows, T{0});
    terms_.alibi_slope = static_cast<T>(call_.alibi_slopes.at(batch, queries.head));
    terms_.query_positions = query_positions_;
    terms_.key_positions = key_positions_;
  }
  return true;
}

template <class T>
void TileTerms<T>::ahead(std::int64_t batch, const PanelQueries& queries, mask::Range keys,
                         kernel::RowsAhead (&rows)[kernel::kRowsAhead]) const noexcept {
  if (call_.bias.data != nullptr) {
    rows[0] = rows_ahead(bias_rows(call_.bias, batch, queries.head, keys.begin), queries.range(),
                         keys.size());
  }
  rows[1] = rows_ahead(call_.mask->dense_rows(batch, queries.head, keys.begin), queries.range(),
                       keys.size());
}

// A key that the bias hides from every query may hold NaN: lanes past the queries must not see it,
// either (their zeros times NaN would reach its gradient).
template <class T>
void TileTerms<T>::hide_padding(std::int64_t count, std::int64_t keys) {
  if (count == kernel::kMaxWidth) return;
  const std::uint64_t lanes = (std::uint64_t{1} << count) - 1;
  for (std::int64_t k = 0; k < keys; ++k) words_[k] &= lanes;
}

template class TileTerms<float>;
template class TileTerms<double>;

}  // namespace longspan::engine
