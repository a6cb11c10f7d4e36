// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The cache of keys and values.
//
// One Rows holds keys, another values; only it knows how rows are stored. Storage in 8 bits is
// another way to copy a row in and a dtype of its view; pages are another view of it, for which the
// engine needs a source of rows that is not one stride (src/engine/rows.h).
#include "longspan/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "base/buffer.h"
#include "base/check.h"

namespace longspan {
namespace {

using base::require;

// [batch, heads, capacity, dim]
class Rows {
 public:
  Rows(std::int64_t batch, std::int64_t heads, std::int64_t capacity, std::int64_t dim, DType dtype)
      : heads_(heads), capacity_(capacity), dim_(dim), dtype_(dtype) {
    ConstTensorView whole{nullptr, dtype, 4, {batch, heads, capacity, dim}, {}};
    memory_ = base::Buffer(static_cast<std::size_t>(element_count(whole)) * size_of(dtype));
  }

  std::size_t bytes() const noexcept { return memory_.size(); }

  ConstTensorView view(std::int64_t batch, std::int64_t length) const noexcept {
    return {memory_.data(),
            dtype_,
            4,
            {batch, length, heads_, dim_},
            {heads_ * capacity_ * dim_, dim_, capacity_ * dim_, 1}};
  }

  // Tokens `at`, ... of entry b become those of entry `from` of `source`, a view as view() gives.
  void copy(std::int64_t b, std::int64_t at, const ConstTensorView& source, std::int64_t from) {
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

 private:
  std::int64_t element(std::int64_t n) const noexcept {
    return n * static_cast<std::int64_t>(size_of(dtype_));
  }
  void copy_bytes(std::byte* to, const std::byte* from, std::int64_t elements) const {
    if (elements > 0) std::memcpy(to, from, static_cast<std::size_t>(element(elements)));
  }
  void copy_row(std::byte* to, const std::byte* from, std::int64_t dim_stride) const {
    if (dim_stride == 1) return copy_bytes(to, from, dim_);
    for (std::int64_t d = 0; d < dim_; ++d) {
      copy_bytes(to + element(d), from + element(d * dim_stride), 1);
    }
  }

  std::int64_t heads_;
  std::int64_t capacity_;
  std::int64_t dim_;
  DType dtype_;
  base::Buffer memory_;
};

void check_appended(const char* name, const ConstTensorView& view, const KVCacheShape& shape,
                    std::int64_t dim, DType dtype) {
  require(view.dtype == dtype, [&] {
    return std::string("kv_cache: append: ") + name + " must be " + name_of(dtype) +
           " as the cache; found " + name_of(view.dtype);
  });
  const bool fits = view.rank == 4 && view.shape[0] == shape.batch &&
                    view.shape[2] == shape.num_heads_kv && view.shape[3] == dim;
  require(fits, [&] {
    return std::string("kv_cache: append: ") + name + " must have shape [" +
           std::to_string(shape.batch) + ", n, " + std::to_string(shape.num_heads_kv) + ", " +
           std::to_string(dim) + "]; found " + shape_string(view);
  });
  require(element_count(view) == 0 || view.data != nullptr, [&] {
    return std::string("kv_cache: append: ") + name + " " + shape_string(view) +
           " has no data (null pointer)";
  });
}

}  // namespace

struct KVCache::State {
  State(const KVCacheShape& of, DType stored, std::int64_t tokens)
      : shape(of),
        dtype(stored),
        capacity(tokens),
        key(of.batch, of.num_heads_kv, tokens, of.head_dim, stored),
        value(of.batch, of.num_heads_kv, tokens, of.head_dim_v, stored) {}

  // Entry b of this cache becomes entry `from` of the other one, as long as that is.
  void take(std::int64_t b, const State& other, std::int64_t from) {
    key.copy(b, 0, other.key.view(other.shape.batch, other.length), from);
    value.copy(b, 0, other.value.view(other.shape.batch, other.length), from);
  }

  KVCacheShape shape;
  DType dtype;
  std::int64_t capacity;
  std::int64_t length = 0;
  Rows key;
  Rows value;
};

KVCache::KVCache(const KVCacheShape& shape, DType dtype, std::int64_t capacity) {
  KVCacheShape full = shape;
  if (full.head_dim_v == 0) full.head_dim_v = full.head_dim;
  require(is_floating(dtype), [&] {
    return std::string("kv_cache: dtype must be float32, float64, float16 or bfloat16; found ") +
           name_of(dtype);
  });
  const auto at_least = [](const char* name, std::int64_t least, std::int64_t found) {
    require(found >= least, [&] {
      return std::string("kv_cache: ") + name + " must be at least " + std::to_string(least) +
             "; found " + std::to_string(found);
    });
  };
  at_least("batch", 0, full.batch);
  at_least("num_heads_kv", 1, full.num_heads_kv);
  at_least("head_dim", 1, full.head_dim);
  at_least("head_dim_v", 1, full.head_dim_v);
  at_least("capacity", 0, capacity);
  state_ = std::make_unique<State>(full, dtype, capacity);
}

KVCache::KVCache(KVCache&& other) noexcept = default;
KVCache& KVCache::operator=(KVCache&& other) noexcept = default;
KVCache::~KVCache() = default;

void KVCache::append(ConstTensorView key, ConstTensorView value) {
  const KVCacheShape& shape = state_->shape;
  check_appended("key", key, shape, shape.head_dim, state_->dtype);
  check_appended("value", value, shape, shape.head_dim_v, state_->dtype);
  const std::int64_t tokens = key.shape[1];
  require(tokens == value.shape[1], [&] {
    return "kv_cache: append: key and value must have as many tokens; key has " +
           std::to_string(tokens) + ", value has " + std::to_string(value.shape[1]);
  });
  // What is appended may be a view of the old memory, which therefore lives until the end.
  std::unique_ptr<State> grown;
  State* into = state_.get();
  const std::int64_t length = state_->length;
  if (tokens > state_->capacity - length) {
    constexpr std::int64_t kLeast = 16;
    const std::int64_t capacity = std::max({length + tokens, 2 * state_->capacity, kLeast});
    grown = std::make_unique<State>(shape, state_->dtype, capacity);
    for (std::int64_t b = 0; b < shape.batch; ++b) grown->take(b, *state_, b);
    into = grown.get();
  }
  for (std::int64_t b = 0; b < shape.batch; ++b) {
    into->key.copy(b, length, key, b);
    into->value.copy(b, length, value, b);
  }
  into->length = length + tokens;
  if (grown != nullptr) state_ = std::move(grown);
}

void KVCache::attend(ConstTensorView query, Partial result, const AttentionOptions& options,
                     const Execution& execution) const {
  AttentionOptions aligned = options;
  if (aligned.query_offset.kind == QueryOffset::Kind::kUnset) {
    aligned.query_offset = QueryOffset::end();
  }
  attention(query, key(), value(), result, aligned, execution);
}

void KVCache::truncate(std::int64_t length) {
  require(length >= 0 && length <= state_->length, [&] {
    return "kv_cache: truncate: length must be between 0 and " + std::to_string(state_->length) +
           "; found " + std::to_string(length);
  });
  state_->length = length;
}

void KVCache::reorder(std::span<const std::int64_t> indices) {
  const std::int64_t batch = state_->shape.batch;
  for (std::size_t b = 0; b < indices.size(); ++b) {
    require(indices[b] >= 0 && indices[b] < batch, [&] {
      return "kv_cache: reorder: index " + std::to_string(b) + " must be between 0 and " +
             std::to_string(batch - 1) + "; found " + std::to_string(indices[b]);
    });
  }
  KVCacheShape shape = state_->shape;
  shape.batch = static_cast<std::int64_t>(indices.size());
  auto reordered = std::make_unique<State>(shape, state_->dtype, state_->capacity);
  for (std::size_t b = 0; b < indices.size(); ++b) {
    reordered->take(static_cast<std::int64_t>(b), *state_, indices[b]);
  }
  reordered->length = state_->length;
  state_ = std::move(reordered);
}

std::int64_t KVCache::length() const noexcept { return state_->length; }
std::int64_t KVCache::capacity() const noexcept { return state_->capacity; }
std::size_t KVCache::bytes() const noexcept { return state_->key.bytes() + state_->value.bytes(); }
const KVCacheShape& KVCache::shape() const noexcept { return state_->shape; }
DType KVCache::dtype() const noexcept { return state_->dtype; }

ConstTensorView KVCache::key() const noexcept {
  return state_->key.view(state_->shape.batch, state_->length);
}
ConstTensorView KVCache::value() const noexcept {
  return state_->value.view(state_->shape.batch, state_->length);
}

}  // namespace longspan
