// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Which term takes which tensors.
#include "mask_terms.h"

#include "longspan/error.h"

namespace longspan::python {

QueryOffset decode_offset(std::int64_t kind, std::int64_t number, const TensorSource& next) {
  QueryOffset offset;
  offset.kind = static_cast<QueryOffset::Kind>(kind);
  offset.number = number;
  if (offset.kind == QueryOffset::Kind::kPerBatch) {
    offset.per_batch = next("query_offset", Numbers::kInteger);
  }
  return offset;
}

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
    term.query_offset = decode_offset(numbers[3], numbers[4], next);
    mask = mask & Mask(term);
  }
  return mask;
}

}  // namespace longspan::python
