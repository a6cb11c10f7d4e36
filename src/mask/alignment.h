// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Who stands where: document boundaries and query offsets, read from the caller's tensors and
// validated.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "longspan/mask.h"
#include "mask/tile.h"

namespace longspan::mask {

// Sums of offsets and window sides that leave the type stop at its ends.
inline std::int64_t saturating_add(std::int64_t a, std::int64_t b) noexcept {
  std::int64_t sum;
  if (!__builtin_add_overflow(a, b, &sum)) return sum;
  return b < 0 ? INT64_MIN : INT64_MAX;
}
inline std::int64_t saturating_subtract(std::int64_t a, std::int64_t b) noexcept {
  std::int64_t difference;
  if (!__builtin_sub_overflow(a, b, &difference)) return difference;
  return b > 0 ? INT64_MIN : INT64_MAX;
}
inline std::int64_t clamp_far(std::int64_t n) noexcept { return std::clamp(n, -kFar, kFar); }

// An int32 or int64 tensor of rank 1, any stride. `count` < 0 takes any length. Errors begin with
// `name`.
std::vector<std::int64_t> read_integers(const ConstTensorView& tensor, const std::string& name,
                                        std::int64_t count);

// Boundaries of the documents on both sides, documents + 1 each. A call without documents is one
// document.
class Documents {
 public:
  explicit Documents(const CallShape& shape);
  Documents(const MaskTerm& term, const CallShape& shape);

  bool packed() const noexcept { return packed_; }  // there is a documents term
  std::int64_t count() const noexcept { return static_cast<std::int64_t>(starts_q_.size()) - 1; }
  Range queries(std::int64_t document) const noexcept {
    return {starts_q_[document], starts_q_[document + 1]};
  }
  Range keys(std::int64_t document) const noexcept {
    return {starts_k_[document], starts_k_[document + 1]};
  }
  // The document that holds the index, -1 past the last boundary.
  std::int64_t document_of_query(std::int64_t query) const noexcept;
  std::int64_t document_of_key(std::int64_t key) const noexcept;

 private:
  bool packed_;
  std::vector<std::int64_t> starts_q_, starts_k_;
};

// Offset from positions of queries to positions of keys, inside a document.
class Offset {
 public:
  Offset() = default;  // 0
  // `own` when it is set, else `call`; `user` is who compares positions and is named in errors.
  Offset(const QueryOffset& own, const QueryOffset& call, const Documents& documents,
         const CallShape& shape, const std::string& user);

  std::int64_t at(std::int64_t batch, Range queries, Range keys) const noexcept {
    if (end_) return keys.size() - queries.size();
    return numbers_.size() == 1 ? numbers_[0] : numbers_[batch];
  }

 private:
  bool end_ = false;
  std::vector<std::int64_t> numbers_{0};  // one for all, or one a batch entry
};

}  // namespace longspan::mask
