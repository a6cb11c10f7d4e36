// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// A made-up attention problem whose answer can be checked: used by doctor's self-test and by bench.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "longspan/attention.h"
#include "tensor_file.h"

namespace longspan::cli {

struct SampleShape {
  std::int64_t batch = 1, seqlen_q = 0, seqlen_k = 0, num_heads = 1, num_heads_kv = 1,
               head_dim = 64, head_dim_v = 64;
  DType dtype = DType::kFloat32;
  bool causal = false;
  std::optional<std::pair<std::int64_t, std::int64_t>> window;

  std::uint64_t input_bytes() const;
  std::uint64_t output_bytes() const;
  AttentionOptions options() const;
  AttentionPlan plan(const Execution& execution) const;  // no tensor is made
};

// How far the answer is from one computed literally in float64; `within` is false for NaN.
struct SampleError {
  double output_rel_l2 = 0;
  double lse_abs = 0;
  bool within = false;
};

class Sample {
 public:
  explicit Sample(const SampleShape& shape);  // inputs about N(0, 1), always the same

  ConstTensorView query() const { return query_.view; }
  ConstTensorView key() const { return key_.view; }
  ConstTensorView value() const { return value_.view; }
  Partial result() const { return {output_.view, lse_.view}; }
  AttentionOptions options() const { return shape_.options(); }

  // Compares `rows` rows of the result, spread over batch, heads and queries; all of them when rows
  // is 0.
  SampleError check(std::int64_t rows) const;

 private:
  struct RowError {
    double delta_squares = 0, reference_squares = 0, lse_abs = 0, lse_share = 0;
  };
  RowError check_row(std::int64_t batch, std::int64_t head, std::int64_t query) const;
  bool sees(std::int64_t query, std::int64_t key) const;

  SampleShape shape_;
  OwnedTensor query_, key_, value_, output_, lse_;
};

// "f32", "f64", "f16", "bf16"
std::optional<DType> parse_dtype(const std::string& text);
const char* short_name(DType dtype);

}  // namespace longspan::cli
