// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Strides of every layout, canary bytes around the elements, literal rounding to the narrow types.
#include "support/tensor.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "reference/attention_reference.h"

namespace longspan::test {
namespace {

constexpr std::byte kCanary{0xA5};

// Rounds to `mantissa_bits` after the leading one, with subnormals below 2^min_exponent, ties to
// even; past `largest` the result is inf.
double round_to_grid(double value, int mantissa_bits, int min_exponent, double largest) {
  if (!std::isfinite(value) || value == 0.0) return value;
  const int exponent = std::max(std::ilogb(value), min_exponent);
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(value, mantissa_bits - exponent)),
                                    exponent - mantissa_bits);
  if (std::fabs(rounded) > largest) {
    return std::copysign(std::numeric_limits<double>::infinity(), value);
  }
  return rounded;
}

std::uint16_t float16_bits(double value) {
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return 0x7E00;
  const double grid = std::fabs(round_to_grid(value, 10, -14, 65504.0));
  if (std::isinf(grid)) return static_cast<std::uint16_t>(sign | 0x7C00);
  if (grid < 0x1p-14) return static_cast<std::uint16_t>(sign | static_cast<int>(grid * 0x1p24));
  const int exponent = std::ilogb(grid);
  const int mantissa = static_cast<int>(std::ldexp(grid, 10 - exponent)) - 1024;
  return static_cast<std::uint16_t>(sign | ((exponent + 15) << 10) | mantissa);
}

std::uint16_t bfloat16_bits(double value) {
  if (std::isnan(value)) return 0x7FC0;
  const auto grid = static_cast<float>(round_to_grid(value, 7, -126, 0x1.FEp127));
  return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(grid) >> 16);
}

template <class T>
void put(std::byte* at, T element) {
  std::memcpy(at, &element, sizeof(T));
}

}  // namespace

const char* name_of(Layout layout) noexcept {
  constexpr const char* kNames[kLayouts] = {"row-major", "swapped",    "reversed",
                                            "gaps",      "padded-row", "broadcast"};
  return kNames[static_cast<int>(layout)];
}

std::int64_t Random::between(std::int64_t first, std::int64_t last) {
  return std::uniform_int_distribution<std::int64_t>(first, last)(engine_);
}
bool Random::chance(double probability) {
  return std::bernoulli_distribution(probability)(engine_);
}

Tensor::Tensor(DType dtype, const std::vector<std::int64_t>& shape, Layout layout,
               std::size_t misalignment) {
  const int rank = static_cast<int>(shape.size());
  view_.dtype = dtype;
  view_.rank = rank;
  std::copy(shape.begin(), shape.end(), view_.shape.begin());

  std::vector<int> order(rank);  // axes from the outermost in memory to the innermost
  for (int axis = 0; axis < rank; ++axis) order[axis] = axis;
  if (layout == Layout::kSwapped && rank >= 2) {
    std::swap(order[rank == 4 ? 1 : 0], order[rank == 4 ? 2 : 1]);
  }
  std::int64_t step = layout == Layout::kGaps ? 2 : 1;
  for (int place = rank - 1; place >= 0; --place) {
    const int axis = order[place];
    const bool repeated =
        layout == Layout::kBroadcast && rank > 1 && (axis == 0 || (rank == 4 && axis == 2));
    view_.strides[axis] = repeated ? 0 : step;
    if (!repeated) step *= std::max<std::int64_t>(shape[axis], 1);
    if (layout == Layout::kGaps) step += 3;
    if (layout == Layout::kPaddedRow && place == rank - 1) step += 5;
  }
  size_ = 1;
  std::int64_t extent = 1;
  std::int64_t first = 0;
  for (int axis = 0; axis < rank; ++axis) {
    size_ *= shape[axis];
    const std::int64_t reach = std::max<std::int64_t>(shape[axis] - 1, 0) * view_.strides[axis];
    extent += reach;
    if (layout == Layout::kReversed) {
      first += reach;
      view_.strides[axis] = -view_.strides[axis];
    }
  }
  const std::size_t element_size = longspan::size_of(dtype);
  constexpr std::size_t kAlignment = 64;
  storage_ = std::make_shared<std::vector<std::byte>>(
      static_cast<std::size_t>(extent) * element_size + 3 * kAlignment, kCanary);
  const auto address = reinterpret_cast<std::uintptr_t>(storage_->data());
  const std::size_t aligned = (kAlignment - address % kAlignment) % kAlignment + kAlignment;
  view_.data = storage_->data() + aligned +
               misalignment / element_size * element_size % kAlignment +
               static_cast<std::size_t>(first) * element_size;
}

std::int64_t Tensor::number_of(std::initializer_list<std::int64_t> index) const {
  std::int64_t n = 0;
  int axis = 0;
  for (const std::int64_t i : index) n = n * view_.shape[axis++] + i;
  return n;
}

std::byte* Tensor::element(std::int64_t n) const {
  std::int64_t offset = 0;
  for (int axis = view_.rank - 1; axis >= 0; --axis) {
    offset += n % view_.shape[axis] * view_.strides[axis];
    n /= view_.shape[axis];
  }
  return static_cast<std::byte*>(view_.data) +
         offset * static_cast<std::int64_t>(longspan::size_of(view_.dtype));
}

double Tensor::get(std::int64_t n) const {
  ConstTensorView one = view_;
  one.data = element(n);
  return reference::read_element(one, 0);
}

void Tensor::set(std::int64_t n, double value) { store_element(element(n), view_.dtype, value); }

std::vector<double> Tensor::values() const { return reference::read_all(view_); }

Tensor& Tensor::fill(double value) {
  for (std::int64_t n = 0; n < size_; ++n) set(n, value);
  return *this;
}

Tensor& Tensor::fill_normal(Random& random, double gain) {
  for (std::int64_t n = 0; n < size_; ++n) set(n, gain * random.normal());
  return *this;
}

Tensor& Tensor::fill_values(const std::vector<double>& values) {
  for (std::int64_t n = 0; n < size_; ++n) set(n, values[static_cast<std::size_t>(n)]);
  return *this;
}

bool Tensor::surroundings_untouched() const {
  std::vector<bool> owned(storage_->size(), false);
  const std::size_t element_size = longspan::size_of(view_.dtype);
  for (std::int64_t n = 0; n < size_; ++n) {
    const auto begin = static_cast<std::size_t>(element(n) - storage_->data());
    std::fill_n(owned.begin() + static_cast<std::ptrdiff_t>(begin), element_size, true);
  }
  for (std::size_t at = 0; at < owned.size(); ++at) {
    if (!owned[at] && (*storage_)[at] != kCanary) return false;
  }
  return true;
}

void store_element(std::byte* at, DType dtype, double value) {
  switch (dtype) {
    case DType::kFloat32:
      return put(at, static_cast<float>(value));
    case DType::kFloat64:
      return put(at, value);
    case DType::kFloat16:
      return put(at, float16_bits(value));
    case DType::kBFloat16:
      return put(at, bfloat16_bits(value));
    case DType::kInt32:
      return put(at, static_cast<std::int32_t>(value));
    case DType::kInt64:
      return put(at, static_cast<std::int64_t>(value));
    case DType::kBool:
      return put(at, static_cast<std::uint8_t>(value));
  }
}

double rounded_to(DType dtype, double value) {
  std::byte bytes[8];
  store_element(bytes, dtype, value);
  const ConstTensorView one{bytes, dtype, 0, {}, {}};
  return reference::read_element(one, 0);
}

bool same_bits(const Tensor& a, const Tensor& b) {
  if (a.size() != b.size() || a.view().dtype != b.view().dtype) return false;
  const std::vector<double> x = a.values(), y = b.values();  // exact for every dtype
  for (std::size_t n = 0; n < x.size(); ++n) {
    const bool both_nan = std::isnan(x[n]) && std::isnan(y[n]);
    if (!both_nan && std::bit_cast<std::uint64_t>(x[n]) != std::bit_cast<std::uint64_t>(y[n])) {
      return false;
    }
  }
  return true;
}

}  // namespace longspan::test
