// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Lists of positions by bucket, and sums of their lengths.
#include "lsh/growing_order.h"

#include <algorithm>
#include <bit>

namespace longspan::lsh {
namespace {

// Room for `more` elements, doubling.
void make_room(std::vector<std::int32_t>& list, std::size_t more) {
  if (list.capacity() - list.size() >= more) return;
  list.reserve(std::max(2 * list.capacity(), list.size() + more));
}

}  // namespace

GrowingOrder::GrowingOrder(std::int64_t rounds, std::int64_t buckets)
    : rounds_(rounds), orders_(static_cast<std::size_t>(rounds)) {
  for (Round& round : orders_) {
    round.positions.resize(static_cast<std::size_t>(buckets));
    round.sums.resize(static_cast<std::size_t>(buckets) + 1);
  }
}

std::size_t GrowingOrder::bytes() const noexcept {
  std::size_t numbers = buckets_.capacity(), lists = 0;
  for (const Round& round : orders_) {
    numbers += round.sums.capacity();
    lists += round.positions.capacity();
    for (const std::vector<std::int32_t>& list : round.positions) numbers += list.capacity();
  }
  return numbers * sizeof(std::int32_t) + lists * sizeof(std::vector<std::int32_t>);
}

void GrowingOrder::Round::count(std::int64_t bucket, std::int32_t keys) noexcept {
  const auto size = static_cast<std::int64_t>(sums.size());
  for (std::int64_t n = bucket + 1; n < size; n += n & -n) sums[n] += keys;
}

std::int64_t GrowingOrder::Round::begin_of(std::int64_t bucket) const noexcept {
  std::int64_t sum = 0;
  for (std::int64_t n = bucket; n > 0; n -= n & -n) sum += sums[n];
  return sum;
}

// Goes as far as the sizes do not pass the place: empty buckets are passed, too.
std::int64_t GrowingOrder::Round::bucket_at(std::int64_t place,
                                            std::int64_t& offset) const noexcept {
  std::int64_t bucket = 0;
  offset = place;
  for (std::size_t step = std::bit_floor(sums.size() - 1); step > 0; step /= 2) {
    const std::int64_t next = bucket + static_cast<std::int64_t>(step);
    if (next >= static_cast<std::int64_t>(sums.size()) || sums[next] > offset) continue;
    offset -= sums[next];
    bucket = next;
  }
  return bucket;
}

void GrowingOrder::push(std::span<const std::int32_t> buckets) {
  make_room(buckets_, buckets.size());
  for (std::int64_t r = 0; r < rounds_; ++r) make_room(orders_[r].positions[buckets[r]], 1);
  buckets_.insert(buckets_.end(), buckets.begin(), buckets.end());
  for (std::int64_t r = 0; r < rounds_; ++r) {
    orders_[r].positions[buckets[r]].push_back(static_cast<std::int32_t>(length_));
    orders_[r].count(buckets[r], 1);
  }
  ++length_;
}

void GrowingOrder::pop() noexcept {
  --length_;
  for (std::int64_t r = 0; r < rounds_; ++r) {
    const std::int32_t bucket = buckets_of(length_)[r];
    orders_[r].positions[bucket].pop_back();
    orders_[r].count(bucket, -1);
  }
  buckets_.resize(static_cast<std::size_t>(length_ * rounds_));
}

std::int64_t GrowingOrder::rank(std::int64_t round, std::int64_t bucket,
                                std::int64_t position) const noexcept {
  const std::vector<std::int32_t>& list = orders_[round].positions[bucket];
  return orders_[round].begin_of(bucket) +
         (std::upper_bound(list.begin(), list.end(), position) - list.begin());
}

mask::Range GrowingOrder::places_of_bucket(std::int64_t round, std::int64_t bucket) const noexcept {
  const std::int64_t begin = orders_[round].begin_of(bucket);
  return {begin, begin + static_cast<std::int64_t>(orders_[round].positions[bucket].size())};
}

void GrowingOrder::append_keys(std::int64_t round, mask::Range places,
                               std::vector<std::int32_t>& keys) const {
  const Round& order = orders_[round];
  for (std::int64_t place = places.begin; place < places.end;) {
    std::int64_t offset = 0;
    const std::vector<std::int32_t>& list = order.positions[order.bucket_at(place, offset)];
    const std::int64_t end =
        std::min(offset + places.end - place, static_cast<std::int64_t>(list.size()));
    keys.insert(keys.end(), list.begin() + offset, list.begin() + end);
    place += end - offset;
  }
}

}  // namespace longspan::lsh
