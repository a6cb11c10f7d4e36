// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Hashing of checked tensors: rotations laid out once, then panels of vectors on all threads.
#pragma once

#include <cstdint>

#include "base/buffer.h"
#include "base/round.h"
#include "base/rows4.h"
#include "kernels/registry.h"
#include "longspan/execution.h"
#include "lsh/bucket_rule.h"
#include "lsh/index_grid.h"
#include "lsh/padding.h"
#include "lsh/rotations.h"

namespace longspan::lsh {

template <class T>
class Hasher {
 public:
  // `heads` sets of rotations, which are laid out here; given ones are not needed afterwards.
  // Throws Error(kOutOfMemory) where one thread would not keep the memory limit.
  Hasher(const RotationSource& rotations, const BucketFactors& factors, std::int64_t heads,
         const Execution& execution);
  // What it and hash() on so many threads allocate.
  static std::size_t planned_bytes(const RotationSource& rotations, const BucketFactors& factors,
                                   std::int64_t heads, const Execution& execution, int threads);

  // buckets[batch, head, round, n] of all vectors; `group` heads share rotations. Vectors that are
  // padding (null: none are) get the bucket behind the last. Allocates O(threads), as many as the
  // memory limit allows.
  void hash(const base::Rows4& vectors, std::int64_t group, const Padding* padding,
            const IndexGrid& buckets, const Execution& execution) const;

  std::size_t bytes() const noexcept { return laid_out_.size(); }

 private:
  Hasher(const RotationSource& rotations, const BucketFactors& factors, std::int64_t heads,
         const kernel::KernelTable<T>& table);
  std::size_t rotation_bytes() const noexcept;

  struct Scratch {  // of one thread
    T* panel;
    T* products;
    std::int32_t* buckets;
    std::uint64_t* visible;
  };
  Scratch carve(base::Carver& carver) const;
  void hash_panel(const base::RowSource& rows, const T* rotations, std::int64_t first,
                  std::int64_t count, const Scratch& scratch) const;
  T* rotation_rows(std::int64_t head) const;
  std::int64_t rotations_of_head() const noexcept {
    return rotations_.num_hashes * rotations_.columns * rotations_.head_dim;
  }
  // That a thread takes at a time: whole panels, but for the last of a sequence.
  std::int64_t task_rows() const noexcept { return base::round_up(std::int64_t{512}, width_); }

  RotationSource rotations_;
  BucketFactors factors_;
  const kernel::KernelTable<T>& table_;
  std::int64_t heads_;
  std::int64_t width_;
  std::int64_t rounds_per_call_;  // whose products stay in the first level cache
  std::size_t scratch_bytes_ = 0;
  base::Buffer laid_out_;
};

}  // namespace longspan::lsh
