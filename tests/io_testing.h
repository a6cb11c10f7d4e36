// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Helpers of the file tests: a folder that goes away, whole files as strings, the outcome of
// reading a file.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "io/npy.h"
#include "io/safetensors.h"
#include "longspan/error.h"

namespace longspan::io {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = ::testing::TempDir() + "longspan-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string path() const { return path_.string(); }
  std::size_t files() const {
    const std::filesystem::directory_iterator first(path_);
    return static_cast<std::size_t>(std::distance(begin(first), end(first)));
  }

 private:
  std::filesystem::path path_;
};

inline std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void put(const std::string& path, std::string_view bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

inline std::string bytes_of(const StoredTensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.bytes()), tensor.byte_size()};
}

// Reads every tensor of a file; what an accepted header promises is checked on the way.
inline void read_all(const std::string& path) {
  const std::string bytes = contents(path);
  const auto check = [&](const StoredTensor& tensor) {
    const TensorEntry& entry = tensor.entry();
    EXPECT_EQ(byte_count(entry.type, entry.shape), entry.end - entry.begin);
    EXPECT_EQ(bytes_of(tensor), bytes.substr(entry.begin, entry.end - entry.begin));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.bytes()) % 64, 0u);
  };
  if (path.ends_with(".npy")) return check(read_npy(path));
  const SafetensorsReader reader(path);
  for (const TensorEntry& entry : reader.entries()) {
    EXPECT_EQ(reader.find(entry.name), &entry);
    check(reader.read(entry));
  }
}

// True: the file was read. False: it was refused as the contract says. Anything else fails the
// test.
inline bool accepts(const std::string& path) {
  try {
    read_all(path);
    return true;
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.code(), ErrorCode::kFile) << message;
    EXPECT_TRUE(message.starts_with(path + ": ")) << message;
    EXPECT_LT(message.size(), path.size() + 400) << message;
    for (const char c : message) EXPECT_TRUE(c >= 0x20 && c < 0x7F) << message;
    EXPECT_NE(message.find(": "), std::string::npos);
    return false;
  }
}

}  // namespace longspan::io
