// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Rows come and go.
#include "compose/cached_rows.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "base/check.h"

namespace longspan::compose {
namespace {

using base::require;

KVCacheShape checked_shape(const std::string& cache, KVCacheShape shape, DType dtype,
                           std::int64_t capacity) {
  if (shape.head_dim_v == 0) shape.head_dim_v = shape.head_dim;
  require(is_floating(dtype), [&] {
    return cache + ": dtype must be float32, float64, float16 or bfloat16; found " + name_of(dtype);
  });
  const auto at_least = [&](const char* name, std::int64_t least, std::int64_t found) {
    require(found >= least, [&] {
      return cache + ": " + name + " must be at least " + std::to_string(least) + "; found " +
             std::to_string(found);
    });
  };
  at_least("batch", 0, shape.batch);
  at_least("num_heads_kv", 1, shape.num_heads_kv);
  at_least("head_dim", 1, shape.head_dim);
  at_least("head_dim_v", 1, shape.head_dim_v);
  at_least("capacity", 0, capacity);
  return shape;
}

}  // namespace

AttentionOptions aligned_at_end(AttentionOptions options) {
  if (options.query_offset.kind == QueryOffset::Kind::kUnset) {
    options.query_offset = QueryOffset::end();
  }
  return options;
}

Rows::Rows(std::int64_t batch, std::int64_t heads, std::int64_t capacity, std::int64_t dim,
           DType dtype)
    : heads_(heads), capacity_(capacity), dim_(dim), dtype_(dtype) {
  ConstTensorView whole{nullptr, dtype, 4, {batch, heads, capacity, dim}, {}};
  memory_ = base::Buffer(static_cast<std::size_t>(element_count(whole)) * size_of(dtype));
}

ConstTensorView Rows::view(std::int64_t batch, std::int64_t length) const noexcept {
  return {memory_.data(),
          dtype_,
          4,
          {batch, length, heads_, dim_},
          {heads_ * capacity_ * dim_, dim_, capacity_ * dim_, 1}};
}

void Rows::copy(std::int64_t b, std::int64_t at, const ConstTensorView& source, std::int64_t from) {
  for (std::int64_t h = 0; h < heads_; ++h) {
    std::byte* to = memory_.data() + element(((b * heads_ + h) * capacity_ + at) * dim_);
    const std::byte* head = static_cast<const std::byte*>(source.data) +
                            element(from * source.strides[0] + h * source.strides[2]);
    if (source.strides[3] == 1 && source.strides[1] == dim_) {
      copy_bytes(to, head, source.shape[1] * dim_);
      continue;
    }
    for (std::int64_t n = 0; n < source.shape[1]; ++n, to += element(dim_)) {
      copy_row(to, head + element(n * source.strides[1]), source.strides[3]);
    }
  }
}

void Rows::copy_bytes(std::byte* to, const std::byte* from, std::int64_t elements) const {
  if (elements > 0) std::memcpy(to, from, static_cast<std::size_t>(element(elements)));
}

void Rows::copy_row(std::byte* to, const std::byte* from, std::int64_t dim_stride) const {
  if (dim_stride == 1) return copy_bytes(to, from, dim_);
  for (std::int64_t d = 0; d < dim_; ++d) {
    copy_bytes(to + element(d), from + element(d * dim_stride), 1);
  }
}

CachedRows::CachedRows(const char* cache, const char* key, const KVCacheShape& shape, DType dtype,
                       std::int64_t capacity)
    : cache_(cache),
      key_name_(key),
      shape_(checked_shape(cache, shape, dtype, capacity)),
      dtype_(dtype),
      capacity_(capacity),
      key_(shape_.batch, shape_.num_heads_kv, capacity, shape_.head_dim, dtype),
      value_(shape_.batch, shape_.num_heads_kv, capacity, shape_.head_dim_v, dtype) {}

CachedRows CachedRows::like(std::int64_t batch, std::int64_t capacity) const {
  KVCacheShape shape = shape_;
  shape.batch = batch;
  return {cache_, key_name_, shape, dtype_, capacity};
}

void CachedRows::take(std::int64_t b, const CachedRows& other, std::int64_t from) {
  key_.copy(b, 0, other.key(), from);
  value_.copy(b, 0, other.value(), from);
  length_ = other.length_;
}

void CachedRows::check_appended(const char* name, const ConstTensorView& view,
                                std::int64_t dim) const {
  const auto found = [&] { return std::string(cache_) + ": append: " + name; };
  require(view.dtype == dtype_, [&] {
    return found() + " must be " + name_of(dtype_) + " as the cache; found " + name_of(view.dtype);
  });
  const bool fits = view.rank == 4 && view.shape[0] == shape_.batch &&
                    view.shape[2] == shape_.num_heads_kv && view.shape[3] == dim;
  require(fits, [&] {
    return found() + " must have shape [" + std::to_string(shape_.batch) + ", n, " +
           std::to_string(shape_.num_heads_kv) + ", " + std::to_string(dim) + "]; found " +
           shape_string(view);
  });
  require(element_count(view) == 0 || view.data != nullptr,
          [&] { return found() + " " + shape_string(view) + " has no data (null pointer)"; });
}

void CachedRows::append(const ConstTensorView& key, const ConstTensorView& value) {
  check_appended(key_name_, key, shape_.head_dim);
  check_appended("value", value, shape_.head_dim_v);
  const std::int64_t tokens = key.shape[1];
  require(tokens == value.shape[1], [&] {
    return std::string(cache_) + ": append: " + key_name_ +
           " and value must have as many tokens; " + key_name_ + " has " + std::to_string(tokens) +
           ", value has " + std::to_string(value.shape[1]);
  });
  // What is appended may be a view of the old memory, which therefore lives until the end.
  std::optional<CachedRows> grown;
  if (tokens > capacity_ - length_) {
    constexpr std::int64_t kLeast = 16;
    grown.emplace(like(shape_.batch, std::max({length_ + tokens, 2 * capacity_, kLeast})));
    for (std::int64_t b = 0; b < shape_.batch; ++b) grown->take(b, *this, b);
  }
  CachedRows& into = grown ? *grown : *this;
  for (std::int64_t b = 0; b < shape_.batch; ++b) {
    into.key_.copy(b, length_, key, b);
    into.value_.copy(b, length_, value, b);
  }
  into.length_ = length_ + tokens;
  if (grown) *this = std::move(*grown);
}

void CachedRows::truncate(std::int64_t length) {
  require(length >= 0 && length <= length_, [&] {
    return std::string(cache_) + ": truncate: length must be between 0 and " +
           std::to_string(length_) + "; found " + std::to_string(length);
  });
  length_ = length;
}

CachedRows CachedRows::reordered(std::span<const std::int64_t> indices) const {
  for (std::size_t b = 0; b < indices.size(); ++b) {
    require(indices[b] >= 0 && indices[b] < shape_.batch, [&] {
      return std::string(cache_) + ": reorder: index " + std::to_string(b) +
             " must be between 0 and " + std::to_string(shape_.batch - 1) + "; found " +
             std::to_string(indices[b]);
    });
  }
  CachedRows result = like(static_cast<std::int64_t>(indices.size()), capacity_);
  for (std::size_t b = 0; b < indices.size(); ++b) {
    result.take(static_cast<std::int64_t>(b), *this, indices[b]);
  }
  result.length_ = length_;
  return result;
}

}  // namespace longspan::compose
