// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Keys and values of the tokens so far: what all caches keep, whatever they know beside it. Errors
// begin with the name of the cache.
//
// One Rows holds keys, another values; only it knows how rows are stored. Storage in 8 bits is
// another way to copy a row in and a dtype of its view; pages are another view of it, for which the
// engine needs a source of rows that is not one stride (src/engine/rows.h).
#pragma once

#include <cstdint>
#include <span>

#include "base/buffer.h"
#include "longspan/kv_cache.h"

namespace longspan::compose {

// [batch, heads, capacity, dim]
class Rows {
 public:
  Rows(std::int64_t batch, std::int64_t heads, std::int64_t capacity, std::int64_t dim,
       DType dtype);

  std::size_t bytes() const noexcept { return memory_.size(); }
  // [batch, length, heads, dim]
  ConstTensorView view(std::int64_t batch, std::int64_t length) const noexcept;
  // Tokens `at`, ... of entry b become those of entry `from` of `source`, a view as view() gives.
  void copy(std::int64_t b, std::int64_t at, const ConstTensorView& source, std::int64_t from);

 private:
  std::int64_t element(std::int64_t n) const noexcept {
    return n * static_cast<std::int64_t>(size_of(dtype_));
  }
  void copy_bytes(std::byte* to, const std::byte* from, std::int64_t elements) const;
  void copy_row(std::byte* to, const std::byte* from, std::int64_t dim_stride) const;

  std::int64_t heads_;
  std::int64_t capacity_;
  std::int64_t dim_;
  DType dtype_;
  base::Buffer memory_;
};

// Where a cache's queries stand unless the call says otherwise: the last one at the last key.
AttentionOptions aligned_at_end(AttentionOptions options);

class CachedRows {
 public:
  // `cache` names it in errors, `key` the keys that are appended.
  CachedRows(const char* cache, const char* key, const KVCacheShape& shape, DType dtype,
             std::int64_t capacity);

  void append(const ConstTensorView& key, const ConstTensorView& value);
  void truncate(std::int64_t length);
  // What reorder() makes of it: the cache itself stays as it is.
  CachedRows reordered(std::span<const std::int64_t> indices) const;

  std::int64_t length() const noexcept { return length_; }
  std::int64_t capacity() const noexcept { return capacity_; }
  std::size_t bytes() const noexcept { return key_.bytes() + value_.bytes(); }
  const KVCacheShape& shape() const noexcept { return shape_; }
  DType dtype() const noexcept { return dtype_; }
  ConstTensorView key() const noexcept { return key_.view(shape_.batch, length_); }
  ConstTensorView value() const noexcept { return value_.view(shape_.batch, length_); }

 private:
  void check_appended(const char* name, const ConstTensorView& view, std::int64_t dim) const;
  // Of the same cache for so many tokens and entries; empty.
  CachedRows like(std::int64_t batch, std::int64_t capacity) const;
  // Entry b becomes entry `from` of the other cache, as long as that is.
  void take(std::int64_t b, const CachedRows& other, std::int64_t from);

  const char* cache_;
  const char* key_name_;
  KVCacheShape shape_;
  DType dtype_;
  std::int64_t capacity_;
  std::int64_t length_ = 0;
  Rows key_;
  Rows value_;
};

}  // namespace longspan::compose
