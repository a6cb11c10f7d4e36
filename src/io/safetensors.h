// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// safetensors: reading as hostile input, writing atomically.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "io/input_file.h"
#include "io/stored_tensor.h"

namespace longspan::io {

// Reads and checks the header alone; tensors are read when asked for (pread, never mmap). All
// errors are Error(kFile): one line with the path, what was expected and what was found. See
// docs/files.md for the rules.
class SafetensorsReader {
 public:
  explicit SafetensorsReader(const std::string& path);

  // In the order of their data.
  const std::vector<TensorEntry>& entries() const noexcept { return entries_; }
  const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }
  const TensorEntry* find(const std::string& name) const noexcept;  // null when absent
  StoredTensor read(const TensorEntry& entry) const;                // one of entries()

 private:
  InputFile file_;
  std::vector<TensorEntry> entries_;
  std::vector<std::size_t> by_name_;  // indices of entries_, names ascending
  std::map<std::string, std::string> metadata_;
};

struct NamedTensor {
  std::string name;
  ConstTensorView tensor;  // any strides; written row-major
};

// Writes the file whole or not at all (io/atomic_file.h): an older file at `path` survives any
// failure. Data lie in the given order but with larger elements first, so that every tensor is
// aligned to its element. The same tensors give the same bytes. Throws Error(kInvalidArgument) for
// a name given twice or "__metadata__", and for text that is not UTF-8.
void write_safetensors(const std::string& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace longspan::io
