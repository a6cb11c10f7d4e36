// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The k largest weights of a row, found in one pass over its keys.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "engine/rows.h"

namespace longspan::exact {

template <class T>
struct WeightOfKey {
  T weight;
  std::int64_t key;
};

// The order of results: falling weight, NaN first; rising key.
template <class T>
bool before(const WeightOfKey<T>& a, const WeightOfKey<T>& b) noexcept {
  const auto rank = [](T weight) {
    return std::isnan(weight) ? std::numeric_limits<T>::infinity() : weight;
  };
  const T of_a = rank(a.weight);
  const T of_b = rank(b.weight);
  return of_a > of_b || (of_a == of_b && a.key < b.key);
}

// A heap over the caller's memory, room for `most` entries, with the last of them in front.
template <class T>
class TopKeys {
 public:
  TopKeys(WeightOfKey<T>* entries, std::int64_t most) : entries_(entries), most_(most) { clear(); }

  void clear() noexcept {
    size_ = 0;
    set_bar();
  }

  // Keys come in rising order, so that an equal weight never takes an entry's place.
  void offer(T weight, std::int64_t key) noexcept {
    if (!(weight <= bar_)) insert({weight, key});  // and NaN
  }

  // Row n of `count` keys (int64) and weights, key -1 and weight 0 where the row saw no more;
  // either may be absent.
  void write(std::int64_t n, std::int64_t count, const engine::RowTarget& keys,
             const engine::RowTarget& weights) noexcept {
    std::sort_heap(entries_, entries_ + size_, before<T>);
    for (std::int64_t c = 0; c < count; ++c) {
      const WeightOfKey<T> found = c < size_ ? entries_[c] : WeightOfKey<T>{T{0}, -1};
      if (keys.data != nullptr) {
        static_cast<std::int64_t*>(keys.data)[keys.offset(n) + c * keys.dim_stride] = found.key;
      }
      if (weights.data != nullptr) {
        static_cast<T*>(weights.data)[weights.offset(n) + c * weights.dim_stride] = found.weight;
      }
    }
  }

 private:
  void insert(const WeightOfKey<T>& here) noexcept {
    if (size_ == most_) {
      if (most_ == 0 || !before(here, entries_[0])) return;
      std::pop_heap(entries_, entries_ + size_--, before<T>);
    }
    entries_[size_++] = here;
    std::push_heap(entries_, entries_ + size_, before<T>);
    set_bar();
  }
  void set_bar() noexcept {
    constexpr T kNone = -1;  // weights are not negative
    bar_ = size_ < most_ ? kNone
           : most_ == 0  ? std::numeric_limits<T>::infinity()
                         : entries_[0].weight;
  }

  T bar_ = 0;  // what a weight has to pass
  WeightOfKey<T>* entries_;
  std::int64_t most_;
  std::int64_t size_ = 0;
};

}  // namespace longspan::exact
