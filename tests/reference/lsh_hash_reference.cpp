// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The hash by its definition: for each factor the products with its columns and their negatives,
// one after the other, and the first of the largest.
#include <algorithm>
#include <cmath>
#include <limits>

#include "reference/attention_reference.h"
#include "reference/lsh_reference.h"

namespace longspan::reference {
namespace {

struct Argmax {
  std::int64_t index = 0;
  double ahead = std::numeric_limits<double>::infinity();
};

Argmax argmax(const std::vector<double>& products) {
  Argmax result;
  double most = products[0];
  for (std::size_t n = 1; n < products.size(); ++n) {
    if (!(products[n] > most)) continue;
    most = products[n];
    result.index = static_cast<std::int64_t>(n);
  }
  for (std::size_t n = 0; n < products.size(); ++n) {
    if (static_cast<std::int64_t>(n) == result.index) continue;
    result.ahead = std::min(result.ahead, most - products[n]);
  }
  return result;
}

}  // namespace

Hashed hash_buckets(const ConstTensorView& vectors, const ConstTensorView& rotations,
                    const std::vector<std::int64_t>& factors) {
  const std::vector<double> x = read_all(vectors), r = read_all(rotations);
  const int s = vectors.rank == 4 ? 1 : 0;
  const std::int64_t batch = vectors.rank == 4 ? vectors.shape[0] : 1, seqlen = vectors.shape[s];
  const std::int64_t heads = vectors.rank >= 3 ? vectors.shape[s + 1] : 1;
  const std::int64_t dim = rotations.shape[1], num_hashes = rotations.shape[2];
  const std::int64_t columns = rotations.shape[3], heads_kv = rotations.shape[0];
  Hashed result;
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t round = 0; round < num_hashes; ++round) {
        for (std::int64_t i = 0; i < seqlen; ++i) {
          const double* vector = &x[((b * seqlen + i) * heads + h) * dim];
          double squares = 0;
          for (std::int64_t d = 0; d < dim; ++d) squares += vector[d] * vector[d];
          std::int64_t bucket = 0, digit = 1, column = 0;
          double gap = std::numeric_limits<double>::infinity();
          for (const std::int64_t factor : factors) {
            std::vector<double> products;
            for (std::int64_t c = column; c < column + factor / 2; ++c) {
              double product = 0;
              for (std::int64_t d = 0; d < dim; ++d) {
                const std::int64_t head_kv = h / (heads / heads_kv);
                product += vector[d] * r[((head_kv * dim + d) * num_hashes + round) * columns + c];
              }
              products.push_back(product);
            }
            for (std::int64_t c = 0; c < factor / 2; ++c) products.push_back(-products[c]);
            const Argmax best = argmax(products);
            bucket += digit * best.index;
            gap = std::min(gap, best.ahead / std::sqrt(squares));
            digit *= factor;
            column += factor / 2;
          }
          result.buckets.push_back(bucket);
          result.gaps.push_back(gap);
        }
      }
    }
  }
  return result;
}

}  // namespace longspan::reference
