// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The cache of keys and values, and attention to all of it.
#include "longspan/kv_cache.h"

#include <utility>

#include "compose/cached_rows.h"

namespace longspan {

struct KVCache::State {
  compose::CachedRows rows;
};

KVCache::KVCache(const KVCacheShape& shape, DType dtype, std::int64_t capacity)
    : state_(std::make_unique<State>(State{{"kv_cache", "key", shape, dtype, capacity}})) {}
KVCache::KVCache(KVCache&& other) noexcept = default;
KVCache& KVCache::operator=(KVCache&& other) noexcept = default;
KVCache::~KVCache() = default;

void KVCache::append(ConstTensorView key, ConstTensorView value) {
  state_->rows.append(key, value);
}

void KVCache::attend(ConstTensorView query, Partial result, const AttentionOptions& options,
                     const Execution& execution) const {
  attention(query, key(), value(), result, compose::aligned_at_end(options), execution);
}

void KVCache::truncate(std::int64_t length) { state_->rows.truncate(length); }

void KVCache::reorder(std::span<const std::int64_t> indices) {
  state_->rows = state_->rows.reordered(indices);
}

std::int64_t KVCache::length() const noexcept { return state_->rows.length(); }
std::int64_t KVCache::capacity() const noexcept { return state_->rows.capacity(); }
std::size_t KVCache::bytes() const noexcept { return state_->rows.bytes(); }
const KVCacheShape& KVCache::shape() const noexcept { return state_->rows.shape(); }
DType KVCache::dtype() const noexcept { return state_->rows.dtype(); }
ConstTensorView KVCache::key() const noexcept { return state_->rows.key(); }
ConstTensorView KVCache::value() const noexcept { return state_->rows.value(); }

}  // namespace longspan
