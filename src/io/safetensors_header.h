// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The JSON header of safetensors: from text to checked entries. The rules are in docs/files.md.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "io/stored_tensor.h"

namespace longspan::io {

inline constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
inline constexpr std::string_view kMetadataKey = "__metadata__";

struct SafetensorsHeader {
  std::vector<TensorEntry>
      entries;  // in the order of their data, positions from the start of the file
  std::vector<std::size_t> by_name;  // indices of entries, names ascending
  std::map<std::string, std::string> metadata;
};

// text: the header of the file `path`, whose data are its bytes data_begin .. data_end. Throws
// Error(kFile).
SafetensorsHeader parse_safetensors_header(const std::string& path, std::string_view text,
                                           std::uint64_t data_begin, std::uint64_t data_end);

}  // namespace longspan::io
