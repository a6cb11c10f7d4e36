// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The public entries of hashing: checks, and where buckets come from: rotations, the caller, or
// nowhere (sequences of one chunk).
#include <algorithm>
#include <string>

#include "base/check.h"
#include "base/rows4.h"
#include "longspan/lsh_attention.h"
#include "lsh/bucket_rule.h"
#include "lsh/checked_options.h"
#include "lsh/hasher.h"
#include "lsh/index_grid.h"
#include "lsh/padding.h"

namespace longspan {
namespace lsh {
namespace {

using base::require;
using base::Rows4;

constexpr const char* kFunction = "hash_vectors";

// Vectors, the buckets given for them, and where their buckets go.
struct Side {
  Side(const char* vectors_name, const ConstTensorView& vectors_view, const char* buckets_name,
       const TensorView& result, const ConstTensorView& given_view, const LshOptions& options,
       const BucketFactors& factors)
      : vectors(base::check_rows(std::string(kFunction) + ": ", vectors_name, "head_dim",
                                 vectors_view)),
        buckets(check_index_result(kFunction, buckets_name, result, factors.buckets)) {
    const ConstTensorView expected = buckets_shape(vectors_view.rank, options.num_hashes);
    constexpr const char* kAxes = "[batch, num_heads, num_hashes, seqlen]";
    require_shape(kFunction, buckets_name, result, kAxes, expected);
    require_apart(kFunction, buckets_name, result, vectors_name, vectors_view);
    require_apart(kFunction, buckets_name, result, "options.rotations", options.rotations);
    if (!is_given(given_view)) return;
    given_name = std::string("options.") + buckets_name;
    given = check_index_input(kFunction, given_name.c_str(), given_view);
    require_shape(kFunction, given_name.c_str(), given_view, kAxes, expected);
    require_apart(kFunction, buckets_name, result, given_name.c_str(), given_view);
  }

  ConstTensorView buckets_shape(int rank, std::int64_t num_hashes) const {
    const auto [batch, seqlen, heads, dim] = vectors.shape;
    ConstTensorView view;
    view.rank = rank;
    if (rank == 4) view.shape = {batch, heads, num_hashes, seqlen};
    if (rank == 3) view.shape = {heads, num_hashes, seqlen, 0};
    if (rank == 2) view.shape = {num_hashes, seqlen, 0, 0};
    return view;
  }

  bool is_padding(const Padding* padding, std::int64_t b, std::int64_t h, std::int64_t n) const {
    if (padding == nullptr || padding->none()) return false;
    std::uint64_t visible = 0;
    padding->find_visible(b, h, n, {&visible, 1});
    return visible == 0;
  }

  void copy_given(const BucketFactors& factors, const Padding* padding) const {
    if (given.rows() * given.shape[3] == 0) return;
    for (std::int64_t b = 0; b < given.shape[0]; ++b) {
      for (std::int64_t h = 0; h < given.shape[1]; ++h) {
        for (std::int64_t n = 0; n < given.shape[3]; ++n) {
          const bool excluded = is_padding(padding, b, h, n);
          for (std::int64_t r = 0; r < given.shape[2]; ++r) {
            const std::int64_t bucket = excluded ? factors.buckets : given.row(b, h, r)[n];
            require(excluded || (bucket >= 0 && bucket < factors.buckets), [&] {
              return std::string(kFunction) + ": " + given_name + " must be in 0.." +
                     std::to_string(factors.buckets - 1) + " (num_buckets " +
                     std::to_string(factors.buckets) + "); found " + std::to_string(bucket) +
                     " at [" + std::to_string(b) + ", " + std::to_string(h) + ", " +
                     std::to_string(r) + ", " + std::to_string(n) + "]";
            });
            buckets.row(b, h, r).set(n, bucket);
          }
        }
      }
    }
  }

  void clear() const {
    if (buckets.shape[3] == 0) return;
    for (std::int64_t row = 0; row < buckets.rows(); ++row) {
      for (std::int64_t n = 0; n < buckets.shape[3]; ++n) buckets.row(row).set(n, 0);
    }
  }

  Rows4 vectors;
  IndexGrid buckets;
  std::string given_name;
  IndexGrid given;  // data == nullptr: none
};

// `queries` is null when keys are queries, too.
template <class T>
void hash_sides(const Side& keys, const Side* queries, const LshOptions& options,
                const BucketFactors& factors, const Padding& padding, const Execution& execution) {
  const std::int64_t heads = keys.vectors.shape[2];
  const RotationSource rotations{options.rotations, options.seed, keys.vectors.shape[3],
                                 options.num_hashes, factors.columns};
  const Hasher<T> hasher(rotations, factors, heads, execution);
  hasher.hash(keys.vectors, 1, &padding, keys.buckets, execution);
  if (queries != nullptr && heads > 0) {
    hasher.hash(queries->vectors, queries->vectors.shape[2] / heads, nullptr, queries->buckets,
                execution);
  }
}

void run(const Side& keys, const Side* queries, const LshOptions& options,
         const BucketFactors& factors, const Mask& mask, const Execution& execution) {
  const auto [batch, seqlen, heads, head_dim] = keys.vectors.shape;
  const Rows4& looking = queries != nullptr ? queries->vectors : keys.vectors;
  check_threads(kFunction, execution);
  const Padding padding(mask, {batch, looking.shape[2], looking.shape[1], seqlen, kFunction},
                        heads);
  if (is_given(options.rotations)) {
    check_rotations(kFunction, options.rotations, heads, head_dim, options.num_hashes,
                    factors.columns);
  }
  if (seqlen <= options.chunk_len) {
    keys.clear();
    if (queries != nullptr) queries->clear();
  } else if (keys.given.data != nullptr) {
    keys.copy_given(factors, &padding);
    if (queries != nullptr) queries->copy_given(factors, nullptr);
  } else if (keys.vectors.dtype == DType::kFloat64) {
    hash_sides<double>(keys, queries, options, factors, padding, execution);
  } else {
    hash_sides<float>(keys, queries, options, factors, padding, execution);
  }
}

void check_pair(const ConstTensorView& query, const ConstTensorView& key) {
  const auto both = [&] {
    return "; found query " + shape_string(query) + ", key " + shape_string(key);
  };
  require(query.rank == key.rank && query.dtype == key.dtype, [&] {
    return std::string(kFunction) + ": query and key must have one rank and one dtype" + both() +
           ", " + name_of(query.dtype) + " and " + name_of(key.dtype);
  });
  const int last = key.rank - 1;
  require((key.rank < 4 || query.shape[0] == key.shape[0]) && query.shape[last] == key.shape[last],
          [&] {
            return std::string(kFunction) +
                   ": query and key must have the same batch and head_dim" + both();
          });
  const std::int64_t heads = key.rank >= 3 ? query.shape[last - 1] : 1;
  const std::int64_t heads_kv = key.rank >= 3 ? key.shape[last - 1] : 1;
  require(heads_kv == 0 ? heads == 0 : heads % heads_kv == 0, [&] {
    return std::string(kFunction) + ": num_heads must be a multiple of num_heads_kv" + both();
  });
}

// The axis of positions of a tensor of vectors, before it is checked.
std::int64_t seqlen_of(const ConstTensorView& view) {
  return view.rank >= 2 && view.rank <= 4 ? std::max<std::int64_t>(0, view.shape[view.rank == 4])
                                          : 0;
}

}  // namespace
}  // namespace lsh

void hash_vectors(ConstTensorView query_key, TensorView buckets, const LshOptions& options,
                  const Mask& mask, const Execution& execution) {
  using lsh::kFunction;
  lsh::check_options(kFunction, options, lsh::Vectors::kShared);
  const lsh::BucketFactors factors =
      lsh::bucket_factors(kFunction, options, lsh::seqlen_of(query_key));
  const lsh::Side keys("query_key", query_key, "buckets", buckets, options.buckets, options,
                       factors);
  lsh::run(keys, nullptr, options, factors, mask, execution);
}

void hash_vectors(ConstTensorView query, ConstTensorView key, TensorView query_buckets,
                  TensorView key_buckets, const LshOptions& options, const Mask& mask,
                  const Execution& execution) {
  using lsh::kFunction;
  lsh::check_options(kFunction, options, lsh::Vectors::kSeparate);
  const lsh::BucketFactors factors = lsh::bucket_factors(kFunction, options, lsh::seqlen_of(key));
  const lsh::Side queries("query", query, "query_buckets", query_buckets, options.query_buckets,
                          options, factors);
  const lsh::Side keys("key", key, "key_buckets", key_buckets, options.key_buckets, options,
                       factors);
  lsh::check_pair(query, key);
  lsh::require_apart(kFunction, "query_buckets", query_buckets, "key", key);
  lsh::require_apart(kFunction, "key_buckets", key_buckets, "query", query);
  lsh::require_apart(kFunction, "key_buckets", key_buckets, "query_buckets", query_buckets);
  lsh::run(keys, &queries, options, factors, mask, execution);
}

}  // namespace longspan
