// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Where the documents of a packed call begin and end.
#pragma once

#include <cstdint>
#include <vector>

#include "longspan/mask.h"
#include "mask/tile.h"

namespace longspan::mask {

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

}  // namespace longspan::mask
