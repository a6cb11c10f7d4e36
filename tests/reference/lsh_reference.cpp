// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The definition of LSH attention written out: windows, de-duplication, scores, rounds, their
// combination.
#include "reference/lsh_reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "reference/attention_reference.h"
#include "reference/mask_reference.h"

namespace longspan::reference {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

bool is_padding_term(const MaskTerm& term) {
  const ConstTensorView& dense = term.tensor;
  return term.kind == MaskKind::kKeyLengths ||
         (term.kind == MaskKind::kDense && (dense.rank < 2 || dense.shape[dense.rank - 2] == 1));
}

template <class Keep>
Mask terms_of(const Mask& mask, const Keep& keep) {
  Mask kept;
  for (const MaskTerm& term : mask.terms()) {
    if (keep(term)) kept = kept & Mask(term);
  }
  return kept;
}

std::vector<std::int64_t> integers_of(const ConstTensorView& view) {
  std::vector<std::int64_t> integers;
  if (!is_given(view)) return integers;
  for (const double x : read_all(view)) integers.push_back(static_cast<std::int64_t>(x));
  return integers;
}

}  // namespace

std::vector<std::int64_t> sorted_by_bucket(const std::vector<std::int64_t>& buckets) {
  std::vector<std::int64_t> order;
  for (std::size_t p = 0; p < buckets.size(); ++p) order.push_back(static_cast<std::int64_t>(p));
  std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return buckets[a] != buckets[b] ? buckets[a] < buckets[b] : a < b;
  });
  return order;
}

std::vector<ChunkPlace> window_of_chunk(const LshOptions& options, std::int64_t chunks,
                                        ChunkPlace at) {
  std::vector<ChunkPlace> all;
  for (std::int64_t round = 0; round < options.num_hashes; ++round) {
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) all.push_back({round, chunk});
  }
  const auto count = static_cast<std::int64_t>(all.size());
  std::vector<ChunkPlace> window;
  for (std::int64_t step = -options.chunks_before; step <= options.chunks_after; ++step) {
    std::int64_t chunk = at.chunk + step;
    if (options.wrap == Wrap::kNone) {
      if (chunk >= 0 && chunk < chunks) window.push_back({at.round, chunk});
    } else if (options.wrap == Wrap::kRound) {
      while (chunk < 0) chunk += chunks;
      while (chunk >= chunks) chunk -= chunks;
      window.push_back({at.round, chunk});
    } else {
      std::int64_t place = at.round * chunks + chunk;
      while (place < 0) place += count;
      while (place >= count) place -= count;
      window.push_back(all[static_cast<std::size_t>(place)]);
    }
  }
  return window;
}

std::vector<double> normalized_rows(const std::vector<double>& rows, std::int64_t head_dim,
                                    KeyNorm norm) {
  std::vector<double> keys(rows.size());
  const auto dim = static_cast<double>(head_dim);
  for (std::size_t row = 0; row < rows.size(); row += static_cast<std::size_t>(head_dim)) {
    double squares = 0;
    for (std::int64_t d = 0; d < head_dim; ++d) squares += rows[row + d] * rows[row + d];
    const double divisor = norm == KeyNorm::kRms ? std::sqrt(squares / dim + 1e-6) * std::sqrt(dim)
                                                 : std::max(std::sqrt(squares), 1e-12);
    for (std::int64_t d = 0; d < head_dim; ++d) keys[row + d] = rows[row + d] / divisor;
  }
  return keys;
}

LshAttention::LshAttention(const ConstTensorView& query_key, const ConstTensorView& value,
                           const ConstTensorView& buckets, const LshOptions& lsh,
                           const AttentionOptions& attention)
    : shared_(true), lsh_(lsh), attention_(attention) {
  read(query_key, query_key, value, buckets, buckets);
  key_ = normalized_rows(key_, dim_, lsh.key_norm);
  scale_ = lsh.key_norm == KeyNorm::kRms ? 1.0 : 1.0 / std::sqrt(static_cast<double>(dim_));
}

LshAttention::LshAttention(const ConstTensorView& query, const ConstTensorView& key,
                           const ConstTensorView& value, const ConstTensorView& query_buckets,
                           const ConstTensorView& key_buckets, const LshOptions& lsh,
                           const AttentionOptions& attention)
    : shared_(false), lsh_(lsh), attention_(attention) {
  read(query, key, value, query_buckets, key_buckets);
  scale_ = attention.scale.value_or(1.0 / std::sqrt(static_cast<double>(dim_)));
}

void LshAttention::read(const ConstTensorView& query, const ConstTensorView& key,
                        const ConstTensorView& value, const ConstTensorView& query_buckets,
                        const ConstTensorView& key_buckets) {
  query_ = read_all(query);
  key_ = read_all(key);
  value_ = read_all(value);
  const int s = query.rank == 4 ? 1 : 0;
  if (query.rank == 4) batch_ = query.shape[0];
  seqlen_q_ = query.shape[s];
  seqlen_k_ = key.shape[s];
  if (query.rank >= 3) {
    heads_ = query.shape[s + 1];
    heads_kv_ = key.shape[s + 1];
  }
  dim_ = query.shape[query.rank - 1];
  dim_v_ = value.shape[value.rank - 1];
  query_buckets_ = integers_of(query_buckets);
  key_buckets_ = integers_of(key_buckets);
  num_hashes_ = is_given(key_buckets) ? key_buckets.shape[key_buckets.rank - 2] : 1;
}

std::int64_t LshAttention::query_bucket(const Head& head, std::int64_t round,
                                        std::int64_t query) const {
  return query_buckets_[((head.batch * heads_ + head.head) * num_hashes_ + round) * seqlen_q_ +
                        query];
}

std::int64_t LshAttention::key_bucket(const Head& head, std::int64_t round,
                                      std::int64_t key) const {
  const std::int64_t head_kv = head.head / (heads_ / heads_kv_);
  if (is_padding(head.batch, head_kv, key)) return std::numeric_limits<std::int64_t>::max();
  return key_buckets_[((head.batch * heads_kv_ + head_kv) * num_hashes_ + round) * seqlen_k_ + key];
}

bool LshAttention::is_padding(std::int64_t batch, std::int64_t head_kv, std::int64_t key) const {
  const Mask padding = terms_of(attention_.mask, is_padding_term);
  const std::int64_t group = heads_ / heads_kv_;
  for (std::int64_t head = head_kv * group; head < (head_kv + 1) * group; ++head) {
    if (may_see(padding, {}, seqlen_q_, seqlen_k_, batch, head, 0, key)) return false;
  }
  return true;
}

bool LshAttention::sees(std::int64_t batch, std::int64_t head, std::int64_t query,
                        std::int64_t key) const {
  Mask mask = attention_.mask;
  if (shared_ && lsh_.self_overrides_padding && query == key) {
    mask = terms_of(mask, [](const MaskTerm& term) { return !is_padding_term(term); });
  }
  return may_see(mask, attention_.query_offset, seqlen_q_, seqlen_k_, batch, head, query, key);
}

bool LshAttention::is_local(std::int64_t batch, std::int64_t query, std::int64_t key) const {
  if (!lsh_.local_window) return false;
  const auto [left, right] = *lsh_.local_window;
  const double ahead =
      distance(attention_.mask, attention_.query_offset, seqlen_q_, seqlen_k_, batch, query, key);
  return (left == -1 || ahead <= static_cast<double>(left)) &&
         (right == -1 || -ahead <= static_cast<double>(right));
}

LshAttention::Head LshAttention::head_of(std::int64_t batch, std::int64_t head) const {
  Head result{batch, head, {}};
  for (std::int64_t round = 0; !plain() && round < num_hashes_; ++round) {
    std::vector<std::int64_t> buckets;
    for (std::int64_t key = 0; key < seqlen_k_; ++key) {
      buckets.push_back(key_bucket(result, round, key));
    }
    result.orders.push_back(sorted_by_bucket(buckets));
  }
  return result;
}

// Where a query stands among the keys of the tensor. One that shares its document with no key sees
// none.
std::int64_t LshAttention::key_position(std::int64_t batch, std::int64_t query) const {
  const Mask documents = terms_of(
      attention_.mask, [](const MaskTerm& term) { return term.kind == MaskKind::kDocuments; });
  for (std::int64_t key = 0; key < seqlen_k_; ++key) {
    if (!may_see(documents, {}, seqlen_q_, seqlen_k_, batch, 0, query, key)) continue;
    return key + static_cast<std::int64_t>(distance(attention_.mask, attention_.query_offset,
                                                    seqlen_q_, seqlen_k_, batch, query, key));
  }
  return 0;
}

LshAttention::Counts LshAttention::window_of(const Head& head, std::int64_t round,
                                             std::int64_t query) const {
  Counts counts(static_cast<std::size_t>(seqlen_k_), plain() ? 1 : 0);
  if (plain()) return counts;
  if (lsh_.whole_buckets) {
    const std::int64_t bucket =
        shared_ ? key_bucket(head, round, query) : query_bucket(head, round, query);
    for (std::int64_t key = 0; key < seqlen_k_; ++key) {
      counts[key] = key_bucket(head, round, key) == bucket ? 1 : 0;
    }
    return counts;
  }
  const std::int64_t chunks = (seqlen_k_ + lsh_.chunk_len - 1) / lsh_.chunk_len;
  const auto add_chunk = [&](ChunkPlace place) {
    const std::vector<std::int64_t>& order = head.orders[static_cast<std::size_t>(place.round)];
    const std::int64_t end = std::min((place.chunk + 1) * lsh_.chunk_len, seqlen_k_);
    for (std::int64_t n = place.chunk * lsh_.chunk_len; n < end; ++n) ++counts[order[n]];
  };
  const std::vector<std::int64_t>& order = head.orders[static_cast<std::size_t>(round)];
  if (shared_) {
    const std::int64_t place = std::find(order.begin(), order.end(), query) - order.begin();
    LshOptions options = lsh_;
    options.num_hashes = num_hashes_;
    for (const ChunkPlace& one :
         window_of_chunk(options, chunks, {round, place / lsh_.chunk_len})) {
      add_chunk(one);
    }
    return counts;
  }
  const std::int64_t bucket = query_bucket(head, round, query);
  const std::int64_t position = key_position(head.batch, query);
  std::int64_t rank = 0;
  for (std::int64_t key = 0; key < seqlen_k_; ++key) {
    const std::int64_t b = key_bucket(head, round, key);
    if (b < bucket || (b == bucket && key <= position)) ++rank;
  }
  const auto chunk = static_cast<std::int64_t>(
      std::floor(static_cast<double>(rank - 1) / static_cast<double>(lsh_.chunk_len)));
  const std::int64_t first = std::clamp<std::int64_t>(chunk - lsh_.chunks_before, 0, chunks - 1);
  const std::int64_t last = std::clamp<std::int64_t>(chunk + lsh_.chunks_after, 0, chunks - 1);
  for (std::int64_t c = first; c <= last; ++c) add_chunk({round, c});
  return counts;
}

void LshAttention::score(const Head& head, std::int64_t query, Pair& pair) const {
  const double* q = &query_[query_row(head, query) * dim_];
  const double* k = &key_[key_row(head, pair.key) * dim_];
  double dot = 0;
  for (std::int64_t d = 0; d < dim_; ++d) dot += q[d] * k[d];
  pair.score = scale_ * dot;
  pair.slope = scale_;
  pair.slope_terms = std::fabs(scale_);
  if (attention_.softcap > 0) {
    const double bent = std::tanh(pair.score / attention_.softcap);
    pair.score = attention_.softcap * bent;
    pair.slope *= 1 - bent * bent;
    pair.slope_terms *= 1 + bent * bent;
  }
  if (const ConstTensorView& slopes = attention_.alibi_slopes; is_given(slopes)) {
    const double slope = read_element(
        slopes, slopes.rank == 1 ? head.head * slopes.strides[0]
                                 : head.batch * slopes.strides[0] + head.head * slopes.strides[1]);
    pair.score -= slope * std::fabs(distance(attention_.mask, attention_.query_offset, seqlen_q_,
                                             seqlen_k_, head.batch, query, pair.key));
  }
  if (!shared_ || query != pair.key) return;
  if (lsh_.self_rule == SelfRule::kAdded) {
    pair.score += lsh_.self_score;
  } else {
    pair.score = lsh_.self_score;
    pair.slope = pair.slope_terms = 0;
  }
}

std::vector<LshAttention::Pair> LshAttention::pairs_of(const Head& head, std::int64_t query) const {
  std::vector<Counts> found;
  for (std::int64_t round = 0; round < rounds(); ++round) {
    found.push_back(window_of(head, round, query));
  }
  std::vector<Pair> pairs;
  for (std::int64_t key = 0; key < seqlen_k_; ++key) {
    if (!sees(head.batch, head.head, query, key)) continue;
    Pair pair;
    pair.key = key;
    for (const Counts& counts : found) {
      pair.weight.push_back(static_cast<double>(counts[key]));
      pair.found += counts[key];
    }
    bool before = false;
    for (double& weight : pair.weight) {
      if (lsh_.dedup == Dedup::kLogCount && pair.found > 0) {
        weight /= static_cast<double>(pair.found);
      }
      if (lsh_.dedup == Dedup::kExact) {
        weight = weight > 0 && !before ? 1 : 0;
        before = before || weight > 0;
      }
    }
    if (lsh_.local_window) {
      const bool local = is_local(head.batch, query, key);
      if (local) std::fill(pair.weight.begin(), pair.weight.end(), 0.0);
      pair.weight.push_back(local ? 1 : 0);
    }
    for (const double weight : pair.weight) pair.total += weight;
    if (pair.total == 0) continue;
    score(head, query, pair);
    pairs.push_back(pair);
  }
  return pairs;
}

LshAttention::Row LshAttention::row_of(const Head& head, const std::vector<Pair>& pairs,
                                       std::int64_t round) const {
  Row row;
  row.output = row.magnitude = std::vector<double>(static_cast<std::size_t>(dim_v_), 0.0);
  const bool all = round < 0;
  const bool sinks = all && is_given(attention_.sinks);
  const double sink =
      sinks ? read_element(attention_.sinks, head.head * attention_.sinks.strides[0]) : -kInf;
  const auto weight_of = [&](const Pair& pair) { return all ? pair.total : pair.weight[round]; };
  double max = sink;
  bool empty = !sinks;
  for (const Pair& pair : pairs) {
    if (weight_of(pair) == 0) continue;
    max = empty ? pair.score : std::max(max, pair.score);
    empty = false;
  }
  row.lse = -kInf;
  if (empty) return row;
  double sum = sinks ? std::exp(sink - max) : 0.0;
  for (const Pair& pair : pairs) {
    if (weight_of(pair) == 0) continue;
    const double weight = weight_of(pair) * std::exp(pair.score - max);
    sum += weight;
    for (std::int64_t d = 0; d < dim_v_; ++d) {
      const double v = value_[key_row(head, pair.key) * dim_v_ + d];
      row.output[d] += weight * v;
      row.magnitude[d] += weight * std::fabs(v);
    }
  }
  row.lse = max + std::log(sum);
  for (double& x : row.output) x /= sum;
  for (double& x : row.magnitude) x /= sum;
  return row;
}

LshResult LshAttention::all() const {
  LshResult result;
  result.rounds = rounds() + (lsh_.local_window ? 1 : 0);
  result.output.resize(batch_ * seqlen_q_ * heads_ * dim_v_);
  result.magnitude.resize(result.output.size());
  result.lse.resize(batch_ * heads_ * seqlen_q_);
  result.round_lse.resize(batch_ * heads_ * result.rounds * seqlen_q_);
  result.round_output.resize(result.round_lse.size() * dim_v_);
  for (std::int64_t b = 0; b < batch_; ++b) {
    for (std::int64_t h = 0; h < heads_; ++h) {
      const Head head = head_of(b, h);
      for (std::int64_t i = 0; i < seqlen_q_; ++i) {
        const std::vector<Pair> pairs = pairs_of(head, i);
        const Row row = row_of(head, pairs, -1);
        result.lse[(b * heads_ + h) * seqlen_q_ + i] = row.lse;
        const std::int64_t at = query_row(head, i) * dim_v_;
        std::copy(row.output.begin(), row.output.end(), result.output.begin() + at);
        std::copy(row.magnitude.begin(), row.magnitude.end(), result.magnitude.begin() + at);
        for (std::int64_t r = 0; r < result.rounds; ++r) {
          const Row one = row_of(head, pairs, r);
          const std::int64_t n = ((b * heads_ + h) * result.rounds + r) * seqlen_q_ + i;
          result.round_lse[n] = one.lse;
          std::copy(one.output.begin(), one.output.end(), result.round_output.begin() + n * dim_v_);
        }
        for (const Pair& pair : pairs) {
          result.pairs_found += pair.found > 0 ? 1 : 0;
          result.pairs_found_again += pair.found > 1 ? 1 : 0;
        }
      }
    }
  }
  return result;
}

}  // namespace longspan::reference
