// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What plans know of the machine's caches.
#pragma once

#include <unistd.h>

#include <cstdint>

namespace longspan::engine {

// Bytes of one core's second level cache; 1 MiB when the system does not say (0 or -1).
inline std::int64_t second_level_cache() {
  constexpr std::int64_t kTypical = 1 << 20;
  static const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
  return found > 0 ? found : kTypical;
}

}  // namespace longspan::engine
