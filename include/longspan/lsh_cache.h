// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Keys and values of the tokens so far, hashed: decoding by LSH attention, at a cost that hardly
// depends on how many tokens there are.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "longspan/kv_cache.h"
#include "longspan/lsh_attention.h"

namespace longspan {

enum class QueryKey : std::uint8_t {
  kSeparate,  // keys are keys; heads of queries may be grouped
  kShared,    // keys are the queries, normalised, as in the Reformer: num_heads_kv is num_heads
};

// A KVCache that knows the buckets of its keys. Each key is hashed once, when it is appended, and
// put at the end of its bucket's list in every round. A query looks its windows up in these lists
// and meets the keys that stand there:
//   time   of a query and head, O(num_hashes (keys of a window + log num_buckets)), whatever the
//          length; 2 (head_dim + head_dim_v) FLOP for each key of its windows;
//   memory of a (batch entry, key head), beside its rows: for each round about 10 bytes a token and
//          40 a bucket; shared query and key 4 more a token (float64: 8).
//
// Like a KVCache it grows by doubling, can be moved and not copied, is left as it was by every
// function that throws (Error: kInvalidArgument names both values, kOutOfMemory; only the capacity
// may have grown), and its const functions may be called from several threads at once.
class LshCache {
 public:
  // options: those of lsh_attention(), for all its life. num_buckets is fixed here; left empty it
  // is choose_num_buckets(capacity, chunk_len), the number for so many tokens. At most 2^24
  // buckets. Rotations are drawn from the seed, or given and copied; buckets cannot be given.
  LshCache(const KVCacheShape& shape, DType dtype, QueryKey query_key, const LshOptions& options,
           std::int64_t capacity = 0);
  LshCache(LshCache&& other) noexcept;
  LshCache& operator=(LshCache&& other) noexcept;
  ~LshCache();

  // As KVCache::append(); key is raw (shared: query_key), it is hashed here. Fewer than 2^31
  // tokens.
  void append(ConstTensorView key, ConstTensorView value, const Execution& execution = {});

  // lsh_attention() of query [batch, seqlen_q, num_heads, head_dim], of the cache's dtype, with all
  // keys, up to rounding. The last query sits at the last key unless attention.query_offset says
  // otherwise; several queries see each other's keys unless attention.mask is causal().
  // Shared: query is the newest rows as they were appended (which is checked), and the result is
  // the last rows of lsh_attention() over the whole sequence.
  // Refused beside what lsh_attention() refuses: padding (key lengths, a dense mask with one row),
  // which would have to be hashed apart. While there are no more than chunk_len tokens, all are
  // met. A prompt of many queries is faster through lsh_attention(), which lets neighbours share
  // their keys.
  // Bitwise the same for any number of threads, for an entry alone or in any batch, however the
  // tokens were appended. Workspace: O(threads), a float32 row for each query and head, and lists.
  void attend(ConstTensorView query, Partial result, const AttentionOptions& attention = {},
              const Execution& execution = {}) const;

  // As in KVCache. What is forgotten leaves the buckets: O(log num_buckets) a round and token.
  void truncate(std::int64_t length);
  void reorder(std::span<const std::int64_t> indices);

  std::int64_t length() const noexcept;    // tokens
  std::int64_t capacity() const noexcept;  // tokens
  std::size_t bytes() const noexcept;      // of memory held: keys, values, buckets, rotations
  const KVCacheShape& shape() const noexcept;
  DType dtype() const noexcept;
  QueryKey query_key() const noexcept;
  // As given, but for num_buckets, which is filled in, and rotations, which are not kept.
  const LshOptions& options() const noexcept;

  // [batch, length, num_heads_kv, dim], valid until append, reorder or the end of the cache.
  ConstTensorView key() const noexcept;
  ConstTensorView value() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace longspan
