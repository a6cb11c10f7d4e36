// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Which terms are padding, and the keys that they exclude.
#include "lsh/padding.h"

#include <algorithm>
#include <array>

namespace longspan::lsh {
namespace {

bool has_no_query_axis(const ConstTensorView& dense) {
  return dense.rank < 2 || dense.shape[dense.rank - 2] == 1;
}

bool is_padding(const MaskTerm& term) {
  return term.kind == MaskKind::kKeyLengths ||
         (term.kind == MaskKind::kDense && has_no_query_axis(term.tensor));
}

Mask terms_of(const Mask& mask, bool padding) {
  Mask terms;
  for (const MaskTerm& term : mask.terms()) {
    if (is_padding(term) == padding) terms = terms & Mask(term);
  }
  return terms;
}

}  // namespace

Mask without_padding(const Mask& mask) { return terms_of(mask, /*padding=*/false); }

Padding::Padding(const Mask& mask, const mask::CallShape& shape, std::int64_t num_heads_kv)
    : mask_(terms_of(mask, /*padding=*/true), {},
            {shape.batch, shape.num_heads, 1, shape.seqlen_k, shape.function}),
      group_(num_heads_kv > 0 ? shape.num_heads / num_heads_kv : 0) {}

void Padding::find_visible(std::int64_t batch, std::int64_t head_kv, std::int64_t first,
                           std::span<std::uint64_t> visible) const {
  constexpr std::int64_t kBlock = 128;
  const auto count = static_cast<std::int64_t>(visible.size());
  std::fill(visible.begin(), visible.end(), 0);
  std::array<std::uint64_t, kBlock> words;
  for (std::int64_t g = 0; g < group_; ++g) {
    for (std::int64_t begin = 0; begin < count; begin += kBlock) {
      const std::int64_t keys = std::min(kBlock, count - begin);
      mask_.fill_bits(batch, head_kv * group_ + g, {0, 1}, {first + begin, first + begin + keys},
                      std::span(words).first(static_cast<std::size_t>(keys)));
      for (std::int64_t k = 0; k < keys; ++k) visible[begin + k] |= words[k];
    }
  }
}

}  // namespace longspan::lsh
