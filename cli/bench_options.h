// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The options of `bench`: lists that expand to all combinations.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "sample.h"

namespace longspan::cli {

struct BenchOptions {
  using Window = std::optional<std::pair<std::int64_t, std::int64_t>>;
  using Numbers = std::vector<std::int64_t>;

  Numbers batch = {1}, seqlen = {1024, 4096}, seqlen_q = {0}, heads = {8}, heads_kv = {0},
          head_dim = {64};
  Numbers causal = {0}, threads = {0};  // 0 threads: all; 0 in seqlen_q and heads_kv: as the other
  std::vector<DType> dtypes = {DType::kFloat32};
  std::vector<Window> windows = {std::nullopt};
  std::vector<std::string> kernels = {""};  // "": the one that is chosen
  std::int64_t repeat = 5, warm_up = 1;
  std::string format = "md";
  bool quiet = false;
};

struct BenchCase {
  SampleShape shape;
  std::string kernel;
  int threads = 0;
};

void add_bench_options(CLI::App& app, BenchOptions& options);
std::vector<BenchCase> expand(const BenchOptions& options);

}  // namespace longspan::cli
