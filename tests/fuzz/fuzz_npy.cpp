// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Any bytes as an npy file: read, or refused with Error(kFile).
#include "io/npy.h"
#include "longspan/error.h"
#include "memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace longspan;
  const fuzz::MemoryFile file(data, size);
  try {
    const io::StoredTensor tensor = io::read_npy(file.path());
    fuzz::check(tensor.entry(), size);
    fuzz::require(tensor.entry().end == size);
  } catch (const Error& error) {
    fuzz::require(error.code() == ErrorCode::kFile);
  }
  return 0;
}
