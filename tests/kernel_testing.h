// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// A panel of random queries, blocks of random keys, and what a kernel must make of them, literally
// in float64.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <numbers>
#include <span>
#include <type_traits>
#include <vector>

#include "base/float16.h"
#include "kernels/kernel_table.h"
#include "kernels/registry.h"
#include "support/tensor.h"
#include "twins/twin.h"

namespace longspan::kernel {

inline constexpr double kInf = std::numeric_limits<double>::infinity();
inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Memory as kernels ask for it, without a byte to spare behind it.
template <class T>
struct LineAllocator {
  using value_type = T;
  T* allocate(std::size_t count) {
    return static_cast<T*>(::operator new (count * sizeof(T), std::align_val_t{64}));
  }
  void deallocate(T* p, std::size_t) noexcept { ::operator delete (p, std::align_val_t{64}); }
  bool operator==(const LineAllocator&) const = default;
};
template <class T>
using Lines = std::vector<T, LineAllocator<T>>;

inline std::size_t at(std::int64_t n) { return static_cast<std::size_t>(n); }

inline std::uint64_t random_bits(test::Random& random) {
  return static_cast<std::uint64_t>(random.between(0, 0xFFFFFFFF)) << 32 |
         static_cast<std::uint64_t>(random.between(0, 0xFFFFFFFF));
}

// Calls test(table, vectors) for every kernel that runs here and for the twins of those that may
// not, all types, every width of a panel.
template <class Test>
void for_each_panel(const Test& test) {
  longspan::test::twin_kernels();
  for (const Kernel& kernel : all_kernels()) {
    if (!kernel.usable()) continue;
    const auto each = [&](const auto& table, const char* type) {
      for (int vectors = 1; vectors <= table.vectors; ++vectors) {
        SCOPED_TRACE(testing::Message()
                     << kernel.name << ", " << type << ", " << vectors << " vectors");
        test(table, vectors);
      }
    };
    if (kernel.bfloat16.format.dtype == DType::kBFloat16) {
      each(kernel.bfloat16, "bfloat16");  // its other tables are those of another kernel
    } else {
      each(kernel.float32, "float32");
      each(kernel.float64, "float64");
    }
  }
}

// What is left of a number in an operand.
template <class T>
double operand(const KernelTable<T>& table, T x) {
  if (table.format.dtype != DType::kBFloat16) return static_cast<double>(x);
  return base::to_float(base::from_float<base::BFloat16>(static_cast<float>(x)));
}

// Probabilities may be rounded to 8 bits before they meet their values.
template <class T>
double probability_rounding(const KernelTable<T>& table) {
  return table.format.dtype == DType::kBFloat16 ? 0x1p-8 : 0.0;
}

// Numbers as the operands of a kernel are packed from.
template <class T>
struct Stored {
  Stored(const KernelTable<T>& table, const T* numbers, std::size_t count)
      : dtype(table.format.dtype), data(numbers) {
    if (dtype != DType::kBFloat16) return;
    narrow.reserve(count);
    for (std::size_t n = 0; n < count; ++n) {
      narrow.push_back(base::from_float<base::BFloat16>(static_cast<float>(numbers[n])));
    }
    data = narrow.data();
  }
  base::RowSource rows(std::int64_t row_stride, std::int64_t dim_stride) const {
    return {data, dtype, row_stride, dim_stride};
  }
  DType dtype;
  const void* data;
  std::vector<base::BFloat16> narrow;
};

// Scratch that holds NaN.
inline Lines<std::byte> spoilt(std::int64_t bytes) {
  return Lines<std::byte>(at(bytes), std::byte{0xFF});
}

template <class T>
struct State {
  Lines<T> reference, sum, numerator;
  State(std::int64_t width, std::int64_t dim)
      : reference(at(width), -std::numeric_limits<T>::infinity()),
        sum(at(width), T{0}),
        numerator(at(width * dim), T{0}) {}
  PanelState<T> view() { return {reference.data(), sum.data(), numerator.data()}; }
};

struct Terms {
  double softcap = 0;
  bool has_bias = false;
  double alibi_slope = 0;  // 0: none
};
struct KeyOptions {
  std::int64_t gap = 0;  // elements between rows
  double gain = 1;       // of the keys
};

template <class T>
struct Panel;

template <class T>
struct KeyBlock {
  KeyBlock(const Panel<T>& panel, std::int64_t count, test::Random& random,
           const KeyOptions& options = {});
  void fill_key(std::int64_t k, double x) {
    std::fill_n(key.begin() + k * key_stride, head_dim, static_cast<T>(x));
  }
  void fill_value(std::int64_t k, double x) {
    std::fill_n(value.begin() + k * value_stride, head_dim_v, static_cast<T>(x));
  }
  bool sees(std::int64_t k, std::int64_t lane) const {
    return words.empty() || (words[at(k)] >> lane & 1) != 0;
  }

  std::int64_t keys, head_dim, head_dim_v, key_stride, value_stride;
  std::vector<T> key, value;
  std::vector<std::uint64_t> words;  // empty: all are visible
  Lines<T> bias;
  std::vector<T> positions;
};

// What a lane should hold, literally; `magnitude` bounds the terms that a score is summed from, and
// so its rounding.
struct LaneTruth {
  double maximum = -kInf, sum = 0, magnitude = 0;  // of the scores in base 2; the sum is relative
  std::vector<double> output, absolute;            // sum of p v and p |v|, over the sum
};

template <class T>
struct Panel {
  Panel(const KernelTable<T>& kernel_table, int vectors_, std::int64_t dim, std::int64_t dim_v,
        test::Random& random)
      : table(&kernel_table),
        vectors(vectors_),
        width(std::int64_t{kernel_table.lanes} * vectors_),
        head_dim(dim),
        head_dim_v(dim_v),
        scale(static_cast<T>(1 / std::sqrt(static_cast<double>(dim)))),
        exponent_scale(static_cast<T>(static_cast<double>(scale) * std::numbers::log2e)),
        query(at(dim * width)),
        positions(at(width)),
        state(width, dim_v) {
    for (T& x : query) x = static_cast<T>(random.normal());
    for (T& x : positions) x = static_cast<T>(random.between(-50, 150));
  }
  void set_terms(const Terms& wanted) {
    terms = wanted;
    has_terms = true;
    exponent_scale = static_cast<T>(std::numbers::log2e);
  }
  void reset() {
    state = State<T>(width, head_dim_v);
    fresh = true;
  }

  // True when the kernel took its slow path.
  bool meet(const KeyBlock<T>& keys) {
    const OperandFormat& format = table->format;
    const Stored<T> key_numbers(*table, keys.key.data(), keys.key.size());
    const Stored<T> value_numbers(*table, keys.value.data(), keys.value.size());
    if (format.reads_rows) {
      return meet(keys, {keys.key.data(), keys.key_stride, 0},
                  {keys.value.data(), keys.value_stride, format.row_multiple});
    }
    Lines<std::byte> key = spoilt(format.rows_bytes(keys.keys, head_dim));
    Lines<std::byte> value = spoilt(format.rows_bytes(head_dim_v, keys.keys));
    return meet(
        keys,
        table->pack_keys(key_numbers.rows(keys.key_stride, 1), 0, keys.keys, head_dim, key.data()),
        table->pack_values(value_numbers.rows(keys.value_stride, 1), 0, keys.keys, head_dim_v,
                           value.data()));
  }
  bool meet(const KeyBlock<T>& keys, const OperandRows& packed_key, const OperandRows& packed_value,
            std::int64_t first_key = 0) {
    const OperandFormat& format = table->format;
    // Scratch holds anything before.
    Lines<T> scores(at(format.rows(keys.keys) * width), std::numeric_limits<T>::quiet_NaN());
    Lines<std::byte> probabilities = spoilt(format.panel_bytes(keys.keys, width));
    Lines<std::byte> packed_query = spoilt(format.panel_bytes(head_dim, width));
    table->pack_query(Stored<T>(*table, query.data(), query.size()).rows(1, width), 0, width,
                      head_dim, width, packed_query.data());
    ScoreTerms<T> score_terms;
    score_terms.softcap = static_cast<T>(terms.softcap);
    if (terms.softcap > 0) score_terms.softcap_inverse = static_cast<T>(1 / terms.softcap);
    if (terms.has_bias) score_terms.bias = keys.bias.data();
    if (terms.alibi_slope != 0) {
      score_terms.alibi_slope = static_cast<T>(terms.alibi_slope);
      score_terms.query_positions = positions.data();
      score_terms.key_positions = keys.positions.data();
    }
    ForwardBlock<T> block;
    block.query = packed_query.data();
    block.key = packed_key;
    block.value = packed_value;
    block.first_key = first_key;
    block.keys = keys.keys;
    block.head_dim = head_dim;
    block.head_dim_v = head_dim_v;
    block.scale = scale;
    block.exponent_scale = exponent_scale;
    if (!keys.words.empty()) block.visible = keys.words.data();
    if (has_terms) block.terms = &score_terms;
    block.exact_reference = exact_reference;
    block.skip_hidden_values = skip_hidden_values;
    block.fresh = fresh;
    block.scores = scores.data();
    block.probabilities = probabilities.data();
    block.state = state.view();
    fresh = false;
    return table->forward_block[vectors - 1](block);
  }

  double lse2(std::int64_t lane) const {
    return static_cast<double>(state.reference[at(lane)]) +
           std::log2(static_cast<double>(state.sum[at(lane)]));
  }
  double output(std::int64_t lane, std::int64_t d) const {
    return static_cast<double>(state.numerator[at(d * width + lane)]) /
           static_cast<double>(state.sum[at(lane)]);
  }

  bool same_lane(const Panel& other, std::int64_t lane) const {
    const auto same = [](T a, T b) { return std::memcmp(&a, &b, sizeof(T)) == 0; };
    bool all = same(state.reference[at(lane)], other.state.reference[at(lane)]) &&
               same(state.sum[at(lane)], other.state.sum[at(lane)]);
    for (std::int64_t d = 0; d < head_dim_v; ++d) {
      const std::size_t n = at(d * width + lane);
      all = all && same(state.numerator[n], other.state.numerator[n]);
    }
    return all;
  }
  // Bit by bit, all lanes but one.
  bool same_state(const Panel& other, std::int64_t except = -1) const {
    bool all = true;
    for (std::int64_t lane = 0; lane < width; ++lane) {
      all = all && (lane == except || same_lane(other, lane));
    }
    return all;
  }

  struct Score {
    double value, magnitude;
  };
  Score score(const KeyBlock<T>& keys, std::int64_t k, std::int64_t lane) const {
    double dot = 0, size = 0;
    for (std::int64_t d = 0; d < head_dim; ++d) {
      const double product = operand(*table, query[at(d * width + lane)]) *
                             operand(*table, keys.key[at(k * keys.key_stride + d)]);
      dot += product;
      size += std::abs(product);
    }
    const auto factor = static_cast<double>(exponent_scale);
    if (!has_terms) return {dot * factor, size * factor};
    double s = dot * static_cast<double>(scale);
    size *= static_cast<double>(scale);
    if (terms.softcap > 0) {
      s = terms.softcap * std::tanh(s / terms.softcap);
      size += terms.softcap;
    }
    const auto add = [&](double term) {
      s += term;
      size += std::abs(term);
    };
    if (terms.has_bias) add(static_cast<double>(keys.bias[at(k * width + lane)]));
    if (terms.alibi_slope != 0) {
      add(-terms.alibi_slope *
          std::abs(static_cast<double>(positions[at(lane)] - keys.positions[at(k)])));
    }
    return {s * factor, size * factor};
  }

  LaneTruth truth(std::span<const KeyBlock<T>> blocks, std::int64_t lane) const {
    LaneTruth t;
    t.output.assign(at(head_dim_v), 0.0);
    t.absolute = t.output;
    std::vector<double> scores;
    for (const KeyBlock<T>& keys : blocks) {
      for (std::int64_t k = 0; k < keys.keys; ++k) {
        if (!keys.sees(k, lane)) continue;
        const Score s = score(keys, k, lane);
        scores.push_back(s.value);
        t.maximum = std::max(t.maximum, s.value);
        t.magnitude = std::max(t.magnitude, s.magnitude);
      }
    }
    auto s = scores.begin();
    for (const KeyBlock<T>& keys : blocks) {
      for (std::int64_t k = 0; k < keys.keys; ++k) {
        if (!keys.sees(k, lane)) continue;
        const double p = std::exp2(*s++ - t.maximum);
        t.sum += p;
        for (std::int64_t d = 0; d < head_dim_v; ++d) {
          const double v = operand(*table, keys.value[at(k * keys.value_stride + d)]);
          t.output[at(d)] += p * v;
          t.absolute[at(d)] += p * std::abs(v);
        }
      }
    }
    for (double& x : t.output) x /= t.sum;
    for (double& x : t.absolute) x /= t.sum;
    return t;
  }

  // Summaries as a whole, since the reference is the kernel's to choose. The error of a probability
  // is that of its score, which is relative to the terms that the score is summed from.
  testing::AssertionResult agrees_with(std::span<const KeyBlock<T>> blocks) const {
    for (std::int64_t lane = 0; lane < width; ++lane) {
      const LaneTruth t = truth(blocks, lane);
      if (t.sum == 0) {
        if (state.sum[at(lane)] == 0 && lse2(lane) == -kInf) continue;
        return testing::AssertionFailure() << "lane " << lane << " sees no key, has " << lse2(lane);
      }
      const double epsilon = static_cast<double>(std::numeric_limits<T>::epsilon());
      const double relative = epsilon * (16 + 2 * t.magnitude);
      const double lse_error = std::abs(lse2(lane) - (t.maximum + std::log2(t.sum)));
      if (!(lse_error <= relative)) {
        return testing::AssertionFailure()
               << "lane " << lane << ": lse is wrong by " << lse_error << " > " << relative;
      }
      for (std::int64_t d = 0; d < head_dim_v; ++d) {
        const double error = std::abs(output(lane, d) - t.output[at(d)]);
        const double allowed = (relative + probability_rounding(*table)) * t.absolute[at(d)];
        if (!(error <= allowed)) {
          return testing::AssertionFailure()
                 << "lane " << lane << ", component " << d << ": " << output(lane, d) << " is not "
                 << t.output[at(d)] << " within " << allowed;
        }
      }
    }
    return testing::AssertionSuccess();
  }

  const KernelTable<T>* table;
  int vectors;
  std::int64_t width, head_dim, head_dim_v;
  T scale, exponent_scale;
  bool exact_reference = false, skip_hidden_values = false, has_terms = false, fresh = true;
  Terms terms;
  Lines<T> query, positions;
  State<T> state;
};

template <class T>
KeyBlock<T>::KeyBlock(const Panel<T>& panel, std::int64_t count, test::Random& random,
                      const KeyOptions& options)
    : keys(count),
      head_dim(panel.head_dim),
      head_dim_v(panel.head_dim_v),
      key_stride(head_dim + options.gap),
      value_stride(head_dim_v + 2 * options.gap),
      // The last row ends where its last component does; NaN between the rows.
      key(at((count - 1) * key_stride + head_dim), std::numeric_limits<T>::quiet_NaN()),
      value(at((count - 1) * value_stride + head_dim_v), std::numeric_limits<T>::quiet_NaN()),
      bias(at(count * panel.width)),
      positions(at(count)) {
  for (std::int64_t k = 0; k < count; ++k) {
    for (std::int64_t d = 0; d < head_dim; ++d) {
      key[at(k * key_stride + d)] = static_cast<T>(options.gain * random.normal());
    }
    for (std::int64_t d = 0; d < head_dim_v; ++d) {
      value[at(k * value_stride + d)] = static_cast<T>(random.normal());
    }
    positions[at(k)] = static_cast<T>(k);
  }
  for (T& x : bias) x = static_cast<T>(random.normal());
}

}  // namespace longspan::kernel
