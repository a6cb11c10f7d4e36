// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The two matrix products of attention and nothing else, (Q K^T) V, by OpenBLAS in float32: what a
// library of products leaves for everything else. Blocks of scores are small enough for the second
// level cache; each thread takes heads and blocks of queries of its own and calls a single-threaded
// product.
#include <cblas.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "together.h"

extern "C" {

// Rows [seqlen, heads, head_dim] as in shim.cpp, as many keys as queries.
void bench_two_products(std::int64_t seqlen, std::int64_t heads, std::int64_t head_dim,
                        const float* query, const float* key, const float* value, float* output,
                        std::int64_t query_block, std::int64_t key_block, std::int32_t threads) {
  openblas_set_num_threads(1);
  const auto dim = static_cast<blasint>(head_dim);
  const auto stride = static_cast<blasint>(heads * head_dim);
  const std::int64_t blocks = (seqlen + query_block - 1) / query_block;
  std::atomic<std::int64_t> next{0};
  longspan::bench::run_together(threads, [&](int) {
    std::vector<float> scores(static_cast<std::size_t>(query_block * key_block));
    for (std::int64_t task = next++; task < heads * blocks; task = next++) {
      const std::int64_t column = task / blocks * head_dim;
      const std::int64_t i = task % blocks * query_block;
      const auto rows = static_cast<blasint>(std::min(query_block, seqlen - i));
      for (std::int64_t j = 0; j < seqlen; j += key_block) {
        const auto keys = static_cast<blasint>(std::min(key_block, seqlen - j));
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, keys, dim, 1,
                    query + i * stride + column, stride, key + j * stride + column, stride, 0,
                    scores.data(), keys);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, dim, keys, 1, scores.data(),
                    keys, value + j * stride + column, stride, j == 0 ? 0.0F : 1.0F,
                    output + i * stride + column, stride);
      }
    }
  });
}

}  // extern "C"
