// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Exact forward attention in float32 against the multiply-add peak measured in the same run,
// interleaved: each round measures the peak, the unmasked call and the causal call. Answers are
// checked before anything is timed.
//
//   exact_forward [rounds] [kernel]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "fma_peak.h"
#include "longspan/attention.h"

namespace longspan::bench {
namespace {

struct Shape {
  std::int64_t heads, seqlen, head_dim;
};

struct Problem {
  explicit Problem(const Shape& s) : shape(s) {
    std::mt19937_64 engine(1);
    std::normal_distribution<float> normal;
    for (std::vector<float>* x : {&query, &key, &value}) {
      x->resize(static_cast<std::size_t>(s.heads * s.seqlen * s.head_dim));
      for (float& number : *x) number = normal(engine);
    }
    output.resize(query.size());
    lse.resize(static_cast<std::size_t>(s.heads * s.seqlen));
  }
  ConstTensorView view(const std::vector<float>& x) const {
    return tensor(x.data(), {1, shape.seqlen, shape.heads, shape.head_dim});
  }
  void run(bool is_causal, const Execution& execution) {
    AttentionOptions options;
    if (is_causal) options.mask = causal();
    attention(view(query), view(key), view(value),
              {tensor(output.data(), {1, shape.seqlen, shape.heads, shape.head_dim}),
               tensor(lse.data(), {1, shape.heads, shape.seqlen})},
              options, execution);
  }
  // Relative L2 error of 32 rows against a literal computation in float64.
  double error(bool is_causal) const {
    double delta = 0;
    double norm = 0;
    const std::int64_t d = shape.head_dim;
    for (int n = 0; n < 32; ++n) {
      const std::int64_t i = (n * 2654435761LL + n) % shape.seqlen;
      const std::int64_t h = n % shape.heads;
      const auto row = [&](const std::vector<float>& x, std::int64_t at) {
        return x.data() + (at * shape.heads + h) * d;
      };
      std::vector<double> sum(static_cast<std::size_t>(d));
      double total = 0;
      for (std::int64_t j = 0; j < (is_causal ? i + 1 : shape.seqlen); ++j) {
        double score = 0;
        for (std::int64_t c = 0; c < d; ++c) score += double{row(query, i)[c]} * row(key, j)[c];
        const double weight = std::exp(score / std::sqrt(static_cast<double>(d)));
        total += weight;
        for (std::int64_t c = 0; c < d; ++c)
          sum[static_cast<std::size_t>(c)] += weight * row(value, j)[c];
      }
      for (std::int64_t c = 0; c < d; ++c) {
        const double truth = sum[static_cast<std::size_t>(c)] / total;
        const double off = row(output, i)[c] - truth;
        delta += off * off;
        norm += truth * truth;
      }
    }
    return std::sqrt(delta / norm);
  }

  Shape shape;
  std::vector<float> query, key, value, output, lse;
};

double seconds(const auto& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

bool measure(const Shape& shape, const std::string& kernel, int rounds) {
  Problem problem(shape);
  Execution execution;
  execution.kernel = kernel;
  const int threads = available_threads();
  double worst = 0;
  for (const bool is_causal : {false, true}) {
    problem.run(is_causal, execution);
    worst = std::max(worst, problem.error(is_causal));
  }
  if (!(worst <= 2e-6)) {
    std::printf("%s: wrong answer, relative error %.2g\n", kernel.c_str(), worst);
    return false;
  }
  const double flop =
      4.0 * static_cast<double>(shape.heads * shape.seqlen * shape.seqlen * shape.head_dim);
  std::vector<double> peaks;
  std::vector<double> rates;
  std::vector<double> shares;
  std::vector<double> causal_ratios;
  for (int n = 0; n < rounds; ++n) {
    const double peak = fma_peak(kernel, threads);
    const double plain = seconds([&] { problem.run(false, execution); });
    const double masked = seconds([&] { problem.run(true, execution); });
    peaks.push_back(peak);
    rates.push_back(flop / plain);
    shares.push_back(peak > 0 ? flop / plain / peak : 0);
    causal_ratios.push_back(masked / plain);
  }
  std::printf(
      "| %-5s | %lld x %lld, d %lld | %d | %.0f | %.0f | %.1f %% | %.1f %% | %.3f | %.1e |\n",
      kernel.c_str(), static_cast<long long>(shape.heads), static_cast<long long>(shape.seqlen),
      static_cast<long long>(shape.head_dim), threads, median(peaks) * 1e-9, median(rates) * 1e-9,
      100 * median(shares), 100 * *std::max_element(shares.begin(), shares.end()),
      median(causal_ratios), worst);
  std::fflush(stdout);
  return true;
}

int run(int argc, char** argv) {
  const int rounds = argc > 1 ? std::max(1, std::atoi(argv[1])) : 15;
  std::printf(
      "| kernel | heads x tokens | threads | peak GFLOP/s | GFLOP/s | of peak, median | best | "
      "causal / plain time | "
      "error |\n|---|---|---|---|---|---|---|---|---|\n");
  bool good = true;
  for (const KernelInfo& kernel : kernels()) {
    if (!kernel.usable || kernel.name == "scalar") continue;
    if (argc > 2 && kernel.name != argv[2]) continue;
    const bool best = kernel.name == "avx3" || kernel.name == "avx2";
    for (const Shape& shape : {Shape{8, 4096, 64}, Shape{8, 4096, 128}, Shape{1, 16384, 64}}) {
      if (!best && shape.head_dim > 64) continue;
      good = measure(shape, kernel.name, rounds) && good;
    }
  }
  return good ? 0 : 1;
}

}  // namespace
}  // namespace longspan::bench

int main(int argc, char** argv) { return longspan::bench::run(argc, argv); }
