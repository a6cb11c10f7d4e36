// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// How queries stand to keys.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "longspan/mask.h"
#include "mask/documents.h"
#include "mask/tile.h"

namespace longspan::mask {

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
