// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What a cache of hashed keys knows beside the rows: who stands in which bucket, and, of shared
// query and key, what makes keys of the rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "longspan/execution.h"
#include "longspan/tensor.h"
#include "lsh/bucket_rule.h"
#include "lsh/checked_options.h"
#include "lsh/growing_order.h"
#include "lsh/hasher.h"

namespace longspan::lsh {

template <class T>
class HashedKeys {
 public:
  struct Head {  // of one batch entry
    GrowingOrder order;
    std::vector<T> factors;  // by position, of shared query and key (key_factor.h)
  };

  HashedKeys(const LshOptions& options, const BucketFactors& factors, Vectors vectors,
             std::int64_t batch, std::int64_t num_heads_kv, std::int64_t head_dim);

  // `key` [batch, tokens, num_heads_kv, head_dim]: the last of them are not known yet. Leaves
  // everything as it was when it throws.
  void append(const ConstTensorView& key, const Execution& execution);
  void truncate(std::int64_t length) noexcept;
  HashedKeys reordered(std::span<const std::int64_t> indices) const;

  const Head& head(std::int64_t b, std::int64_t head_kv) const noexcept {
    return heads_[static_cast<std::size_t>(b * num_heads_kv_ + head_kv)];
  }
  const Hasher<T>& hasher() const noexcept { return *hasher_; }
  std::size_t bytes() const noexcept;

 private:
  HashedKeys(const HashedKeys& like, std::vector<Head> heads);

  KeyNorm key_norm_;
  bool shared_;
  std::int64_t num_hashes_;
  std::int64_t num_heads_kv_;
  std::int64_t length_ = 0;
  std::shared_ptr<const Hasher<T>> hasher_;
  std::vector<Head> heads_;
};

}  // namespace longspan::lsh
