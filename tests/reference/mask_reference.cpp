// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Each case of may_see() is one sentence of the definition of masks. Positions are 128 bits wide.
#include "reference/mask_reference.h"

namespace longspan::reference {
namespace {

__extension__ typedef __int128 Int128;

std::int64_t element(const ConstTensorView& tensor, std::int64_t n) {
  if (tensor.dtype == DType::kInt32) {
    return static_cast<const std::int32_t*>(tensor.data)[n * tensor.strides[0]];
  }
  return static_cast<const std::int64_t*>(tensor.data)[n * tensor.strides[0]];
}

// The document that holds an index: its number, or -1; its first index and its length.
struct Document {
  std::int64_t number, start, length;
};

Document document_of(const ConstTensorView& starts, std::int64_t index) {
  for (std::int64_t d = 0; d + 1 < starts.shape[0]; ++d) {
    const std::int64_t first = element(starts, d), last = element(starts, d + 1);
    if (first <= index && index < last) return {d, first, last - first};
  }
  return {-1, 0, 0};
}

// Both sides of a pair. Without a documents term each tensor is one document.
struct Sides {
  Document query, key;
};

Sides sides_of(const Mask& mask, std::int64_t seqlen_q, std::int64_t seqlen_k, std::int64_t query,
               std::int64_t key) {
  for (const MaskTerm& term : mask.terms()) {
    if (term.kind != MaskKind::kDocuments) continue;
    const ConstTensorView& starts_k = is_given(term.tensor_k) ? term.tensor_k : term.tensor;
    return {document_of(term.tensor, query), document_of(starts_k, key)};
  }
  return {{0, 0, seqlen_q}, {0, 0, seqlen_k}};
}

Int128 offset_of(const QueryOffset& own, const QueryOffset& call, std::int64_t batch,
                 const Sides& sides) {
  const QueryOffset& offset = own.kind == QueryOffset::Kind::kUnset ? call : own;
  if (offset.kind == QueryOffset::Kind::kNumber) return offset.number;
  if (offset.kind == QueryOffset::Kind::kEnd) return sides.key.length - sides.query.length;
  if (offset.kind == QueryOffset::Kind::kPerBatch) return element(offset.per_batch, batch);
  return 0;
}

bool dense_allows(const ConstTensorView& visible, const Extents& index) {
  std::int64_t at = 0;
  for (int axis = 0; axis < visible.rank; ++axis) {
    if (visible.shape[axis] == 1) continue;
    at += index[axis + kMaxRank - visible.rank] * visible.strides[axis];
  }
  return static_cast<const unsigned char*>(visible.data)[at] != 0;
}

}  // namespace

bool may_see(const Mask& mask, const QueryOffset& call_offset, std::int64_t seqlen_q,
             std::int64_t seqlen_k, std::int64_t batch, std::int64_t head, std::int64_t query,
             std::int64_t key) {
  const Sides sides = sides_of(mask, seqlen_q, seqlen_k, query, key);
  const Int128 j = key - sides.key.start;
  for (const MaskTerm& term : mask.terms()) {
    const Int128 i =
        query - sides.query.start + offset_of(term.query_offset, call_offset, batch, sides);
    const std::int64_t first = term.integers[0], second = term.integers[1];
    bool visible = false;
    switch (term.kind) {
      case MaskKind::kCausal:
        visible = j <= i;
        break;
      case MaskKind::kWindow:
        visible = (first == -1 || i - first <= j) && (second == -1 || j <= i + second);
        break;
      case MaskKind::kPrefix:
        visible = j < first || j <= i;
        break;
      case MaskKind::kKeyLengths:
        visible = key < element(term.tensor, batch);
        break;
      case MaskKind::kKeyRange:
        visible = first <= key && key < second;
        break;
      case MaskKind::kDocuments:
        visible = sides.query.number >= 0 && sides.query.number == sides.key.number;
        break;
      case MaskKind::kDense:
        visible = dense_allows(term.tensor, {batch, head, query, key});
        break;
      case MaskKind::kPredicate:
        visible = term.predicate(batch, head, query, key);
        break;
    }
    if (!visible) return false;
  }
  return true;
}

double distance(const Mask& mask, const QueryOffset& call_offset, std::int64_t seqlen_q,
                std::int64_t seqlen_k, std::int64_t batch, std::int64_t query, std::int64_t key) {
  const Sides sides = sides_of(mask, seqlen_q, seqlen_k, query, key);
  const Int128 i = query - sides.query.start + offset_of({}, call_offset, batch, sides);
  return static_cast<double>(i - (key - sides.key.start));
}

}  // namespace longspan::reference
