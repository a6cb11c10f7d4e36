// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Which term takes which tensors.
#include "mask_terms.h"

#include "longspan/error.h"

namespace longspan::python {

Mask decode_mask(std::span<const std::int64_t> numbers, const TensorSource& next) {
  if (numbers.size() % kMaskNumbers != 0) {
    throw Error(ErrorCode::kInvalidArgument, "mask: a term is incomplete");
  }
  Mask mask;
  for (; !numbers.empty(); numbers = numbers.subspan(kMaskNumbers)) {
    MaskTerm term;
    term.kind = static_cast<MaskKind>(numbers[0]);
    term.integers = {numbers[1], numbers[2]};
    switch (term.kind) {
      case MaskKind::kKeyLengths:
        term.tensor = next("lengths", Numbers::kInteger);
        break;
      case MaskKind::kDocuments:
        term.tensor = next("cu_seqlens_q", Numbers::kInteger);
        term.tensor_k = next("cu_seqlens_k", Numbers::kInteger);
        break;
      case MaskKind::kDense:
        term.tensor = next("mask", Numbers::kBool);
        break;
      default:
        break;
    }
    term.query_offset.kind = static_cast<QueryOffset::Kind>(numbers[3]);
    term.query_offset.number = numbers[4];
    if (term.query_offset.kind == QueryOffset::Kind::kPerBatch) {
      term.query_offset.per_batch = next("query_offset", Numbers::kInteger);
    }
    mask = mask & Mask(term);
  }
  return mask;
}

}  // namespace longspan::python
