// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The definitions of causal, window, prefix, key lengths and key range: checks, and what each takes
// from a band.
#include "mask/interval_term.h"

#include <string>

#include "base/check.h"
#include "mask/far.h"
#include "mask/integers.h"

namespace longspan::mask {
namespace {

void check_window(const std::string& where, std::int64_t left, std::int64_t right) {
  base::require(left >= -1 && right >= -1, [&] {
    return where + "window left and right must be >= 0, or -1 for an open side; found left " +
           std::to_string(left) + ", right " + std::to_string(right);
  });
}

void check_prefix(const std::string& where, std::int64_t length) {
  base::require(length >= 0, [&] {
    return where + "prefix length must be >= 0; found " + std::to_string(length);
  });
}

void check_key_range(const std::string& where, std::int64_t first, std::int64_t last,
                     std::int64_t seqlen_k) {
  base::require(0 <= first && first <= last && last <= seqlen_k, [&] {
    return where + "key_range needs 0 <= first <= last <= seqlen_k; found first " +
           std::to_string(first) + ", last " + std::to_string(last) + ", seqlen_k " +
           std::to_string(seqlen_k);
  });
}

void check_lengths(const std::string& where, const std::vector<std::int64_t>& lengths,
                   std::int64_t seqlen_k) {
  for (std::size_t batch = 0; batch < lengths.size(); ++batch) {
    base::require(0 <= lengths[batch] && lengths[batch] <= seqlen_k, [&] {
      return where + "key_lengths[" + std::to_string(batch) + "] must be in 0.." +
             std::to_string(seqlen_k) + " (seqlen_k); found " + std::to_string(lengths[batch]);
    });
  }
}

}  // namespace

IntervalTerm::IntervalTerm(const MaskTerm& term, const QueryOffset& call_offset,
                           const Documents& documents, const CallShape& shape)
    : kind_(term.kind), integers_(term.integers) {
  const std::string where = shape.where();
  const auto [first, second] = integers_;
  const auto offset = [&](const char* user) {
    return Offset(term.query_offset, call_offset, documents, shape, user);
  };
  switch (kind_) {
    case MaskKind::kCausal:
      offset_ = offset("causal");
      break;
    case MaskKind::kWindow:
      check_window(where, first, second);
      // Open on both sides it hides nothing and compares no positions.
      if (first >= 0 || second >= 0) offset_ = offset("window");
      break;
    case MaskKind::kPrefix:
      check_prefix(where, first);
      offset_ = offset("prefix");
      break;
    case MaskKind::kKeyRange:
      check_key_range(where, first, second, shape.seqlen_k);
      break;
    default:
      lengths_ = read_integers(term.tensor, where + "key_lengths", shape.batch);
      check_lengths(where, lengths_, shape.seqlen_k);
  }
}

void IntervalTerm::restrict(Band& band, std::int64_t batch, Range queries, Range keys) const {
  const std::int64_t offset = offset_.at(batch, queries, keys);
  // Positions count from the start of the document, bands from the start of the tensors. The offset
  // meets the window's side first: only the two together may be small when each is huge.
  const auto diagonal = [&](std::int64_t aligned) {
    return clamp_far(saturating_add(aligned, keys.begin - queries.begin));
  };
  const auto past = [&](std::int64_t right) {
    return diagonal(saturating_add(saturating_add(offset, right), 1));
  };
  switch (kind_) {
    case MaskKind::kCausal:
      band.keep_before(past(0));
      break;
    case MaskKind::kWindow:
      if (integers_[0] >= 0) band.keep_from(diagonal(saturating_subtract(offset, integers_[0])));
      if (integers_[1] >= 0) band.keep_before(past(integers_[1]));
      break;
    case MaskKind::kPrefix:
      band.keep_step(keys.begin + std::min(integers_[0], keys.size()), past(0));
      break;
    case MaskKind::kKeyRange:
      band.keep_keys({integers_[0], integers_[1]});
      break;
    default:
      band.keep_keys({0, lengths_[batch]});
  }
}

}  // namespace longspan::mask
