// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Reading tensor files for commands.
#include "tensor_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/float16.h"
#include "failure.h"
#include "io/npy.h"
#include "signals.h"

namespace longspan::cli {
namespace {

// E4M3 without infinities (the "fn" variant of safetensors): bias 7, all ones is NaN.
double from_e4m3(std::uint8_t bits) {
  const int exponent = (bits >> 3) & 0xF;
  const int mantissa = bits & 7;
  if (exponent == 15 && mantissa == 7) return std::nan("");
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

template <class Stored, class Number, class Convert>
void convert_all(const std::byte* bytes, std::span<Number> into, Convert convert) {
  for (std::size_t n = 0; n < into.size(); ++n) {
    Stored element;
    std::memcpy(&element, bytes + n * sizeof(Stored), sizeof(Stored));
    into[n] = convert(element);
  }
}

template <class Stored, class Number>
void widen(const std::byte* bytes, std::span<Number> into) {
  convert_all<Stored>(bytes, into, [](Stored x) { return static_cast<Number>(x); });
}

template <class Number>
void to_numbers(io::StoredType type, const std::byte* bytes, std::span<Number> into) {
  using io::StoredType;
  switch (type) {
    case StoredType::kF64:
      return widen<double>(bytes, into);
    case StoredType::kF32:
      return widen<float>(bytes, into);
    case StoredType::kF16:
      return convert_all<base::Float16>(bytes, into, [](auto x) { return base::to_float(x); });
    case StoredType::kBF16:
      return convert_all<base::BFloat16>(bytes, into, [](auto x) { return base::to_float(x); });
    case StoredType::kI64:
      return widen<std::int64_t>(bytes, into);
    case StoredType::kI32:
      return widen<std::int32_t>(bytes, into);
    case StoredType::kI16:
      return widen<std::int16_t>(bytes, into);
    case StoredType::kI8:
      return widen<std::int8_t>(bytes, into);
    case StoredType::kU64:
      return widen<std::uint64_t>(bytes, into);
    case StoredType::kU32:
      return widen<std::uint32_t>(bytes, into);
    case StoredType::kU16:
      return widen<std::uint16_t>(bytes, into);
    case StoredType::kU8:
      return widen<std::uint8_t>(bytes, into);
    case StoredType::kBool:
      return convert_all<std::uint8_t>(bytes, into, [](auto x) { return x != 0 ? 1.0 : 0.0; });
    case StoredType::kF8E4M3:
      return convert_all<std::uint8_t>(bytes, into, from_e4m3);
    case StoredType::kF8E5M2:  // the upper byte of a float16
      return convert_all<std::uint8_t>(bytes, into, [](std::uint8_t x) {
        return base::to_float(base::Float16{static_cast<std::uint16_t>(x << 8)});
      });
  }
}

// Extents need not stay below 2^62 when one of them is 0.
Extents row_major_strides(const ConstTensorView& view) {
  Extents strides{};
  std::int64_t stride = 1;
  const bool empty = element_count(view) == 0;
  for (int axis = view.rank - 1; axis >= 0; --axis) {
    strides[axis] = stride;
    if (!empty) stride *= view.shape[axis];
  }
  return strides;
}

}  // namespace

bool is_npy(const std::string& path) { return path.ends_with(".npy"); }

TensorFile::TensorFile(const std::string& path) {
  if (is_npy(path)) {
    npy_.emplace(path);
    npy_entry_ = io::read_npy_header(path);
  } else {
    safetensors_.emplace(path);
  }
}

std::span<const io::TensorEntry> TensorFile::entries() const noexcept {
  return safetensors_ ? std::span<const io::TensorEntry>(safetensors_->entries())
                      : std::span<const io::TensorEntry>(&npy_entry_, 1);
}

const io::TensorEntry* TensorFile::find(const std::string& name) const noexcept {
  if (safetensors_) return safetensors_->find(name);
  return name.empty() ? &npy_entry_ : nullptr;
}

std::map<std::string, std::string> TensorFile::metadata() const {
  return safetensors_ ? safetensors_->metadata() : std::map<std::string, std::string>{};
}

io::StoredTensor TensorFile::read(const io::TensorEntry& entry) const {
  stop_if_interrupted();
  return safetensors_ ? safetensors_->read(entry) : npy_->read(entry);
}

template <class Number>
void TensorFile::read_numbers(const io::TensorEntry& entry, std::int64_t first,
                              std::span<Number> into) const {
  const std::size_t size = io::size_of(entry.type);
  io::TensorEntry part{entry.name, entry.type, {static_cast<std::int64_t>(into.size())}, 0, 0};
  part.begin = entry.begin + static_cast<std::uint64_t>(first) * size;
  part.end = part.begin + into.size() * size;
  to_numbers(entry.type, read(part).bytes(), into);
}
static_assert(std::numeric_limits<long double>::digits >= 64, "long double holds 64-bit integers");
template void TensorFile::read_numbers(const io::TensorEntry&, std::int64_t,
                                       std::span<double>) const;
template void TensorFile::read_numbers(const io::TensorEntry&, std::int64_t,
                                       std::span<long double>) const;

std::int64_t element_count(const io::TensorEntry& entry) {
  return static_cast<std::int64_t>(byte_count(entry) / io::size_of(entry.type));
}

std::uint64_t byte_count(const io::TensorEntry& entry) { return entry.end - entry.begin; }

bool is_floating(io::StoredType type) {
  const auto dtype = io::dtype_of(type);
  if (dtype) return is_floating(*dtype);
  return type == io::StoredType::kF8E4M3 || type == io::StoredType::kF8E5M2;
}

std::int64_t extent(const io::TensorEntry& entry, std::size_t axis) { return entry.shape[axis]; }

ConstTensorView view_of(const io::TensorEntry& entry, const void* data) {
  const auto dtype = io::dtype_of(entry.type);
  if (!dtype) {
    throw Failure(kBadInput, fmt::format("{}: expected a type that attention can use, found {}",
                                         entry.name, io::name_of(entry.type)));
  }
  if (entry.shape.size() > kMaxRank) {
    throw Failure(kBadInput, fmt::format("{}: expected at most 4 dimensions, found {}", entry.name,
                                         entry.shape.size()));
  }
  ConstTensorView view{data, *dtype, static_cast<int>(entry.shape.size()), {}, {}};
  std::copy(entry.shape.begin(), entry.shape.end(), view.shape.begin());
  view.strides = row_major_strides(view);
  return view;
}

const void* not_loaded() noexcept {
  alignas(64) static constexpr std::byte kNothing[64] = {};
  return kNothing;
}

OwnedTensor make_tensor(DType dtype, const std::vector<std::int64_t>& shape) {
  io::TensorEntry entry{"result", io::stored_type_of(dtype), shape, 0, 0};
  const ConstTensorView view = view_of(entry, nullptr);
  entry.end = static_cast<std::uint64_t>(longspan::element_count(view)) * size_of(dtype);
  OwnedTensor tensor{io::StoredTensor(std::move(entry)), {}};
  tensor.view = {tensor.storage.bytes(), dtype, view.rank, view.shape, view.strides};
  return tensor;
}

}  // namespace longspan::cli
