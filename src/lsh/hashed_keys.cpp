// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Hashes what is new, and puts it in order.
#include "lsh/hashed_keys.h"

#include <utility>

#include "base/buffer.h"
#include "base/parallel_for.h"
#include "base/row_sums.h"
#include "base/rows4.h"
#include "lsh/key_factor.h"

namespace longspan::lsh {

template <class T>
HashedKeys<T>::HashedKeys(const LshOptions& options, const BucketFactors& factors, Vectors vectors,
                          std::int64_t batch, std::int64_t num_heads_kv, std::int64_t head_dim)
    : key_norm_(options.key_norm),
      shared_(vectors == Vectors::kShared),
      num_hashes_(options.num_hashes),
      num_heads_kv_(num_heads_kv),
      hasher_(std::make_shared<const Hasher<T>>(
          RotationSource{options.rotations, options.seed, head_dim, options.num_hashes,
                         factors.columns},
          factors, num_heads_kv, Execution{})),
      heads_(static_cast<std::size_t>(batch * num_heads_kv),
             Head{GrowingOrder(options.num_hashes, factors.buckets), {}}) {}

template <class T>
HashedKeys<T>::HashedKeys(const HashedKeys& like, std::vector<Head> heads)
    : key_norm_(like.key_norm_),
      shared_(like.shared_),
      num_hashes_(like.num_hashes_),
      num_heads_kv_(like.num_heads_kv_),
      length_(like.length_),
      hasher_(like.hasher_),
      heads_(std::move(heads)) {}

template <class T>
void HashedKeys<T>::append(const ConstTensorView& key, const Execution& execution) {
  base::Rows4 rows = base::check_rows("lsh_cache: append: ", "key", "head_dim", key);
  const std::int64_t first = length_, tokens = rows.shape[1] - first;
  if (tokens == 0 || heads_.empty()) {
    length_ += tokens;
    return;
  }
  rows.data = static_cast<const std::byte*>(rows.data) +
              first * rows.strides[1] * static_cast<std::int64_t>(size_of(rows.dtype));
  rows.shape[1] = tokens;
  // [batch][head][token][round]: what one key is pushed with lies together.
  const std::int64_t lists = rows.shape[0] * num_heads_kv_;
  const base::Buffer buckets(static_cast<std::size_t>(lists * tokens * num_hashes_) *
                             sizeof(std::int32_t));
  IndexGrid grid;
  grid.data = buckets.data();
  grid.shape = {rows.shape[0], num_heads_kv_, num_hashes_, tokens};
  grid.strides = {num_heads_kv_ * tokens * num_hashes_, tokens * num_hashes_, 1, num_hashes_};
  hasher_->hash(rows, 1, nullptr, grid, execution);
  try {
    base::parallel_for(
        lists, base::resolve_threads(execution.threads, lists), [&](std::int64_t list, int) {
          Head& head = heads_[static_cast<std::size_t>(list)];
          const base::RowSource source = rows.source(list / num_heads_kv_, list % num_heads_kv_);
          for (std::int64_t n = 0; n < tokens; ++n) {
            const auto* of_key = reinterpret_cast<const std::int32_t*>(buckets.data()) +
                                 (list * tokens + n) * num_hashes_;
            head.order.push({of_key, static_cast<std::size_t>(num_hashes_)});
            if (!shared_) continue;
            const double squares = base::sum_of_squares(source, n, rows.shape[3]);
            head.factors.push_back(static_cast<T>(key_factor(squares, rows.shape[3], key_norm_)));
          }
        });
  } catch (...) {
    truncate(first);
    throw;
  }
  length_ = first + tokens;
}

template <class T>
void HashedKeys<T>::truncate(std::int64_t length) noexcept {
  for (Head& head : heads_) {
    while (head.order.length() > length) head.order.pop();
    if (shared_ && static_cast<std::int64_t>(head.factors.size()) > length) {
      head.factors.resize(static_cast<std::size_t>(length));
    }
  }
  length_ = length;
}

template <class T>
HashedKeys<T> HashedKeys<T>::reordered(std::span<const std::int64_t> indices) const {
  std::vector<Head> heads;
  heads.reserve(indices.size() * static_cast<std::size_t>(num_heads_kv_));
  for (const std::int64_t from : indices) {
    for (std::int64_t h = 0; h < num_heads_kv_; ++h) heads.push_back(head(from, h));
  }
  return {*this, std::move(heads)};
}

template <class T>
std::size_t HashedKeys<T>::bytes() const noexcept {
  std::size_t bytes = hasher_->bytes();
  for (const Head& head : heads_) {
    bytes += head.order.bytes() + head.factors.capacity() * sizeof(T);
  }
  return bytes;
}

template class HashedKeys<float>;
template class HashedKeys<double>;

}  // namespace longspan::lsh
