// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Normalises keys, finds what is visible.
#include "engine/gathered_tiles.h"

#include <algorithm>
#include <array>

namespace longspan::engine {
namespace {

constexpr mask::Range kIndices{0, std::int64_t{1} << 31};

// Arrays by lane, readable a whole vector past the last.
std::int64_t padded_lanes(std::int64_t queries) {
  return base::round_up(queries, kernel::kIntervalLanes) + kernel::kIntervalLanes;
}

// The places from the first index that is in the range to the last.
mask::Range places_of(std::span<const std::int32_t> index, mask::Range range) {
  mask::Range places{0, static_cast<std::int64_t>(index.size())};
  while (!places.empty() && !range.contains(index[places.end - 1])) --places.end;
  while (!places.empty() && !range.contains(index[places.begin])) ++places.begin;
  return places;
}

}  // namespace

template <class T>
void GatheredTiles<T>::carve(base::Carver& carver) {
  const std::int64_t width = call_.width(), keys = call_.run_keys;
  normalized_ = carver.take<std::byte>(keys * call_.head_dim * call_.kernel->format.value_bytes());
  factors_ = carver.take<T>(keys);
  words_ = carver.take<std::uint64_t>(keys);
  if (call_.alibi_slopes.data != nullptr) {
    query_positions_ = carver.take<T>(width);
    key_positions_ = carver.take<T>(call_.kernel->format.rows(keys));
  }
  for (Lanes* lanes : {&band_, &own_}) {
    lanes->first = carver.take<std::int32_t>(padded_lanes(call_.group_queries));
    lanes->count = carver.take<std::int32_t>(padded_lanes(call_.group_queries));
  }
  panels_.reserve(static_cast<std::size_t>(call_.panels()));
  terms_.softcap = static_cast<T>(call_.softcap);
  if (call_.softcap > 0) terms_.softcap_inverse = static_cast<T>(1 / call_.softcap);
  terms_.query_positions = query_positions_;
  terms_.key_positions = key_positions_;
}

template <class T>
std::span<const GatheredQueries> GatheredTiles<T>::split(const GatheredGroup& group) {
  const auto count = static_cast<std::int64_t>(group.queries.size());
  panels_.clear();
  for (std::int64_t first = 0; first < count; first += call_.rows_per_panel) {
    const std::int64_t rows = std::min(call_.rows_per_panel, count - first);
    panels_.push_back(
        {group.queries.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows)),
         first, base::round_up(rows, std::int64_t{call_.kernel->lanes}), kIndices});
  }
  load_mask();
  return panels_;
}

// Intervals of keys that the mask leaves to each query. A query's own index is cut off where it
// stands at an end, as under a causal mask; else it is a test of its own.
template <class T>
void GatheredTiles<T>::load_mask() {
  std::array<mask::Range, kernel::kMaxWidth> seen;
  const bool masked = !head_->mask->everything_visible();
  band_.needed = masked;
  own_.needed = head_->hides_own_index && !masked;
  for (GatheredQueries& panel : panels_) {
    const auto count = static_cast<std::int64_t>(panel.queries.size());
    if (masked) {
      panel.keys = {kIndices.end, kIndices.begin};
      head_->mask->keys_of_queries(head_->batch, {0, count, panel.queries.data()}, seen);
    }
    for (std::int64_t lane = 0; lane < count; ++lane) {
      const std::int64_t own = panel.queries[lane];
      if (masked) {
        mask::Range keys = mask::intersect(seen[lane], kIndices);
        if (head_->hides_own_index && keys.contains(own)) {
          if (own == keys.end - 1) {
            --keys.end;
          } else if (own == keys.begin) {
            ++keys.begin;
          } else {
            own_.needed = true;
          }
        }
        const kernel::Interval hidden = kernel::interval_outside(keys.begin, keys.end);
        if (!keys.empty()) {
          panel.keys = {std::min(panel.keys.begin, keys.begin), std::max(panel.keys.end, keys.end)};
        }
        band_.first[panel.first + lane] = hidden.first;
        band_.count[panel.first + lane] = hidden.count;
      }
      own_.first[panel.first + lane] = kernel::interval_first(own);
      own_.count[panel.first + lane] = kernel::interval_count(1);
    }
  }
}

template <class T>
RowSource GatheredTiles<T>::key_rows(std::span<const std::int32_t> index, std::byte* into) const {
  const RowSource& key = head_->key;
  if (head_->key_factors == nullptr) return indexed(key, index);
  if (into == nullptr) into = normalized_;
  for (std::size_t n = 0; n < index.size(); ++n) factors_[n] = head_->key_factors[index[n]];
  const DType format = call_.kernel->format.dtype;
  call_.kernel->scale_rows(indexed(key, index), {into, format, call_.head_dim, 1},
                           static_cast<std::int64_t>(index.size()), call_.head_dim, factors_);
  return {into, format, call_.head_dim, 1};
}

template <class T>
void GatheredTiles<T>::load_numbers(std::span<const std::int32_t> index, std::int32_t* into) const {
  const KeyNumbers& numbers = head_->numbers;
  for (std::size_t k = 0; k < index.size(); ++k) {
    const std::int32_t* of_key = numbers.data + index[k] * numbers.stride;
    for (std::int64_t c = 0; c < numbers.columns; ++c) {
      into[c * call_.run_keys + static_cast<std::int64_t>(k)] = of_key[c];
    }
  }
}

template <class T>
VisibleKeys GatheredTiles<T>::load_visible(const GatheredGroup& group, const KeyRun& keys,
                                           const std::int32_t* key_numbers,
                                           const GatheredQueries& panel) {
  const auto size = static_cast<std::int64_t>(keys.keys.size());
  const mask::Range places = places_of(keys.keys, panel.keys);
  tests_.clear();
  const auto add = [&](const std::int32_t* numbers, const std::int32_t* first,
                       const std::int32_t* count) {
    tests_.push_back({numbers + places.begin, first + panel.first, count + panel.first});
  };
  if (band_.needed) add(keys.keys.data(), band_.first, band_.count);
  if (own_.needed) add(keys.keys.data(), own_.first, own_.count);
  for (const std::span<const PairTest> tests : {group.tests, keys.further_tests}) {
    for (const PairTest& test : tests) {
      const std::int32_t* numbers = test.column == PairTest::kKeyIndex
                                        ? keys.keys.data()
                                        : key_numbers + test.column * call_.run_keys;
      add(numbers, test.first, test.count);
    }
  }
  const mask::BoundMask& mask = *head_->mask;
  if (places.empty() || (tests_.empty() && !mask.has_other_terms())) return {places, nullptr};
  const auto lanes = static_cast<std::int64_t>(panel.queries.size());
  std::uint64_t* words = words_ + places.begin;
  std::fill(words_, words, 0);
  std::fill(words_ + places.end, words_ + size, 0);
  call_.kernel->fill_intervals(
      {tests_.data(), static_cast<std::int64_t>(tests_.size()), places.size(), lanes}, words);
  if (mask.has_other_terms()) {
    mask.clear_hidden(head_->batch, head_->head, {0, lanes, panel.queries.data()},
                      {0, places.size(), keys.keys.data() + places.begin},
                      {words, static_cast<std::size_t>(places.size())});
  }
  mask::Range seen = places;
  while (!seen.empty() && words_[seen.end - 1] == 0) --seen.end;
  while (!seen.empty() && words_[seen.begin] == 0) ++seen.begin;
  return {seen, words_};
}

// Relative to the position of the first key.
template <class T>
void GatheredTiles<T>::load_positions(std::span<const std::int32_t> keys,
                                      const GatheredQueries& panel) {
  const mask::BoundMask& mask = *head_->mask;
  const std::int64_t origin = mask.key_position(keys.front());
  for (std::size_t k = 0; k < keys.size(); ++k) {
    key_positions_[k] = static_cast<T>(mask.key_position(keys[k]) - origin);
  }
  std::fill(key_positions_ + keys.size(),
            key_positions_ + call_.kernel->format.rows(static_cast<std::int64_t>(keys.size())),
            T{0});
  std::fill_n(query_positions_, panel.width, T{0});
  for (std::size_t lane = 0; lane < panel.queries.size(); ++lane) {
    query_positions_[lane] =
        static_cast<T>(mask.query_position(head_->batch, panel.queries[lane]) - origin);
  }
}

template <class T>
const kernel::ScoreTerms<T>* GatheredTiles<T>::load_terms(std::span<const std::int32_t> keys,
                                                          const GatheredQueries& panel) {
  if (!call_.has_terms()) return nullptr;
  if (call_.alibi_slopes.data != nullptr) {
    load_positions(keys, panel);
    terms_.alibi_slope = static_cast<T>(call_.alibi_slopes.at(head_->batch, head_->head));
  }
  return &terms_;
}

template class GatheredTiles<float>;
template class GatheredTiles<double>;

}  // namespace longspan::engine
