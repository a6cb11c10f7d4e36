// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Hashes and sorts a call, and finds who meets whom in what is shown.
#include "explain/lsh_view.h"

#include <algorithm>
#include <string>

#include "engine/call_setup.h"
#include "lsh/lsh_call.h"

namespace longspan::explain {

LshView::LshView(const ConstTensorView& query, const ConstTensorView& key,
                 const ConstTensorView& value, const LshOptions& options,
                 const AttentionOptions& attention, const Execution& execution,
                 const ExplainChoice& choice)
    : shared_(!is_given(key)),
      call_(lsh::check_lsh_call("explain", query, key, value, options, attention, execution)),
      choice_(choice),
      mask_(attention.mask, attention.query_offset, engine::shape_of(call_),
            !shared_ || is_given(attention.alibi_slopes),
            shared_ ? "alibi" : "lsh_attention of separate query and key"),
      factors_(lsh::bucket_factors("explain", options, call_.seqlen_k)) {
  check_not_empty(call_, choice);
  heads_ = chosen("heads", choice.heads, call_.num_heads);
  rounds_.emplace(options, lsh::RoundsShape{call_.batch, call_.num_heads, call_.num_heads_kv,
                                            call_.seqlen_q, call_.seqlen_k, shared_});
  sort(query, key, attention, execution);
  choose_queries();
}

void LshView::sort(const ConstTensorView& query, const ConstTensorView& key,
                   const AttentionOptions& attention, const Execution& execution) {
  base::Carver counted;
  rounds_->carve(counted);
  memory_ = base::Buffer(counted.used());
  base::Carver carver(memory_.data());
  rounds_->carve(carver);
  rounds_->sort(query, key, attention.mask, mask_, execution, execution.threads);
  for (std::int64_t kv = 0; kv < call_.num_heads_kv; ++kv) {
    for (std::int64_t r = 0; r < rounds_->count(); ++r) {
      orders_.push_back(rounds_->keys_by_bucket(batch(), kv * rounds_->lists_of_key_head(), r));
    }
  }
}

std::int64_t LshView::numbers() const noexcept {
  return whole_buckets() ? factors_.buckets + 1 : rounds().chunks();
}

mask::Range LshView::shown_numbers() const {
  return chosen("chunks", choice_.chunks, rounds().count() * numbers());
}

std::vector<std::int64_t> LshView::members(std::int64_t head, std::int64_t round,
                                           std::int64_t number) const {
  if (shared_) return keys_of(head, {round, number});
  const std::int32_t* numbers = rounds().query_numbers(batch(), head);
  const std::span<const std::int32_t> order = rounds().sorted_queries(batch(), head, round);
  // The order is by number. A query before all keys (-1) is shown with the first chunk.
  const auto below = [&](std::int64_t limit) {
    return std::partition_point(order.begin(), order.end(), [&](std::int32_t query) {
      return std::max(numbers[query * rounds().count() + round], 0) < limit;
    });
  };
  return {below(number), below(number + 1)};
}

void LshView::choose_queries() {
  const mask::Range rows = chosen("rows", choice_.rows, call_.seqlen_q);
  shown_.assign(static_cast<std::size_t>(call_.seqlen_q), false);
  if (choice_.rows || !choice_.chunks) {
    std::fill(shown_.begin() + rows.begin, shown_.begin() + rows.end, true);
  } else {
    const mask::Range shown = shown_numbers();
    for (std::int64_t n = shown.begin; n < shown.end; ++n) {
      for (std::int64_t h = heads_.begin; h < heads_.end; ++h) {
        for (std::int64_t q : members(h, n / numbers(), n % numbers())) {
          shown_[static_cast<std::size_t>(q)] = true;
        }
      }
    }
  }
  for (std::int64_t q = 0; q < call_.seqlen_q; ++q) {
    if (shown_[static_cast<std::size_t>(q)]) queries_.push_back(q);
  }
}

std::vector<Meeting> LshView::meetings() const {
  std::vector<Meeting> found;
  const mask::Range shown = shown_numbers();
  for (std::int64_t h = heads_.begin; h < heads_.end; ++h) {
    for (std::int64_t n = shown.begin; n < shown.end; ++n) {
      Meeting meeting{h, n / numbers(), n % numbers(), {}, {}};
      for (std::int64_t q : members(h, meeting.round, meeting.number)) {
        if (shown_[static_cast<std::size_t>(q)]) meeting.queries.push_back(q);
      }
      if (meeting.queries.empty()) continue;
      for (const ChunkPlace& place : window(meeting.round, meeting.number)) {
        for (std::int64_t key : keys_of(h, place)) {
          if (std::find(meeting.keys.begin(), meeting.keys.end(), key) == meeting.keys.end()) {
            meeting.keys.push_back(key);
          }
        }
      }
      found.push_back(std::move(meeting));
    }
  }
  return found;
}

std::vector<ChunkPlace> LshView::window(std::int64_t round, std::int64_t number) const {
  std::vector<lsh::Segment> segments;
  rounds().window_of(round, number, rounds().window(), segments);
  std::vector<ChunkPlace> places;
  for (const lsh::Segment& segment : segments) {
    for (std::int64_t n = 0; n < segment.count; ++n) {
      places.push_back({segment.round, segment.first + n});
    }
  }
  return places;
}

std::vector<std::int64_t> LshView::keys_of(std::int64_t head, ChunkPlace place) const {
  const std::vector<std::int32_t>& order = keys_by_bucket(head, place.round);
  mask::Range range = {place.chunk * rounds().options().chunk_len,
                       std::min((place.chunk + 1) * rounds().options().chunk_len, call_.seqlen_k)};
  if (whole_buckets()) {
    range = rounds().places_of_bucket(batch(), head, place.round, place.chunk);
  }
  return {order.begin() + range.begin, order.begin() + range.end};
}

bool LshView::sees(std::int64_t head, std::int64_t query, std::int64_t key) const {
  return lsh::sees(mask_, batch(), head, query, key);
}

}  // namespace longspan::explain
