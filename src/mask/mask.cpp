// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The public constructors: they only write down a term. Everything is validated when a call binds
// the mask.
#include "longspan/mask.h"

#include <utility>

namespace longspan {
namespace {

Mask positional(MaskKind kind, std::array<std::int64_t, 2> integers, QueryOffset query_offset) {
  MaskTerm term;
  term.kind = kind;
  term.integers = integers;
  term.query_offset = query_offset;
  return Mask(std::move(term));
}

Mask tensorial(MaskKind kind, ConstTensorView tensor, ConstTensorView tensor_k = {}) {
  MaskTerm term;
  term.kind = kind;
  term.tensor = tensor;
  term.tensor_k = tensor_k;
  return Mask(std::move(term));
}

}  // namespace

QueryOffset QueryOffset::end() {
  QueryOffset offset;
  offset.kind = Kind::kEnd;
  return offset;
}

QueryOffset QueryOffset::for_batch(ConstTensorView offsets) {
  QueryOffset offset;
  offset.kind = Kind::kPerBatch;
  offset.per_batch = offsets;
  return offset;
}

Mask operator&(Mask a, const Mask& b) {
  a.terms_.insert(a.terms_.end(), b.terms_.begin(), b.terms_.end());
  return a;
}

Mask causal(QueryOffset query_offset) { return positional(MaskKind::kCausal, {}, query_offset); }
Mask window(std::int64_t left, std::int64_t right, QueryOffset query_offset) {
  return positional(MaskKind::kWindow, {left, right}, query_offset);
}
Mask prefix(std::int64_t length, QueryOffset query_offset) {
  return positional(MaskKind::kPrefix, {length, 0}, query_offset);
}
Mask key_range(std::int64_t first, std::int64_t last) {
  return positional(MaskKind::kKeyRange, {first, last}, {});
}
Mask key_lengths(ConstTensorView lengths) { return tensorial(MaskKind::kKeyLengths, lengths); }
Mask documents(ConstTensorView cu_seqlens_q, ConstTensorView cu_seqlens_k) {
  return tensorial(MaskKind::kDocuments, cu_seqlens_q, cu_seqlens_k);
}
Mask dense(ConstTensorView visible) { return tensorial(MaskKind::kDense, visible); }

Mask predicate(MaskPredicate may_see) {
  MaskTerm term;
  term.kind = MaskKind::kPredicate;
  term.predicate = std::move(may_see);
  return Mask(std::move(term));
}

}  // namespace longspan
