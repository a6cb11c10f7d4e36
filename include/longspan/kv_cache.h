// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Keys and values of the tokens so far, for decoding: append a step, attend to all of it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "longspan/attention.h"

namespace longspan {

struct KVCacheShape {
  std::int64_t batch = 1;
  std::int64_t num_heads_kv = 0;
  std::int64_t head_dim = 0;
  std::int64_t head_dim_v = 0;  // 0: head_dim
};

// Rows of one head lie together: [batch, num_heads_kv, capacity, dim], which decode reads fastest.
// Capacity doubles when it runs out. Every function that throws (Error: kInvalidArgument names both
// values, kOutOfMemory) leaves the cache as it was. Const functions may be called from several
// threads at once; any other needs the cache for itself. A cache can be moved, not copied: a copy
// of gigabytes should be asked for (append(other.key(), other.value())). A cache that was moved
// from can only be destroyed or assigned to.
class KVCache {
 public:
  // dtype: float32, float64, float16 or bfloat16. `capacity`: tokens that fit before it grows, 0
  // for none; memory is taken at once.
  KVCache(const KVCacheShape& shape, DType dtype, std::int64_t capacity = 0);
  KVCache(KVCache&& other) noexcept;
  KVCache& operator=(KVCache&& other) noexcept;
  ~KVCache();

  // key: [batch, n, num_heads_kv, head_dim], value: [batch, n, num_heads_kv, head_dim_v], n >= 0,
  // any strides, both of the cache's dtype (nothing is rounded here). They may be views of this
  // cache.
  void append(ConstTensorView key, ConstTensorView value);

  // attention() of query [batch, seqlen_q, num_heads, head_dim], of the cache's dtype, with all
  // keys. The last query sits at the last key unless options.query_offset says otherwise; several
  // queries see each other's keys unless options.mask is causal().
  void attend(ConstTensorView query, Partial result, const AttentionOptions& options = {},
              const Execution& execution = {}) const;

  // Forgets the tokens from `length` on, 0 <= length <= length(). The capacity stays.
  void truncate(std::int64_t length);

  // Batch entry b becomes what entry indices[b] was (beam search). Entries may be repeated and left
  // out; the batch becomes indices.size().
  void reorder(std::span<const std::int64_t> indices);

  std::int64_t length() const noexcept;    // tokens
  std::int64_t capacity() const noexcept;  // tokens
  std::size_t bytes() const noexcept;      // of memory held for keys and values
  const KVCacheShape& shape() const noexcept;
  DType dtype() const noexcept;

  // [batch, length, num_heads_kv, dim], valid until append, reorder or the end of the cache.
  ConstTensorView key() const noexcept;
  ConstTensorView value() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace longspan
