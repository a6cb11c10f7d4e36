// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// A tensor as files store it: any element type of the formats, any rank, bytes owned by us.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "longspan/tensor.h"

namespace longspan::io {

// The types of safetensors; npy knows a subset.
enum class StoredType : std::uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool,
  kF8E4M3,
  kF8E5M2
};
std::size_t size_of(StoredType type) noexcept;
const char* name_of(StoredType type) noexcept;  // safetensors' spelling: "F64", "BOOL", "F8_E4M3"
// The library's dtype for it; U8 and BOOL are kBool. Empty for types that attention cannot use.
std::optional<DType> dtype_of(StoredType type) noexcept;
StoredType stored_type_of(DType dtype) noexcept;
std::optional<StoredType> stored_type_named(std::string_view name) noexcept;  // "F64", ...

inline constexpr std::size_t kMaxStoredRank = 64;  // NumPy's limit, too
// product(shape) * size_of(type), multiplied from the left; empty when that passes 2^64 - 1.
std::optional<std::uint64_t> byte_count(StoredType type,
                                        std::span<const std::int64_t> shape) noexcept;
std::string shape_string(std::span<const std::int64_t> shape);  // "[2, 4096, 8, 64]"

// Where a tensor lies in a file that was checked: end - begin == product(shape) * size_of(type),
// inside the file.
struct TensorEntry {
  std::string name;  // empty for npy
  StoredType type = StoredType::kF32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;  // bytes from the start of the file
  std::uint64_t end = 0;
};

// A tensor read whole into memory (aligned to 64 bytes, so that files with odd offsets are fine).
class StoredTensor {
 public:
  StoredTensor() = default;
  // Allocates end - begin bytes, contents undefined; throws Error(kOutOfMemory).
  explicit StoredTensor(TensorEntry entry);
  const TensorEntry& entry() const noexcept { return entry_; }
  std::byte* bytes() noexcept { return bytes_.get(); }
  const std::byte* bytes() const noexcept { return bytes_.get(); }
  std::size_t byte_size() const noexcept {
    return static_cast<std::size_t>(entry_.end - entry_.begin);
  }
  // A row-major view. Throws Error(kFile) for types without a dtype and for ranks above 4, naming
  // the tensor.
  ConstTensorView view() const;

 private:
  struct Free {
    void operator()(std::byte* p) const noexcept;
  };
  TensorEntry entry_;
  std::unique_ptr<std::byte, Free> bytes_;
};

}  // namespace longspan::io
