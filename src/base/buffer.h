// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Workspace: one allocation, aligned to cache lines, carved into typed pieces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "base/check.h"
#include "base/round.h"

namespace longspan::base {

inline constexpr std::size_t kAlignment = 64;

class Buffer {
 public:
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;
  static constexpr std::size_t kLarge = 2 * kHugePage;

  Buffer() = default;
  explicit Buffer(std::size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    const std::size_t alignment = bytes < kLarge ? kAlignment : kHugePage;
    if (bytes <= PTRDIFF_MAX) {
      data_.reset(
          static_cast<std::byte*>(std::aligned_alloc(alignment, round_up(bytes, alignment))));
    }
    if (data_ == nullptr) {
      fail(ErrorCode::kOutOfMemory,
           "workspace: an allocation of " + std::to_string(bytes) + " bytes failed");
    }
#if defined(MADV_HUGEPAGE)
    // Rows that are gathered from it at random would miss the table of small pages each time. Only
    // a wish: where there are no such pages, nothing changes.
    if (bytes >= kLarge) madvise(data_.get(), bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  }
  std::byte* data() const noexcept { return data_.get(); }
  std::size_t size() const noexcept { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* p) const noexcept { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t bytes_ = 0;
};

// Hands out consecutive aligned pieces of a buffer; with no buffer it only counts, so that the plan
// and the allocation are one piece of code.
class Carver {
 public:
  explicit Carver(std::byte* start = nullptr) : start_(start) {}
  template <class T>
  T* take(std::int64_t count) noexcept {
    std::byte* piece = start_ == nullptr ? nullptr : start_ + used_;
    used_ += round_up(static_cast<std::size_t>(count) * sizeof(T), kAlignment);
    return reinterpret_cast<T*>(piece);
  }
  std::size_t used() const noexcept { return used_; }

 private:
  std::byte* start_;
  std::size_t used_ = 0;
};

}  // namespace longspan::base
