// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Attention of which only the scores are wanted.
#include "explain/products.h"

#include "exact/recorded_attention.h"
#include "longspan/attention.h"

namespace longspan::explain {
namespace {

class Scores : public engine::Recorder {
 public:
  Scores(std::int64_t m, std::int64_t n)
      : n_(static_cast<std::size_t>(n)), numbers(static_cast<std::size_t>(m) * n_) {}
  void tile(const engine::RecordedTile& tile) override {
    std::size_t next = 0;
    for (const std::int64_t query : tile.queries) {
      for (const std::int64_t key : tile.keys) {
        numbers[static_cast<std::size_t>(query) * n_ + static_cast<std::size_t>(key)] =
            tile.scores[next++];
      }
    }
  }
  void part(const engine::RecordedRows&) override {}
  void total(const engine::RecordedRows&) override {}

 private:
  std::size_t n_;

 public:
  std::vector<double> numbers;
};

}  // namespace

std::vector<double> products(const std::vector<double>& a, const std::vector<double>& b,
                             std::int64_t dim) {
  const auto m = static_cast<std::int64_t>(a.size()) / dim,
             n = static_cast<std::int64_t>(b.size()) / dim;
  const std::vector<double> no_value(static_cast<std::size_t>(n));
  std::vector<double> output(static_cast<std::size_t>(m));
  Scores scores(m, n);
  AttentionOptions options;
  options.scale = 1;
  exact::record_attention(
      tensor(static_cast<const void*>(a.data()), DType::kFloat64, {m, dim}),
      tensor(static_cast<const void*>(b.data()), DType::kFloat64, {n, dim}),
      tensor(static_cast<const void*>(no_value.data()), DType::kFloat64, {n, 1}),
      {tensor(output.data(), {m, 1}), {}}, options, {}, scores);
  return std::move(scores.numbers);
}

}  // namespace longspan::explain
