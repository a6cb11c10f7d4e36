// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Reading and checking boundaries and offsets.
#include "mask/alignment.h"

#include <algorithm>

#include "base/check.h"

namespace longspan::mask {
namespace {

std::vector<std::int64_t> read_boundaries(const ConstTensorView& tensor, const std::string& name) {
  std::vector<std::int64_t> starts = read_integers(tensor, name, -1);
  base::require(!starts.empty(),
                [&] { return name + " must have shape [documents + 1]; found [0]"; });
  base::require(starts[0] == 0,
                [&] { return name + " must start at 0; found " + std::to_string(starts[0]); });
  for (std::size_t n = 1; n < starts.size(); ++n) {
    base::require(starts[n - 1] <= starts[n], [&] {
      return name + " must not decrease; entry " + std::to_string(n - 1) + " is " +
             std::to_string(starts[n - 1]) + ", entry " + std::to_string(n) + " is " +
             std::to_string(starts[n]);
    });
  }
  return starts;
}

void require_inside(const std::vector<std::int64_t>& starts, const std::string& name,
                    std::int64_t seqlen, const char* axis) {
  base::require(starts.back() <= seqlen, [&] {
    return name + " must not pass " + axis + "; the last boundary is " +
           std::to_string(starts.back()) + ", " + axis + " is " + std::to_string(seqlen);
  });
}

// Empty documents share their boundary with the next: the last that starts at or before the index
// holds it.
std::int64_t document_of(const std::vector<std::int64_t>& starts, std::int64_t index) noexcept {
  if (index >= starts.back()) return -1;
  return std::upper_bound(starts.begin(), starts.end(), index) - starts.begin() - 1;
}

// An unset offset is 0 where both sides are equally long, and nothing that could be guessed
// elsewhere.
void require_equal_lengths(const Documents& documents, const CallShape& shape,
                           const std::string& user) {
  for (std::int64_t d = 0; d < documents.count(); ++d) {
    const std::int64_t queries = documents.queries(d).size(), keys = documents.keys(d).size();
    if (queries == keys) continue;
    const std::string needs = shape.where() + user + " needs query_offset when ";
    base::fail(ErrorCode::kInvalidArgument,
               documents.packed()
                   ? needs + "the lengths of a document differ; document " + std::to_string(d) +
                         " has " + std::to_string(queries) + " queries, " + std::to_string(keys) +
                         " keys"
                   : needs + "seqlen_q != seqlen_k; query has " + std::to_string(shape.seqlen_q) +
                         ", key has " + std::to_string(shape.seqlen_k),
               "say query_offset = 0 (aligned at the first key) or end (aligned at the last)");
  }
}

}  // namespace

std::vector<std::int64_t> read_integers(const ConstTensorView& tensor, const std::string& name,
                                        std::int64_t count) {
  base::require(is_given(tensor),
                [&] { return name + " must be a tensor of int32 or int64; found none"; });
  base::require(tensor.dtype == DType::kInt32 || tensor.dtype == DType::kInt64,
                [&] { return name + " must be int32 or int64; found " + name_of(tensor.dtype); });
  base::require(tensor.rank == 1, [&] {
    return name + " must have rank 1; found rank " + std::to_string(tensor.rank);
  });
  base::require(tensor.shape[0] >= 0 && (count < 0 || tensor.shape[0] == count), [&] {
    return name + " must have shape [" + (count < 0 ? "documents + 1" : std::to_string(count)) +
           "]; found " + shape_string(tensor);
  });
  base::require(tensor.data != nullptr || tensor.shape[0] == 0,
                [&] { return name + " has shape " + shape_string(tensor) + " but no data"; });
  std::vector<std::int64_t> values(static_cast<std::size_t>(tensor.shape[0]));
  for (std::int64_t n = 0; n < tensor.shape[0]; ++n) {
    const std::int64_t at = n * tensor.strides[0];
    values[n] = tensor.dtype == DType::kInt32 ? static_cast<const std::int32_t*>(tensor.data)[at]
                                              : static_cast<const std::int64_t*>(tensor.data)[at];
  }
  return values;
}

Documents::Documents(const CallShape& shape)
    : packed_(false), starts_q_{0, shape.seqlen_q}, starts_k_{0, shape.seqlen_k} {}

Documents::Documents(const MaskTerm& term, const CallShape& shape) : packed_(true) {
  base::require(shape.batch == 1, [&] {
    return shape.where() + "documents needs batch 1; found batch " + std::to_string(shape.batch);
  });
  const bool shared = !is_given(term.tensor_k);
  const std::string name_q = shape.where() + "cu_seqlens_q";
  const std::string name_k =
      shape.where() + (shared ? "cu_seqlens_q (serving the keys)" : "cu_seqlens_k");
  starts_q_ = read_boundaries(term.tensor, name_q);
  starts_k_ = shared ? starts_q_ : read_boundaries(term.tensor_k, name_k);
  base::require(starts_q_.size() == starts_k_.size(), [&] {
    return shape.where() +
           "cu_seqlens_q and cu_seqlens_k must have the same length; cu_seqlens_q has " +
           std::to_string(starts_q_.size()) + ", cu_seqlens_k has " +
           std::to_string(starts_k_.size());
  });
  require_inside(starts_q_, name_q, shape.seqlen_q, "seqlen_q");
  require_inside(starts_k_, name_k, shape.seqlen_k, "seqlen_k");
}

std::int64_t Documents::document_of_query(std::int64_t query) const noexcept {
  return document_of(starts_q_, query);
}
std::int64_t Documents::document_of_key(std::int64_t key) const noexcept {
  return document_of(starts_k_, key);
}

Offset::Offset(const QueryOffset& own, const QueryOffset& call, const Documents& documents,
               const CallShape& shape, const std::string& user) {
  const QueryOffset& offset = own.kind != QueryOffset::Kind::kUnset ? own : call;
  switch (offset.kind) {
    case QueryOffset::Kind::kUnset:
      require_equal_lengths(documents, shape, user);
      return;
    case QueryOffset::Kind::kNumber:
      numbers_ = {offset.number};
      return;
    case QueryOffset::Kind::kEnd:
      end_ = true;
      return;
    case QueryOffset::Kind::kPerBatch:
      numbers_ =
          read_integers(offset.per_batch, shape.where() + "query_offset of " + user, shape.batch);
      return;
  }
  base::fail(ErrorCode::kInvalidArgument, shape.where() + "query_offset of " + user +
                                              " must be unset, a number, end or per batch; " +
                                              "found kind " +
                                              std::to_string(static_cast<int>(offset.kind)));
}

}  // namespace longspan::mask
