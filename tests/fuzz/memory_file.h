// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// A fuzzer's input as a file that lives in memory, so that the readers run as they do for users.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "io/stored_tensor.h"

namespace longspan::fuzz {

inline void require(bool ok) {
  if (!ok) std::abort();
}

class MemoryFile {
 public:
  MemoryFile(const std::uint8_t* data, std::size_t size) : fd_(::memfd_create("input", 0)) {
    require(fd_ >= 0 && ::write(fd_, data, size) == static_cast<ssize_t>(size));
  }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

// What every accepted tensor promises.
inline void check(const io::TensorEntry& entry, std::size_t file_size) {
  require(entry.begin <= entry.end && entry.end <= file_size);
  require(io::byte_count(entry.type, entry.shape) == entry.end - entry.begin);
  require(entry.shape.size() <= io::kMaxStoredRank);
  for (const std::int64_t extent : entry.shape) require(extent >= 0);
}

}  // namespace longspan::fuzz
