// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What LSH attention refuses, in words; and the presets.
#include "lsh/checked_options.h"

#include <cmath>

#include "base/check.h"
#include "lsh/index_grid.h"

namespace longspan {
namespace lsh {
namespace {

using base::require;

// Chunks and rounds are counted in 64 bits; nobody needs windows or rounds past 2^31.
constexpr std::int64_t kMost = INT32_MAX;

void check_range(const std::string& function, const char* name, std::int64_t value,
                 std::int64_t least) {
  require(value >= least && value <= kMost, [&] {
    return function + ": " + name + " must be in " + std::to_string(least) + ".." +
           std::to_string(kMost) + "; found " + std::to_string(value);
  });
}

void check_given_buckets(const std::string& function, const LshOptions& options, Vectors vectors) {
  const bool shared = is_given(options.buckets), query = is_given(options.query_buckets),
             key = is_given(options.key_buckets);
  require(vectors == Vectors::kShared ? !query && !key : !shared, [&] {
    return function +
           (vectors == Vectors::kShared
                ? ": shared query and key take buckets; found query_buckets or key_buckets"
                : ": separate query and key take query_buckets and key_buckets; found buckets");
  });
  require(query == key, [&] {
    return function + ": query_buckets and key_buckets come together; found only " +
           (query ? "query_buckets" : "key_buckets");
  });
  require(!is_given(options.rotations) || (!shared && !query), [&] {
    return function + ": expected rotations to hash with or buckets instead of hashing; found both";
  });
}

}  // namespace

void check_options(const std::string& function, const LshOptions& options, Vectors vectors) {
  check_range(function, "num_hashes", options.num_hashes, 1);
  require(options.chunk_len >= 1, [&] {
    return function + ": chunk_len must be at least 1; found " + std::to_string(options.chunk_len);
  });
  check_range(function, "chunks_before", options.chunks_before, 0);
  check_range(function, "chunks_after", options.chunks_after, 0);
  require(std::isfinite(options.self_score), [&] {
    return function + ": self_score must be finite (a mask excludes, this does not); found " +
           std::to_string(options.self_score);
  });
  if (options.local_window) {
    const std::int64_t left = (*options.local_window)[0], right = (*options.local_window)[1];
    require(left >= -1 && right >= -1, [&] {
      return function + ": local_window must be >= 0, or -1 for an open side; found left " +
             std::to_string(left) + ", right " + std::to_string(right);
    });
  }
  require(!options.whole_buckets || options.wrap == Wrap::kNone,
          [&] { return function + ": whole_buckets has no chunks to wrap; expected wrap none"; });
  require(vectors == Vectors::kShared || options.wrap == Wrap::kNone, [&] {
    return function +
           ": windows of separate query and key are clamped to the round; expected wrap none";
  });
  check_given_buckets(function, options, vectors);
}

void check_scores(const std::string& function, const AttentionOptions& options, Vectors vectors) {
  require(!is_given(options.bias), [&] {
    return function + ": a bias tensor of seqlen x seqlen has no place here; expected none";
  });
  require(options.dropout.probability == 0, [&] {
    return function + ": dropout must be 0; found " + std::to_string(options.dropout.probability);
  });
  require(vectors == Vectors::kSeparate || !options.scale, [&] {
    return function +
           ": the key norm fixes the scale of shared query and key; expected none, found " +
           std::to_string(*options.scale);
  });
}

void check_rotations(const std::string& function, const ConstTensorView& rotations,
                     std::int64_t num_heads_kv, std::int64_t head_dim, std::int64_t num_hashes,
                     std::int64_t columns) {
  require(is_floating(rotations.dtype), [&] {
    return function + ": rotations must be floating; found " + name_of(rotations.dtype);
  });
  require_shape(function, "rotations", rotations,
                "[num_heads, head_dim, num_hashes, sum of num_buckets / 2]",
                {nullptr, rotations.dtype, 4, {num_heads_kv, head_dim, num_hashes, columns}, {}});
  require(element_count(rotations) == 0 || rotations.data != nullptr, [&] {
    return function + ": rotations " + shape_string(rotations) + " has no data (null pointer)";
  });
}

void check_threads(const std::string& function, const Execution& execution) {
  require(execution.threads >= 0, [&] {
    return function + ": threads must not be negative (0: chosen); found " +
           std::to_string(execution.threads);
  });
}

}  // namespace lsh

LshOptions hf_reformer() {
  LshOptions options;
  options.dedup = Dedup::kNone;
  options.wrap = Wrap::kAll;
  options.key_norm = KeyNorm::kRms;
  options.self_rule = SelfRule::kAssigned;
  options.self_score = -1e5;
  options.self_overrides_padding = true;
  return options;
}

LshOptions lucidrains() {
  LshOptions options = hf_reformer();
  options.key_norm = KeyNorm::kL2;
  options.self_score = -5e4;
  return options;
}

LshOptions lab() {
  LshOptions options;
  options.dedup = Dedup::kNone;
  options.wrap = Wrap::kAll;
  options.key_norm = KeyNorm::kRms;
  options.self_rule = SelfRule::kAdded;
  options.self_score = -1e5;
  return options;
}

}  // namespace longspan
