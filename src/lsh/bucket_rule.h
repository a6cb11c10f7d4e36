// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// How many buckets a round has, and from which factors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "longspan/lsh_attention.h"

namespace longspan::lsh {

// Buckets and the one for padding are int32 wherever they are computed.
inline constexpr std::int64_t kMostBuckets = INT32_MAX - 1;

struct BucketFactors {
  std::vector<std::int64_t> factors;
  std::int64_t buckets = 1;  // their product; also the number of the bucket for padding
  std::int64_t columns = 0;  // of the rotations: half their sum
};

// options.num_buckets checked, or chosen for so many keys.
BucketFactors bucket_factors(const std::string& function, const LshOptions& options,
                             std::int64_t seqlen_k);

}  // namespace longspan::lsh
