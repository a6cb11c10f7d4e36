// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Binding a mask: its interval terms become bands, its other terms are kept, and the three
// questions ask both.
#include "mask/bound_mask.h"

#include <bit>
#include <string>

#include "base/check.h"
#include "mask/far.h"
#include "mask/interval_term.h"

namespace longspan::mask {
namespace {

Documents bind_documents(const Mask& mask, const CallShape& shape) {
  const MaskTerm* found = nullptr;
  int count = 0;
  for (const MaskTerm& term : mask.terms()) {
    if (term.kind != MaskKind::kDocuments) continue;
    found = &term;
    ++count;
  }
  base::require(count <= 1, [&] {
    return shape.where() + "a mask holds at most one documents term; found " +
           std::to_string(count);
  });
  return found != nullptr ? Documents(*found, shape) : Documents(shape);
}

}  // namespace

BoundMask::BoundMask(const Mask& mask, const QueryOffset& call_offset, const CallShape& shape,
                     bool positions_needed, const char* who)
    : documents_(bind_documents(mask, shape)) {
  if (positions_needed || call_offset.kind != QueryOffset::Kind::kUnset) {
    call_offset_ = Offset(call_offset, {}, documents_, shape, positions_needed ? who : "the call");
  }
  bind_bands(mask, call_offset, shape);
  everything_visible_ = hides_nothing(shape);
}

void BoundMask::bind_bands(const Mask& mask, const QueryOffset& call_offset,
                           const CallShape& shape) {
  std::vector<IntervalTerm> terms;
  for (const MaskTerm& term : mask.terms()) {
    switch (term.kind) {
      case MaskKind::kDocuments:
        break;  // already bound: every other term needs them
      case MaskKind::kCausal:
      case MaskKind::kWindow:
      case MaskKind::kKeyLengths:
      case MaskKind::kPrefix:
      case MaskKind::kKeyRange:
        terms.emplace_back(term, call_offset, documents_, shape);
        break;
      case MaskKind::kDense:
        dense_.emplace_back(term.tensor, shape);
        break;
      case MaskKind::kPredicate:
        base::require(term.predicate != nullptr, [&] {
          return shape.where() + "a predicate mask needs a function; found none";
        });
        predicates_.push_back(term.predicate);
        break;
      default:
        base::fail(ErrorCode::kInvalidArgument,
                   shape.where() + "mask kinds are 0.." +
                       std::to_string(static_cast<int>(MaskKind::kPredicate)) + "; found " +
                       std::to_string(static_cast<int>(term.kind)));
    }
  }
  // Without pairs there are no bands, however many batch entries there may be.
  if (shape.num_heads == 0 || shape.seqlen_q == 0 || shape.seqlen_k == 0) return;
  first_band_.push_back(0);
  for (std::int64_t batch = 0; batch < shape.batch; ++batch) {
    for (std::int64_t d = 0; d < documents_.count(); ++d) {
      const Range queries = documents_.queries(d), keys = documents_.keys(d);
      Band band(queries, keys);
      for (const IntervalTerm& term : terms) term.restrict(band, batch, queries, keys);
      if (band.trim()) bands_.push_back(std::move(band));
    }
    first_band_.push_back(bands_.size());
  }
}

bool BoundMask::hides_nothing(const CallShape& shape) const noexcept {
  if (!dense_.empty() || !predicates_.empty()) return false;
  const Range queries{0, shape.seqlen_q}, keys{0, shape.seqlen_k};
  if (shape.num_heads == 0 || queries.empty() || keys.empty()) return true;
  for (std::int64_t batch = 0; batch < shape.batch; ++batch) {
    if (mask::coverage(bands(batch), queries, keys) != Coverage::kFull) return false;
  }
  return true;
}

Coverage BoundMask::coverage(std::int64_t batch, std::int64_t head, Range queries,
                             Range keys) const noexcept {
  Coverage all = mask::coverage(bands(batch), queries, keys);
  for (const Dense& dense : dense_) {
    if (all == Coverage::kNone) return all;
    const Coverage one = dense.coverage(batch, head, queries, keys);
    if (one != Coverage::kFull) all = one;
  }
  return all == Coverage::kFull && !predicates_.empty() ? Coverage::kPartial : all;
}

void BoundMask::fill_bits(std::int64_t batch, std::int64_t head, Range queries, Range keys,
                          std::span<std::uint64_t> key_words) const {
  mask::fill_bits(bands(batch), queries, keys, key_words);
  clear_hidden(batch, head, {queries.begin, queries.size()}, {keys.begin, keys.size()}, key_words);
}

void BoundMask::clear_hidden(std::int64_t batch, std::int64_t head, Positions queries,
                             Positions keys, std::span<std::uint64_t> key_words) const {
  for (const Dense& dense : dense_) dense.clear_hidden(batch, head, queries, keys, key_words);
  for (const MaskPredicate& may_see : predicates_) {
    for (std::int64_t k = 0; k < keys.count; ++k) {
      for (std::uint64_t left = key_words[k]; left != 0; left &= left - 1) {
        const int lane = std::countr_zero(left);
        if (!may_see(batch, head, queries[lane], keys[k])) {
          key_words[k] &= ~(std::uint64_t{1} << lane);
        }
      }
    }
  }
}

void BoundMask::query_positions(std::int64_t batch, Range queries,
                                std::span<std::int64_t> positions) const noexcept {
  for (std::int64_t n = queries.begin; n < queries.end;) {
    const std::int64_t d = documents_.document_of_query(n);
    const Range document = d < 0 ? Range{n, n + 1} : documents_.queries(d);
    const std::int64_t shift =
        d < 0 ? 0
              : clamp_far(call_offset_.at(batch, document, documents_.keys(d))) - document.begin;
    for (const std::int64_t end = std::min(document.end, queries.end); n < end; ++n) {
      positions[static_cast<std::size_t>(n - queries.begin)] = n + shift;
    }
  }
}

void BoundMask::key_positions(Range keys, std::span<std::int64_t> positions) const noexcept {
  for (std::int64_t n = keys.begin; n < keys.end;) {
    const std::int64_t d = documents_.document_of_key(n);
    const Range document = d < 0 ? Range{n, n + 1} : documents_.keys(d);
    for (const std::int64_t end = std::min(document.end, keys.end); n < end; ++n) {
      positions[static_cast<std::size_t>(n - keys.begin)] = n - document.begin;
    }
  }
}

}  // namespace longspan::mask
