// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Literal float64: scores, their softmax, what is left of it on the pairs that were found.
#include "compose/row_against_exact.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "base/row_sums.h"
#include "base/visit_dtype.h"
#include "engine/call_setup.h"
#include "lsh/key_factor.h"
#include "lsh/padding.h"

namespace longspan::compose {
namespace {

LshOptions counting_all(LshOptions options) {
  options.dedup = Dedup::kNone;
  return options;
}

// Four sums, so that an addition need not wait for the last.
template <class E>
double dot(const double* a, const E* b, std::int64_t stride, std::int64_t dim) {
  std::array<double, 4> sums{};
  std::int64_t d = 0;
  const auto product = [&](std::int64_t n) {
    return a[n] * static_cast<double>(base::to_float(b[n * stride]));
  };
  for (; d + 4 <= dim; d += 4) {
    for (std::int64_t s = 0; s < 4; ++s) sums[s] += product(d + s);
  }
  for (; d < dim; ++d) sums[0] += product(d);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

}  // namespace

DiagnosedCall::DiagnosedCall(const engine::CheckedCall& call, bool is_shared,
                             const LshOptions& lsh_options, const AttentionOptions& attention)
    : checked(call),
      shared(is_shared),
      options(lsh_options),
      softcap(attention.softcap),
      scale(is_shared ? score_scale(lsh_options.key_norm, call.head_dim) : call.scale),
      mask(attention.mask, attention.query_offset, engine::shape_of(call),
           !is_shared || is_given(attention.alibi_slopes)),
      rounds(counting_all(lsh_options), {call.batch, call.num_heads, call.num_heads_kv,
                                         call.seqlen_q, call.seqlen_k, is_shared}) {
  const mask::CallShape shape = engine::shape_of(call);
  if (options.local_window) {
    const auto [left, right] = *options.local_window;
    local.emplace(attention.mask & window(left, right), attention.query_offset, shape);
  }
  if (shared && options.self_overrides_padding) {
    own.emplace(lsh::without_padding(attention.mask), attention.query_offset, shape);
  }
}

mask::Range DiagnosedCall::keys_of(std::int64_t b, std::int64_t query) const noexcept {
  const mask::Range seen = mask.visible_keys(b, {query, query + 1});
  if (!own || !own->visible_keys(b, {query, query + 1}).contains(query)) return seen;
  if (seen.empty()) return {query, query + 1};
  return {std::min(seen.begin, query), std::max(seen.end, query + 1)};
}

RowAgainstExact::Memory::Memory(base::Carver& carver, const DiagnosedCall& call) noexcept
    : visible(carver.take<std::uint64_t>(call.checked.seqlen_k)),
      local(carver.take<std::uint64_t>(call.local ? call.checked.seqlen_k : 0)),
      weights(carver.take<double>(call.checked.seqlen_k)),
      finds(carver.take<std::int32_t>(call.checked.seqlen_k)),
      held_by(carver.take<std::int32_t>(call.checked.seqlen_k)),
      query(carver.take<double>(call.checked.head_dim)),
      exact(carver.take<double>(call.checked.head_dim_v)) {}

RowAgainstExact::RowAgainstExact(const DiagnosedCall& call, base::Carver& carver)
    : call_(call),
      memory_(carver, call),
      groups_(call.rounds, {1, std::max<std::int64_t>(call.checked.seqlen_k, 1)}, nullptr) {}

std::size_t RowAgainstExact::workspace_bytes(const DiagnosedCall& call) noexcept {
  base::Carver counted;
  const Memory memory(counted, call);
  return counted.used();
}

RowCounts RowAgainstExact::count(std::int64_t b, std::int64_t h, std::int64_t query) {
  b_ = b;
  h_ = h;
  query_ = query;
  keys_ = call_.keys_of(b, query);
  RowCounts counts;
  find_visible();
  for_visible([&](std::int64_t) { counts.sees = true; });
  if (!counts.sees) return counts;
  find_in_rounds(counts);
  score_keys();
  compare(counts);
  return counts;
}

void RowAgainstExact::find_visible() {
  const auto fill = [&](const mask::BoundMask& mask, mask::Range keys, std::uint64_t* bits) {
    if (keys.empty()) return;
    mask.fill_bits(b_, h_, {query_, query_ + 1}, keys,
                   {bits + keys.begin, static_cast<std::size_t>(keys.size())});
  };
  fill(call_.mask, keys_, memory_.visible);
  if (call_.own) fill(*call_.own, intersect(keys_, {query_, query_ + 1}), memory_.visible);
  if (call_.local) fill(*call_.local, keys_, memory_.local);
}

// The windows are those that lsh_attention() runs: a group of one query, whose runs are all keys
// that it meets, repeated ones again.
void RowAgainstExact::find_in_rounds(RowCounts& counts) {
  std::fill(memory_.finds + keys_.begin, memory_.finds + keys_.end, 0);
  std::fill(memory_.held_by + keys_.begin, memory_.held_by + keys_.end, -1);
  for (std::int64_t round = 0; round < call_.rounds.count(); ++round) {
    const std::span<const std::int32_t> order = call_.rounds.sorted_queries(b_, h_, round);
    const std::int64_t place = std::find(order.begin(), order.end(), query_) - order.begin();
    groups_.of_round(b_, h_, round, {place, place + 1}, [&](const engine::GatheredGroup& group) {
      for (const engine::KeyRun& run : group.runs) {
        for (const std::int32_t key : run.keys) {
          if (!keys_.contains(key)) continue;
          ++memory_.finds[key];
          memory_.held_by[key] = static_cast<std::int32_t>(round);
        }
      }
    });
    const std::int32_t bucket =
        call_.rounds.query_buckets(b_, h_, round)[static_cast<std::size_t>(query_)];
    const std::int32_t* buckets = call_.rounds.key_buckets(b_, h_, round).data();
    for_visible([&](std::int64_t key) {
      if (buckets[key] != bucket || is_own(key)) return;
      ++counts.in_one_bucket;
      counts.cut += memory_.held_by[key] != round ? 1 : 0;
    });
  }
  for_visible([&](std::int64_t key) {
    if (memory_.finds[key] == 0 || is_own(key)) return;
    ++counts.found;
    counts.finds += memory_.finds[key];
  });
}

// From scale * query . key to the score.
double RowAgainstExact::bent(double product, std::int64_t key) const {
  double score = call_.softcap > 0 ? call_.softcap * std::tanh(product / call_.softcap) : product;
  if (call_.checked.alibi_slopes.data != nullptr) {
    const auto distance =
        static_cast<double>(call_.mask.query_position(b_, query_) - call_.mask.key_position(key));
    score -= call_.checked.alibi_slopes.at(b_, h_) * std::fabs(distance);
  }
  if (!is_own(key)) return score;
  const bool added = call_.options.self_rule == SelfRule::kAdded;
  return (added ? score : 0) + call_.options.self_score;
}

void RowAgainstExact::score_keys() {
  const std::int64_t dim = call_.checked.head_dim;
  const engine::RowSource queries = call_.checked.query.source(b_, h_);
  for (std::int64_t d = 0; d < dim; ++d) {
    memory_.query[d] = base::load_double(queries.data, queries.dtype,
                                         query_ * queries.row_stride + d * queries.dim_stride);
  }
  const engine::RowSource keys = call_.checked.key.source(b_, call_.rounds.head_kv(h_));
  base::visit_floating(keys.dtype, [&](auto tag) {
    const auto* first = static_cast<const decltype(tag)*>(keys.data);
    for_visible([&](std::int64_t key) {
      const auto* row = first + key * keys.row_stride;
      double product = call_.scale * dot(memory_.query, row, keys.dim_stride, dim);
      if (call_.shared) {
        product *=
            lsh::key_factor(base::sum_of_squares(keys, key, dim), dim, call_.options.key_norm);
      }
      memory_.weights[key] = bent(product, key);
    });
  });
}

void RowAgainstExact::compare(RowCounts& counts) {
  const std::int64_t dim = call_.checked.head_dim_v;
  double largest = -std::numeric_limits<double>::infinity();
  for_visible([&](std::int64_t key) { largest = std::max(largest, memory_.weights[key]); });
  double sum = 0, found = 0;
  std::int64_t keys = 0, found_keys = 0;
  std::fill(memory_.exact, memory_.exact + dim, 0.0);
  const engine::RowSource values = call_.checked.value.source(b_, call_.rounds.head_kv(h_));
  base::visit_floating(values.dtype, [&](auto tag) {
    const auto* first = static_cast<const decltype(tag)*>(values.data);
    for_visible([&](std::int64_t key) {
      const double weight = std::exp(memory_.weights[key] - largest);
      sum += weight;
      ++keys;
      if (memory_.finds[key] > 0 || (call_.local && memory_.local[key] != 0)) {
        found += weight;
        ++found_keys;
      }
      const auto* row = first + key * values.row_stride;
      for (std::int64_t d = 0; d < dim; ++d) {
        memory_.exact[d] +=
            weight * static_cast<double>(base::to_float(row[d * values.dim_stride]));
      }
    });
  });
  counts.recalled_mass = found / sum;
  counts.recalled_pairs = static_cast<double>(found_keys) / static_cast<double>(keys);
  // Beside a sink far above them keys weigh nothing: the sum is inf then, and the output 0.
  const engine::HeadSource& sinks = call_.checked.sinks;
  if (sinks.data != nullptr) sum += std::exp(sinks.at(b_, h_) - largest);
  const engine::RowSource output = call_.output.source(b_, h_);
  for (std::int64_t d = 0; d < dim; ++d) {
    const double exact = memory_.exact[d] / sum;
    const double error = base::load_double(output.data, output.dtype,
                                           query_ * output.row_stride + d * output.dim_stride) -
                         exact;
    counts.error_squares += error * error;
    counts.exact_squares += exact * exact;
  }
}

}  // namespace longspan::compose
