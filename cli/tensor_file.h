// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Tensor files for commands: safetensors and npy behind one face, elements as numbers.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/input_file.h"
#include "io/safetensors.h"
#include "io/stored_tensor.h"
#include "longspan/tensor.h"

namespace longspan::cli {

bool is_npy(const std::string& path);

// A file whose header was checked. An npy file holds one tensor, whose name is "".
class TensorFile {
 public:
  explicit TensorFile(const std::string& path);

  std::span<const io::TensorEntry> entries() const noexcept;
  const io::TensorEntry* find(const std::string& name) const noexcept;
  std::map<std::string, std::string> metadata() const;
  io::StoredTensor read(const io::TensorEntry& entry) const;
  // The elements from `first` on as double, which rounds integers above 2^53, or long double, which
  // holds all; only they are read.
  template <class Number>
  void read_numbers(const io::TensorEntry& entry, std::int64_t first, std::span<Number> into) const;

 private:
  std::optional<io::SafetensorsReader> safetensors_;  // or:
  std::optional<io::InputFile> npy_;
  io::TensorEntry npy_entry_;
};

std::int64_t element_count(const io::TensorEntry& entry);
std::uint64_t byte_count(const io::TensorEntry& entry);
bool is_floating(io::StoredType type);
std::int64_t extent(const io::TensorEntry& entry, std::size_t axis);

// A row-major view of memory that holds such a tensor. Throws Failure (exit 3) for a type that
// attention cannot use and for ranks above 4, naming the tensor.
ConstTensorView view_of(const io::TensorEntry& entry, const void* data);

// Stands for data before it is read; a view of a null pointer would be an absent tensor.
const void* not_loaded() noexcept;

// A tensor that we own, row-major, contents undefined.
struct OwnedTensor {
  io::StoredTensor storage;
  TensorView view;
};
OwnedTensor make_tensor(DType dtype, const std::vector<std::int64_t>& shape);

}  // namespace longspan::cli
