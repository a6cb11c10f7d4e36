// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// A mask bound to the shapes of one call: validated once, then asked three questions by the engine.
// Which keys can a range of queries see, is a tile hidden, full or partial, and which bits does a
// partial tile have.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/rows.h"
#include "longspan/mask.h"
#include "mask/band.h"
#include "mask/dense.h"
#include "mask/documents.h"
#include "mask/offset.h"
#include "mask/tile.h"

namespace longspan::mask {

class BoundMask {
 public:
  // Validates every term against the shapes and resolves offsets; `call_offset` serves the terms
  // that have none. `positions_needed`: something beside the mask compares positions, so the
  // offset must be known; `who` does, in errors. Throws Error(kInvalidArgument): what, where,
  // expected, found; an offset that must be said names both choices. The tensors of the mask must
  // outlive the object; its small arrays (lengths, boundaries) are copied.
  BoundMask(const Mask& mask, const QueryOffset& call_offset, const CallShape& shape,
            bool positions_needed = false, const char* who = "alibi");

  // No pair of the call is hidden: also where a causal mask hides nothing, as for one query at the
  // end.
  bool everything_visible() const noexcept { return everything_visible_; }

  // The smallest known range that holds every key that some query of the range can see (a superset:
  // hull), of all heads. Empty when nothing is visible. Tight unless a dense mask or a predicate
  // takes part: these never narrow it. noexcept: ranges lie inside the shape.
  Range visible_keys(std::int64_t batch, Range queries) const noexcept {
    return mask::visible_keys(bands(batch), queries);
  }

  // kNone and kFull are certain; kPartial may be said when unsure (dense and others together,
  // predicates). Empty tiles are kNone. O(log documents), and a scan of the tile for a dense mask.
  Coverage coverage(std::int64_t batch, std::int64_t head, Range queries,
                    Range keys) const noexcept;

  // key_words[k] bit l = 1 when the l-th query may see the k-th key; queries.size() <= 64, bits at
  // and past it are 0. A predicate is asked only for pairs that the other terms leave visible. May
  // throw what a predicate throws.
  void fill_bits(std::int64_t batch, std::int64_t head, Range queries, Range keys,
                 std::span<std::uint64_t> key_words) const;

  // The same of gathered positions, in two parts. What the interval terms leave of the keys of each
  // query, and whether there are other terms, which then clear the bits of what they hide.
  void keys_of_queries(std::int64_t batch, Positions queries,
                       std::span<Range> keys_of_lane) const noexcept {
    mask::keys_of_queries(bands(batch), queries, keys_of_lane);
  }
  bool has_other_terms() const noexcept { return !dense_.empty() || !predicates_.empty(); }
  void clear_hidden(std::int64_t batch, std::int64_t head, Positions queries, Positions keys,
                    std::span<std::uint64_t> key_words) const;

  // Rows (queries) of the first dense mask from this key on, absent without one: to be fetched
  // before they are asked for.
  base::RowSource dense_rows(std::int64_t batch, std::int64_t head,
                             std::int64_t first_key) const noexcept {
    return dense_.empty() ? base::RowSource{} : dense_.front().rows(batch, head, first_key);
  }

  // Aligned positions, both in the key's coordinates (inside the document when there are documents)
  // and by the call's offset: ALiBi's distance is |query position - key position|. Rows outside all
  // documents get any number. For calls bound with `positions_needed`.
  void query_positions(std::int64_t batch, Range queries,
                       std::span<std::int64_t> positions) const noexcept;
  void key_positions(Range keys, std::span<std::int64_t> positions) const noexcept;
  std::int64_t query_position(std::int64_t batch, std::int64_t query) const noexcept {
    std::int64_t position = 0;
    query_positions(batch, {query, query + 1}, {&position, 1});
    return position;
  }
  // The place among all keys that is level with a query: its position, counted from the first key
  // of its document. Any number for rows outside all documents.
  std::int64_t query_place(std::int64_t batch, std::int64_t query) const noexcept {
    const std::int64_t d = documents_.document_of_query(query);
    return query_position(batch, query) + (d < 0 ? 0 : documents_.keys(d).begin);
  }
  std::int64_t key_position(std::int64_t key) const noexcept {
    std::int64_t position = 0;
    key_positions({key, key + 1}, {&position, 1});
    return position;
  }

 private:
  Bands bands(std::int64_t batch) const noexcept {
    if (bands_.empty()) return {};
    return Bands(bands_).subspan(first_band_[batch], first_band_[batch + 1] - first_band_[batch]);
  }
  void bind_bands(const Mask& mask, const QueryOffset& call_offset, const CallShape& shape);
  bool hides_nothing(const CallShape& shape) const noexcept;

  Documents documents_;
  Offset call_offset_;
  std::vector<Band> bands_;              // the interval terms, batch entry by batch entry
  std::vector<std::size_t> first_band_;  // [batch + 1]
  std::vector<Dense> dense_;
  std::vector<MaskPredicate> predicates_;
  bool everything_visible_ = false;
};

}  // namespace longspan::mask
