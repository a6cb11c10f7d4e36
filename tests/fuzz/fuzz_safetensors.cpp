// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Any bytes as a safetensors file: read, or refused with Error(kFile).
#include "io/safetensors.h"
#include "longspan/error.h"
#include "memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace longspan;
  const fuzz::MemoryFile file(data, size);
  try {
    const io::SafetensorsReader reader(file.path());
    std::uint64_t at = 0;
    for (const io::TensorEntry& entry : reader.entries()) {
      fuzz::check(entry, size);
      fuzz::require(at == 0 || entry.begin == at);  // data without gaps
      fuzz::require(reader.find(entry.name) == &entry);
      reader.read(entry);
      at = entry.end;
    }
    fuzz::require(at == 0 || at == size);
  } catch (const Error& error) {
    fuzz::require(error.code() == ErrorCode::kFile);
  }
  return 0;
}
