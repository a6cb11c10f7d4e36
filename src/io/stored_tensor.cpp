// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The element types of the formats and the memory of a tensor that was read.
#include "io/stored_tensor.h"

#include <algorithm>
#include <bit>
#include <new>
#include <utility>

#include "base/check.h"
#include "io/file_error.h"

namespace longspan::io {
namespace {

static_assert(std::endian::native == std::endian::little, "both formats are read as they lie");

struct TypeRow {
  StoredType type;
  const char* name;
  std::size_t size;
  std::optional<DType> dtype;
};
constexpr TypeRow kTypes[] = {
    {StoredType::kF64, "F64", 8, DType::kFloat64},
    {StoredType::kF32, "F32", 4, DType::kFloat32},
    {StoredType::kF16, "F16", 2, DType::kFloat16},
    {StoredType::kBF16, "BF16", 2, DType::kBFloat16},
    {StoredType::kI64, "I64", 8, DType::kInt64},
    {StoredType::kI32, "I32", 4, DType::kInt32},
    {StoredType::kI16, "I16", 2, std::nullopt},
    {StoredType::kI8, "I8", 1, std::nullopt},
    {StoredType::kU64, "U64", 8, std::nullopt},
    {StoredType::kU32, "U32", 4, std::nullopt},
    {StoredType::kU16, "U16", 2, std::nullopt},
    {StoredType::kU8, "U8", 1, DType::kBool},
    {StoredType::kBool, "BOOL", 1, DType::kBool},
    {StoredType::kF8E4M3, "F8_E4M3", 1, std::nullopt},
    {StoredType::kF8E5M2, "F8_E5M2", 1, std::nullopt},
};
constexpr bool rows_follow_the_enumeration() {
  std::size_t index = 0;
  for (const TypeRow& row : kTypes) {
    if (static_cast<std::size_t>(row.type) != index++) return false;
  }
  return true;
}
static_assert(rows_follow_the_enumeration());

const TypeRow& row_of(StoredType type) noexcept { return kTypes[static_cast<std::size_t>(type)]; }

constexpr std::align_val_t kAlignment{64};

}  // namespace

std::size_t size_of(StoredType type) noexcept { return row_of(type).size; }
const char* name_of(StoredType type) noexcept { return row_of(type).name; }
std::optional<DType> dtype_of(StoredType type) noexcept { return row_of(type).dtype; }

StoredType stored_type_of(DType dtype) noexcept {
  if (dtype == DType::kBool) return StoredType::kBool;  // U8 shares that dtype
  const TypeRow* row = std::begin(kTypes);
  while (row->dtype != dtype) ++row;
  return row->type;
}

std::optional<StoredType> stored_type_named(std::string_view name) noexcept {
  for (const TypeRow& row : kTypes) {
    if (name == row.name) return row.type;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> byte_count(StoredType type,
                                        std::span<const std::int64_t> shape) noexcept {
  std::uint64_t count = 1;
  for (const std::int64_t extent : shape) {
    if (__builtin_mul_overflow(count, static_cast<std::uint64_t>(extent), &count)) return {};
  }
  if (__builtin_mul_overflow(count, std::uint64_t{size_of(type)}, &count)) return {};
  return count;
}

std::string shape_string(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (const std::int64_t extent : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(extent);
  }
  return text + "]";
}

void StoredTensor::Free::operator()(std::byte* p) const noexcept {
  ::operator delete(p, kAlignment);
}

StoredTensor::StoredTensor(TensorEntry entry) : entry_(std::move(entry)) {
  // At least one byte, so that the view of an empty tensor is not mistaken for an absent one.
  const std::size_t bytes = std::max<std::size_t>(byte_size(), 1);
  bytes_.reset(static_cast<std::byte*>(::operator new(bytes, kAlignment, std::nothrow)));
  base::require(
      bytes_ != nullptr,
      [&] {
        return "tensor " + in_quotes(entry_.name) + ": cannot allocate " + std::to_string(bytes) +
               " bytes";
      },
      ErrorCode::kOutOfMemory);
}

ConstTensorView StoredTensor::view() const {
  const std::optional<DType> dtype = dtype_of(entry_.type);
  base::require(
      dtype.has_value(),
      [&] {
        return "tensor " + in_quotes(entry_.name) +
               ": expected type F64, F32, F16, BF16, I64, I32, U8 or BOOL, found " +
               name_of(entry_.type);
      },
      ErrorCode::kFile);
  base::require(
      entry_.shape.size() <= kMaxRank,
      [&] {
        return "tensor " + in_quotes(entry_.name) + ": expected at most " +
               std::to_string(kMaxRank) + " dimensions, found shape " + shape_string(entry_.shape);
      },
      ErrorCode::kFile);
  ConstTensorView view;
  view.data = bytes_.get();
  view.dtype = *dtype;
  view.rank = static_cast<int>(entry_.shape.size());
  std::copy(entry_.shape.begin(), entry_.shape.end(), view.shape.begin());
  std::int64_t stride = 1;
  for (int axis = view.rank - 1; axis >= 0; --axis) {
    view.strides[axis] = stride;
    const std::int64_t extent = std::max<std::int64_t>(view.shape[axis], 1);
    // Only an empty tensor such as [0, 2^40, 2^40] can overflow, and its strides are never used.
    if (__builtin_mul_overflow(stride, extent, &stride)) stride = 1;
  }
  return view;
}

}  // namespace longspan::io
