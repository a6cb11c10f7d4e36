// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// A regular file open for reading by position (pread: no shared offset, no mapping that could fault
// later).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "io/stored_tensor.h"

namespace longspan::io {

class InputFile {
 public:
  // Throws Error(kFile) when the file cannot be opened or is no regular file; never waits for a
  // pipe.
  explicit InputFile(const std::string& path);
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&& other) noexcept;

  const std::string& path() const noexcept { return path_; }
  std::uint64_t size() const noexcept { return size_; }  // when it was opened

  // Reads exactly bytes bytes; throws Error(kFile) when the file ends before.
  void read(std::uint64_t position, void* into, std::size_t bytes) const;
  StoredTensor read(const TensorEntry& entry) const;

 private:
  std::string path_;
  int fd_ = -1;
  std::uint64_t size_ = 0;
};

}  // namespace longspan::io
