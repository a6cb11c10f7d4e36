// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Reading and checking boundaries.
#include "mask/documents.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "mask/integers.h"

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

}  // namespace

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

}  // namespace longspan::mask
