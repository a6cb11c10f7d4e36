// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The cache of hashed keys: rows as in any cache, and who stands in which bucket.
#include "longspan/lsh_cache.h"

#include <new>
#include <string>
#include <utility>
#include <variant>

#include "base/check.h"
#include "compose/cached_rows.h"
#include "lsh/hashed_keys.h"
#include "lsh/lsh_decode.h"

namespace longspan {
namespace {

using base::require;

constexpr const char* kCache = "lsh_cache";

lsh::Vectors vectors_of(QueryKey query_key) {
  return query_key == QueryKey::kShared ? lsh::Vectors::kShared : lsh::Vectors::kSeparate;
}

const char* name_of_key(QueryKey query_key) {
  return query_key == QueryKey::kShared ? "query_key" : "key";
}

// With num_buckets filled in.
LshOptions checked_options(const LshOptions& given, QueryKey query_key, std::int64_t capacity) {
  lsh::check_options(kCache, given, vectors_of(query_key));
  require(!is_given(given.buckets) && !is_given(given.query_buckets), [] {
    return std::string(kCache) + ": keys are hashed here; expected no buckets, found some";
  });
  require(!given.num_buckets.empty() || capacity > 0, [] {
    return std::string(kCache) +
           ": num_buckets stays as it is while tokens come; expected num_buckets, or the capacity "
           "to choose it for; found neither";
  });
  LshOptions options = given;
  const lsh::BucketFactors factors = lsh::bucket_factors(kCache, options, capacity);
  constexpr std::int64_t kMost = std::int64_t{1} << 24;  // lists: 0.5 GB a round and head
  require(factors.buckets <= kMost, [&] {
    return std::string(kCache) + ": the product of num_buckets must be at most " +
           std::to_string(kMost) + "; found " + std::to_string(factors.buckets);
  });
  options.num_buckets = factors.factors;
  return options;
}

// Lists of the standard library say that memory is out in another way than buffers.
template <class Body>
void reporting_memory(const char* function, const Body& body) {
  try {
    body();
  } catch (const std::bad_alloc&) {
    base::fail(ErrorCode::kOutOfMemory,
               std::string(kCache) + ": " + function + ": an allocation for the buckets failed");
  }
}

}  // namespace

struct LshCache::State {
  using Hashed = std::variant<lsh::HashedKeys<float>, lsh::HashedKeys<double>>;

  template <class T>
  lsh::HashedKeys<T> hashed_keys(const LshOptions& given) const {
    const KVCacheShape& shape = rows.shape();
    const lsh::BucketFactors factors = lsh::bucket_factors(kCache, options, 0);
    if (is_given(given.rotations)) {
      lsh::check_rotations(kCache, given.rotations, shape.num_heads_kv, shape.head_dim,
                           given.num_hashes, factors.columns);
    }
    return {given, factors, vectors_of(query_key), shape.batch, shape.num_heads_kv, shape.head_dim};
  }

  State(const KVCacheShape& shape, DType dtype, QueryKey of, const LshOptions& given,
        std::int64_t capacity)
      : query_key(of),
        rows(kCache, name_of_key(of), shape, dtype, capacity),
        options(checked_options(given, of, capacity)),
        hashed(dtype == DType::kFloat64 ? Hashed(hashed_keys<double>(given))
                                        : Hashed(hashed_keys<float>(given))) {
    options.rotations = {};
  }

  QueryKey query_key;
  compose::CachedRows rows;
  LshOptions options;
  Hashed hashed;
};

LshCache::LshCache(const KVCacheShape& shape, DType dtype, QueryKey query_key,
                   const LshOptions& options, std::int64_t capacity) {
  reporting_memory("constructor", [&] {
    state_ = std::make_unique<State>(shape, dtype, query_key, options, capacity);
  });
}
LshCache::LshCache(LshCache&& other) noexcept = default;
LshCache& LshCache::operator=(LshCache&& other) noexcept = default;
LshCache::~LshCache() = default;

void LshCache::append(ConstTensorView key, ConstTensorView value, const Execution& execution) {
  State& state = *state_;
  lsh::check_threads("lsh_cache: append", execution);
  const std::int64_t length = state.rows.length();
  reporting_memory("append", [&] {
    state.rows.append(key, value);
    try {
      require(state.rows.length() <= INT32_MAX, [&] {
        return std::string(kCache) + ": append: tokens must stay below 2^31; found " +
               std::to_string(state.rows.length());
      });
      std::visit([&](auto& hashed) { hashed.append(state.rows.key(), execution); }, state.hashed);
    } catch (...) {
      state.rows.truncate(length);
      throw;
    }
  });
}

void LshCache::attend(ConstTensorView query, Partial result, const AttentionOptions& attention,
                      const Execution& execution) const {
  const AttentionOptions aligned = compose::aligned_at_end(attention);
  const lsh::CachedKeys cache{key(), value(), vectors_of(state_->query_key)};
  std::visit(
      [&](const auto& hashed) {
        lsh::attend_cached(query, cache, hashed, result, state_->options, aligned, execution);
      },
      state_->hashed);
}

void LshCache::truncate(std::int64_t length) {
  state_->rows.truncate(length);
  std::visit([&](auto& hashed) { hashed.truncate(length); }, state_->hashed);
}

void LshCache::reorder(std::span<const std::int64_t> indices) {
  reporting_memory("reorder", [&] {
    compose::CachedRows rows = state_->rows.reordered(indices);
    State::Hashed hashed = std::visit(
        [&](const auto& keys) { return State::Hashed(keys.reordered(indices)); }, state_->hashed);
    state_->rows = std::move(rows);
    state_->hashed = std::move(hashed);
  });
}

std::int64_t LshCache::length() const noexcept { return state_->rows.length(); }
std::int64_t LshCache::capacity() const noexcept { return state_->rows.capacity(); }
std::size_t LshCache::bytes() const noexcept {
  const auto* floats = std::get_if<lsh::HashedKeys<float>>(&state_->hashed);
  const auto* doubles = std::get_if<lsh::HashedKeys<double>>(&state_->hashed);
  return state_->rows.bytes() + (floats != nullptr ? floats->bytes() : doubles->bytes());
}
const KVCacheShape& LshCache::shape() const noexcept { return state_->rows.shape(); }
DType LshCache::dtype() const noexcept { return state_->rows.dtype(); }
QueryKey LshCache::query_key() const noexcept { return state_->query_key; }
const LshOptions& LshCache::options() const noexcept { return state_->options; }
ConstTensorView LshCache::key() const noexcept { return state_->rows.key(); }
ConstTensorView LshCache::value() const noexcept { return state_->rows.value(); }

}  // namespace longspan
