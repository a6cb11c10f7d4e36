// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Tensors that own their memory, in any dtype and any arrangement of strides, and random contents
// for them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "longspan/tensor.h"

namespace longspan::test {

enum class Layout : std::uint8_t {
  kRowMajor,
  kSwapped,    // axes 1 and 2 of rank 4 (and 0, 1 of lower ranks) change places: [batch, heads,
               // seqlen, dim]
  kReversed,   // every stride negative
  kGaps,       // every stride larger than needed, the innermost is 2
  kPaddedRow,  // rows contiguous, with unused elements between them
  kBroadcast,  // stride 0 along the first axis and, at rank 4, along axis 2; for inputs only
};
inline constexpr int kLayouts = 6;
inline constexpr int kOutputLayouts = 5;  // without kBroadcast
const char* name_of(Layout layout) noexcept;

// A seeded source of everything random in the tests.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  std::int64_t between(std::int64_t first, std::int64_t last);  // both included
  bool chance(double probability);
  double normal() { return normal_(engine_); }
  template <class T>
  T choose(std::initializer_list<T> choices) {
    return choices.begin()[between(0, static_cast<std::int64_t>(choices.size()) - 1)];
  }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<double> normal_;
};

class Tensor {
 public:
  Tensor() = default;  // absent
  // `misalignment`: bytes by which the memory misses its 64-byte alignment (rounded to whole
  // elements for none).
  Tensor(DType dtype, const std::vector<std::int64_t>& shape, Layout layout = Layout::kRowMajor,
         std::size_t misalignment = 0);

  TensorView view() noexcept { return view_; }
  ConstTensorView view() const noexcept { return view_; }
  operator TensorView() noexcept { return view_; }  // NOLINT(google-explicit-constructor)
  operator ConstTensorView() const noexcept {
    return view_;
  }  // NOLINT(google-explicit-constructor)

  std::vector<std::int64_t> shape() const {
    return {view_.shape.begin(), view_.shape.begin() + view_.rank};
  }

  // Elements by their row-major number or index; values are rounded to the dtype, ties to even.
  std::int64_t size() const noexcept { return size_; }
  double get(std::int64_t n) const;
  void set(std::int64_t n, double value);
  double get(std::initializer_list<std::int64_t> index) const { return get(number_of(index)); }
  void set(std::initializer_list<std::int64_t> index, double value) {
    set(number_of(index), value);
  }
  std::int64_t number_of(std::initializer_list<std::int64_t> index) const;
  std::vector<double> values() const;

  Tensor& fill(double value);
  Tensor& fill_normal(Random& random, double gain = 1.0);
  Tensor& fill_values(const std::vector<double>& values);

  // False when a byte that belongs to no element was written since the construction.
  bool surroundings_untouched() const;

 private:
  std::byte* element(std::int64_t n) const;

  // Views point into storage_, so it is shared by copies: a Tensor is a handle.
  std::shared_ptr<std::vector<std::byte>> storage_;
  TensorView view_{};
  std::int64_t size_ = 0;
};

// Writes `value` rounded to `dtype` at `at`.
void store_element(std::byte* at, DType dtype, double value);
double rounded_to(DType dtype, double value);

// True when both hold the same bits element by element.
bool same_bits(const Tensor& a, const Tensor& b);

}  // namespace longspan::test
