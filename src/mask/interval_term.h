// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Interval terms with everything resolved that does not depend on the document: lengths read,
// offsets known.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "longspan/mask.h"
#include "mask/band.h"
#include "mask/documents.h"
#include "mask/offset.h"

namespace longspan::mask {

class IntervalTerm {
 public:
  // kCausal, kWindow, kPrefix, kKeyLengths or kKeyRange; throws Error.
  IntervalTerm(const MaskTerm& term, const QueryOffset& call_offset, const Documents& documents,
               const CallShape& shape);

  // ANDs the term to the band of one document.
  void restrict(Band& band, std::int64_t batch, Range queries, Range keys) const;

 private:
  MaskKind kind_;
  std::array<std::int64_t, 2> integers_;
  std::vector<std::int64_t> lengths_;  // kKeyLengths
  Offset offset_;                      // kCausal, kWindow, kPrefix
};

}  // namespace longspan::mask
