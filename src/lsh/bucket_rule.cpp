// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The automatic number of buckets, and the checks of a given one.
#include "lsh/bucket_rule.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "base/round.h"

namespace longspan {
namespace lsh {

BucketFactors bucket_factors(const std::string& function, const LshOptions& options,
                             std::int64_t seqlen_k) {
  BucketFactors result;
  result.factors = options.num_buckets.empty() ? choose_num_buckets(seqlen_k, options.chunk_len)
                                               : options.num_buckets;
  for (const std::int64_t factor : result.factors) {
    base::require(factor >= 2 && factor % 2 == 0, [&] {
      return function + ": num_buckets must be even numbers, each at least 2; found " +
             std::to_string(factor);
    });
    base::require(factor <= kMostBuckets / result.buckets, [&] {
      std::string text = function + ": the product of num_buckets must be at most " +
                         std::to_string(kMostBuckets) + "; found";
      for (const std::int64_t& f : result.factors) {
        text.append(&f == result.factors.data() ? " " : " x ").append(std::to_string(f));
      }
      return text;
    });
    result.buckets *= factor;
    result.columns += factor / 2;
  }
  return result;
}

}  // namespace lsh

std::vector<std::int64_t> choose_num_buckets(std::int64_t seqlen, std::int64_t chunk_len) {
  base::require(seqlen >= 0 && chunk_len >= 1, [&] {
    return "choose_num_buckets: seqlen must not be negative and chunk_len at least 1; found " +
           std::to_string(seqlen) + " and " + std::to_string(chunk_len);
  });
  // seqlen / chunk_len buckets fill a chunk each; twice as many, at most 2^30, is the rule.
  const auto chunks = static_cast<std::uint64_t>(std::max<std::int64_t>(1, seqlen / chunk_len));
  const std::int64_t bits =
      std::min(static_cast<std::int64_t>(std::bit_width(chunks)), std::int64_t{30});
  constexpr std::int64_t kFactorBits = 5;  // 32
  const std::int64_t count = base::ceil_div(bits, kFactorBits);
  std::vector<std::int64_t> factors;
  factors.reserve(static_cast<std::size_t>(count));
  for (std::int64_t n = 0; n < count; ++n) {
    factors.push_back(std::int64_t{1} << (bits + n) / count);  // sums to `bits`, never decreasing
  }
  return factors;
}

}  // namespace longspan
