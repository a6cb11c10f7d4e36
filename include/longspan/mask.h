// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Masks as data: a list of terms joined by AND. A mask excludes keys; an excluded key contributes
// nothing, even when its key or value row holds NaN or inf. No term but dense() needs memory of
// size seqlen_q x seqlen_k.
//
// causal, window and prefix compare positions: query i sits at key position i + query_offset. With
// documents(), positions are counted from the start of each document on its own side, and the
// offset holds inside each document.
//
// A mask is checked when a call uses it, against the shapes of that call: Error(kInvalidArgument)
// names both values.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "longspan/tensor.h"

namespace longspan {

// Where query 0 sits among the keys. Unset is 0 when seqlen_q == seqlen_k (with documents: when
// each document has as many queries as keys) and an error otherwise: taking the wrong corner
// silently is the commonest attention bug there is. Any number will do, also past the ends of the
// keys.
struct QueryOffset {
  enum class Kind : std::uint8_t { kUnset, kNumber, kEnd, kPerBatch };
  Kind kind = Kind::kUnset;
  std::int64_t number = 0;      // kNumber
  ConstTensorView per_batch{};  // kPerBatch: [batch], int32 or int64

  QueryOffset() = default;
  // NOLINTNEXTLINE(google-explicit-constructor)
  QueryOffset(std::int64_t offset) : kind(Kind::kNumber), number(offset) {}
  // seqlen_k - seqlen_q: the last query sits at the last key (of its document, with documents()).
  static QueryOffset end();
  static QueryOffset for_batch(ConstTensorView offsets);
};

enum class MaskKind : std::uint8_t {
  kCausal,
  kWindow,
  kKeyLengths,
  kDocuments,
  kPrefix,
  kKeyRange,
  kDense,
  kPredicate
};

// True when query may see key; indices of the tensors. Called from several threads at once; an
// exception ends the call and is rethrown there.
using MaskPredicate = std::function<bool(std::int64_t batch, std::int64_t head, std::int64_t query,
                                         std::int64_t key)>;

struct MaskTerm {
  MaskKind kind = MaskKind::kCausal;
  // window: left, right; prefix: length; key range: first, last
  std::array<std::int64_t, 2> integers{};
  ConstTensorView tensor{};    // key lengths; cu_seqlens_q; dense
  ConstTensorView tensor_k{};  // cu_seqlens_k
  QueryOffset query_offset{};  // causal, window, prefix: overrides the call's when set
  MaskPredicate predicate{};
};

// Tensors are referenced, not copied: they must live until the call that uses the mask returns.
class Mask {
 public:
  Mask() = default;  // everything is visible
  explicit Mask(MaskTerm term) { terms_.push_back(std::move(term)); }
  const std::vector<MaskTerm>& terms() const noexcept { return terms_; }
  friend Mask operator&(Mask a, const Mask& b);

 private:
  std::vector<MaskTerm> terms_;
};
Mask operator&(Mask a, const Mask& b);

// Key j is seen by query i when j <= i + query_offset.
Mask causal(QueryOffset query_offset = {});
// i + query_offset - left <= j <= i + query_offset + right; -1 leaves that side open. Both open
// compare no positions.
Mask window(std::int64_t left, std::int64_t right, QueryOffset query_offset = {});
// Keys at and past lengths[batch] are not seen. lengths: [batch], int32 or int64, 0 <= length <=
// seqlen_k.
Mask key_lengths(ConstTensorView lengths);
// Packed documents in batch 1: query i and key j must belong to the same document d, that is
// cu_seqlens_q[d] <= i < cu_seqlens_q[d + 1] and likewise j. int32 or int64, [documents + 1],
// starting at 0, never decreasing, not past the tensor's end. Without cu_seqlens_k the first serves
// both. Rows and keys past the last boundary see nothing. At most one documents term in a mask.
Mask documents(ConstTensorView cu_seqlens_q, ConstTensorView cu_seqlens_k = {});
// Key j is seen when j < length, or as causal otherwise. length >= 0; with documents, the first
// keys of each document.
Mask prefix(std::int64_t length, QueryOffset query_offset = {});
// Only keys first <= j < last (indices of the tensor), 0 <= first <= last <= seqlen_k: a part for
// merge().
Mask key_range(std::int64_t first, std::int64_t last);
// Boolean, nonzero = may be seen, broadcastable to [batch, num_heads, seqlen_q, seqlen_k] as in
// NumPy: rank 4 at most, axes aligned at the right, extents 1 or equal. Hidden tiles are skipped
// after a look at all their elements.
Mask dense(ConstTensorView visible);
// Evaluated pair by pair, where the other terms leave the pair visible: no speed is promised.
Mask predicate(MaskPredicate may_see);

}  // namespace longspan
