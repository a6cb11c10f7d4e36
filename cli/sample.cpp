// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Made-up inputs and the literal answer.
#include "sample.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "base/visit_dtype.h"

namespace longspan::cli {
namespace {

constexpr std::array<std::pair<const char*, DType>, 4> kDTypes = {{{"f32", DType::kFloat32},
                                                                   {"f64", DType::kFloat64},
                                                                   {"f16", DType::kFloat16},
                                                                   {"bf16", DType::kBFloat16}}};

// What the library promises for inputs like these (docs/command-line.md).
struct Tolerance {
  double output_rel_l2, lse_abs, lse_rel;
};
Tolerance tolerance_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return {1e-13, 1e-13, 2e-14};
    case DType::kFloat16:
      return {5e-4, 1e-5, 1e-6};
    case DType::kBFloat16:
      return {4e-3, 2e-4, 1e-6};
    default:
      return {2e-6, 2e-6, 1e-6};
  }
}

std::uint64_t next_random(std::uint64_t& state) {  // splitmix64
  std::uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// The sum of four uniform numbers of variance 1/12 each, scaled to variance 1: close enough to a
// normal number to time, and cheap.
float next_normal(std::uint64_t& state) {
  const std::uint64_t bits = next_random(state);
  const auto sum = static_cast<float>((bits & 0xFFFF) + ((bits >> 16) & 0xFFFF) +
                                      ((bits >> 32) & 0xFFFF) + (bits >> 48));
  return (sum / 65536.0F - 2.0F) * 1.7320508F;
}

OwnedTensor random_tensor(DType dtype, const std::vector<std::int64_t>& shape, std::uint64_t seed) {
  OwnedTensor tensor = make_tensor(dtype, shape);
  const std::int64_t count = element_count(tensor.view);
  base::visit_floating(dtype, [&](auto tag) {
    using Element = decltype(tag);
    auto* data = static_cast<Element*>(tensor.view.data);
    for (std::int64_t n = 0; n < count; ++n) data[n] = base::from_float<Element>(next_normal(seed));
  });
  return tensor;
}

double at(const ConstTensorView& view, std::int64_t i, std::int64_t j, std::int64_t k,
          std::int64_t l) {
  return base::load_double(
      view.data, view.dtype,
      i * view.strides[0] + j * view.strides[1] + k * view.strides[2] + l * view.strides[3]);
}

DType lse_dtype(DType dtype) { return dtype == DType::kFloat64 ? dtype : DType::kFloat32; }

std::uint64_t saturated(double bytes) {
  return static_cast<std::uint64_t>(std::min(bytes, 0x1p60));
}

}  // namespace

std::optional<DType> parse_dtype(const std::string& text) {
  for (const auto& [name, dtype] : kDTypes) {
    if (text == name) return dtype;
  }
  return std::nullopt;
}

const char* short_name(DType dtype) {
  for (const auto& [name, each] : kDTypes) {
    if (dtype == each) return name;
  }
  return "?";
}

// In float64, which cannot overflow: sizes come from options, and what is absurd is refused for its
// memory.
std::uint64_t SampleShape::input_bytes() const {
  const double per_entry =
      static_cast<double>(seqlen_q) * static_cast<double>(num_heads * head_dim) +
      static_cast<double>(seqlen_k) * static_cast<double>(num_heads_kv * (head_dim + head_dim_v));
  return saturated(static_cast<double>(batch) * per_entry * static_cast<double>(size_of(dtype)));
}

std::uint64_t SampleShape::output_bytes() const {
  const double rows =
      static_cast<double>(batch) * static_cast<double>(seqlen_q) * static_cast<double>(num_heads);
  return saturated(rows *
                   static_cast<double>(static_cast<std::size_t>(head_dim_v) * size_of(dtype) +
                                       size_of(lse_dtype(dtype))));
}

AttentionOptions SampleShape::options() const {
  AttentionOptions options;
  options.query_offset = QueryOffset::end();
  if (causal) options.mask = options.mask & longspan::causal();
  if (window) options.mask = options.mask & longspan::window(window->first, window->second);
  return options;
}

AttentionPlan SampleShape::plan(const Execution& execution) const {
  const auto view = [&](std::int64_t seqlen, std::int64_t heads, std::int64_t dim) {
    return view_of({"sample", io::stored_type_of(dtype), {batch, seqlen, heads, dim}, 0, 0},
                   not_loaded());
  };
  return plan_attention(view(seqlen_q, num_heads, head_dim), view(seqlen_k, num_heads_kv, head_dim),
                        view(seqlen_k, num_heads_kv, head_dim_v), options(), execution);
}

Sample::Sample(const SampleShape& shape)
    : shape_(shape),
      query_(random_tensor(shape.dtype,
                           {shape.batch, shape.seqlen_q, shape.num_heads, shape.head_dim}, 1)),
      key_(random_tensor(shape.dtype,
                         {shape.batch, shape.seqlen_k, shape.num_heads_kv, shape.head_dim}, 2)),
      value_(random_tensor(shape.dtype,
                           {shape.batch, shape.seqlen_k, shape.num_heads_kv, shape.head_dim_v}, 3)),
      output_(make_tensor(shape.dtype,
                          {shape.batch, shape.seqlen_q, shape.num_heads, shape.head_dim_v})),
      lse_(make_tensor(lse_dtype(shape.dtype), {shape.batch, shape.num_heads, shape.seqlen_q})) {}

bool Sample::sees(std::int64_t query, std::int64_t key) const {
  const std::int64_t position = query + shape_.seqlen_k - shape_.seqlen_q;
  if (shape_.causal && key > position) return false;
  if (!shape_.window) return true;
  const auto [left, right] = *shape_.window;
  return (left < 0 || key >= position - left) && (right < 0 || key <= position + right);
}

Sample::RowError Sample::check_row(std::int64_t batch, std::int64_t head,
                                   std::int64_t query) const {
  const std::int64_t head_kv = head / (shape_.num_heads / shape_.num_heads_kv);
  std::vector<double> scores(static_cast<std::size_t>(shape_.seqlen_k), -HUGE_VAL);
  double most = -HUGE_VAL;
  for (std::int64_t j = 0; j < shape_.seqlen_k; ++j) {
    if (!sees(query, j)) continue;
    double dot = 0;
    for (std::int64_t d = 0; d < shape_.head_dim; ++d) {
      dot += at(query_.view, batch, query, head, d) * at(key_.view, batch, j, head_kv, d);
    }
    scores[static_cast<std::size_t>(j)] = dot / std::sqrt(static_cast<double>(shape_.head_dim));
    most = std::max(most, scores[static_cast<std::size_t>(j)]);
  }
  double sum = 0;
  std::vector<double> expected(static_cast<std::size_t>(shape_.head_dim_v), 0.0);
  for (std::int64_t j = 0; j < shape_.seqlen_k && most > -HUGE_VAL; ++j) {
    const double weight = std::exp(scores[static_cast<std::size_t>(j)] - most);
    if (weight == 0) continue;
    sum += weight;
    for (std::int64_t d = 0; d < shape_.head_dim_v; ++d) {
      expected[static_cast<std::size_t>(d)] += weight * at(value_.view, batch, j, head_kv, d);
    }
  }
  RowError error;
  for (std::int64_t d = 0; d < shape_.head_dim_v; ++d) {
    const double reference = sum > 0 ? expected[static_cast<std::size_t>(d)] / sum : 0;
    const double delta = at(output_.view, batch, query, head, d) - reference;
    error.delta_squares += delta * delta;
    error.reference_squares += reference * reference;
  }
  const double lse = base::load_double(lse_.view.data, lse_.view.dtype,
                                       (batch * shape_.num_heads + head) * shape_.seqlen_q + query);
  const double expected_lse = sum > 0 ? most + std::log(sum) : -HUGE_VAL;
  if (lse != expected_lse) {  // also when both are -inf there is nothing to subtract
    const Tolerance tolerance = tolerance_of(shape_.dtype);
    error.lse_abs = std::abs(lse - expected_lse);
    error.lse_share =
        error.lse_abs / (tolerance.lse_abs + tolerance.lse_rel * std::abs(expected_lse));
  }
  return error;
}

SampleError Sample::check(std::int64_t rows) const {
  const std::int64_t all = shape_.batch * shape_.num_heads * shape_.seqlen_q;
  const std::int64_t count = rows > 0 ? std::min(rows, all) : all;
  double delta_squares = 0, reference_squares = 0;
  SampleError error;
  bool within = true;
  for (std::int64_t n = 0; n < count; ++n) {
    // Evenly spread, the first and the last among them.
    const std::int64_t row = count > 1 ? static_cast<std::int64_t>(static_cast<double>(n) *
                                                                   static_cast<double>(all - 1) /
                                                                   static_cast<double>(count - 1))
                                       : all - 1;
    const std::int64_t query = row % shape_.seqlen_q, plane = row / shape_.seqlen_q;
    const RowError one = check_row(plane / shape_.num_heads, plane % shape_.num_heads, query);
    delta_squares += one.delta_squares;
    reference_squares += one.reference_squares;
    within = within && one.lse_share <= 1;  // false for NaN
    if (!(one.lse_abs <= error.lse_abs)) error.lse_abs = one.lse_abs;
  }
  error.output_rel_l2 = delta_squares == 0 ? 0 : std::sqrt(delta_squares / reference_squares);
  error.within = within && error.output_rel_l2 <= tolerance_of(shape_.dtype).output_rel_l2;
  return error;
}

}  // namespace longspan::cli
