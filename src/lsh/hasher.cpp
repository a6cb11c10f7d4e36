// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Panels of vectors through the kernel, buckets to where they belong.
#include "lsh/hasher.h"

#include <algorithm>
#include <span>

#include "base/check.h"
#include "base/fit_memory.h"
#include "base/parallel_for.h"
#include "base/round.h"
#include "kernels/hash_panel.h"

namespace longspan::lsh {
namespace {

constexpr const char* kFunction = "hash_vectors";
constexpr std::int64_t kProductBytes =
    std::int64_t{16} * 1024;  // half of the smallest first level cache

}  // namespace

template <class T>
Hasher<T>::Hasher(const RotationSource& rotations, const BucketFactors& factors, std::int64_t heads,
                  const kernel::KernelTable<T>& table)
    : rotations_(rotations),
      factors_(factors),
      table_(table),
      heads_(heads),
      width_(std::int64_t{table_.lanes} * table_.vectors),
      rounds_per_call_(std::clamp<std::int64_t>(
          kProductBytes / (rotations.columns * width_ * std::int64_t{sizeof(T)}), 1,
          rotations.num_hashes)) {
  base::Carver one;
  carve(one);
  scratch_bytes_ = one.used();
}

template <class T>
Hasher<T>::Hasher(const RotationSource& rotations, const BucketFactors& factors, std::int64_t heads,
                  const Execution& execution)
    : Hasher(rotations, factors, heads,
             kernel::choose_kernel(execution.kernel).template table<T>()) {
  base::fit_memory(
      kFunction, execution.memory_limit, [&] { return rotation_bytes() + scratch_bytes_; },
      [] { return false; });
  laid_out_ = base::Buffer(rotation_bytes());
  const int threads = base::resolve_threads(execution.threads, heads);
  base::parallel_for(heads, threads, [&](std::int64_t head, int) {
    rotations_.fill_rows(head, rotation_rows(head));
  });
  rotations_.given = {};
}

template <class T>
std::size_t Hasher<T>::rotation_bytes() const noexcept {
  base::Carver carver;
  carver.take<T>(heads_ * rotations_of_head());
  return carver.used();
}

template <class T>
std::size_t Hasher<T>::planned_bytes(const RotationSource& rotations, const BucketFactors& factors,
                                     std::int64_t heads, const Execution& execution, int threads) {
  const Hasher counted(rotations, factors, heads,
                       kernel::choose_kernel(execution.kernel).template table<T>());
  return counted.rotation_bytes() + static_cast<std::size_t>(threads) * counted.scratch_bytes_;
}

template <class T>
typename Hasher<T>::Scratch Hasher<T>::carve(base::Carver& carver) const {
  Scratch scratch;
  scratch.panel = carver.take<T>(rotations_.head_dim * width_);
  scratch.products = carver.take<T>(rounds_per_call_ * rotations_.columns * width_);
  scratch.buckets = carver.take<std::int32_t>(rotations_.num_hashes * width_);
  scratch.visible = carver.take<std::uint64_t>(task_rows());
  return scratch;
}

template <class T>
T* Hasher<T>::rotation_rows(std::int64_t head) const {
  return reinterpret_cast<T*>(laid_out_.data()) + head * rotations_of_head();
}

template <class T>
void Hasher<T>::hash_panel(const base::RowSource& rows, const T* rotations, std::int64_t first,
                           std::int64_t count, const Scratch& scratch) const {
  const std::int64_t vectors = base::ceil_div(count, table_.lanes);
  const std::int64_t width = vectors * table_.lanes;
  table_.pack_query(rows, first, count, rotations_.head_dim, width, scratch.panel);
  for (std::int64_t round = 0; round < rotations_.num_hashes; round += rounds_per_call_) {
    kernel::HashPanel<T> panel;
    panel.panel = scratch.panel;
    panel.rotations = rotations + round * rotations_.columns * rotations_.head_dim;
    panel.head_dim = rotations_.head_dim;
    panel.rounds = std::min(rounds_per_call_, rotations_.num_hashes - round);
    panel.factors = factors_.factors;
    panel.columns = rotations_.columns;
    panel.products = scratch.products;
    panel.buckets = scratch.buckets + round * width;
    table_.hash_panel[vectors - 1](panel);
  }
}

template <class T>
void Hasher<T>::hash(const base::Rows4& vectors, std::int64_t group, const Padding* padding,
                     const IndexGrid& buckets, const Execution& execution) const {
  const std::int64_t batch = vectors.shape[0], seqlen = vectors.shape[1], heads = vectors.shape[2];
  if (padding != nullptr && padding->none()) padding = nullptr;
  // Heads of the same positions one after the other: their rows stand together.
  const std::int64_t parts = base::ceil_div(seqlen, task_rows());
  int threads = base::resolve_threads(execution.threads, batch * parts * heads);
  base::fit_memory(
      kFunction, execution.memory_limit,
      [&] { return bytes() + static_cast<std::size_t>(threads) * scratch_bytes_; },
      [&] { return base::give_up_thread(threads); });
  const base::Buffer workspace(static_cast<std::size_t>(threads) * scratch_bytes_);
  base::parallel_for(batch * parts * heads, threads, [&](std::int64_t t, int worker) {
    base::check_stop(execution.stop, kFunction);
    const std::int64_t h = t % heads, b = t / heads / parts;
    const std::int64_t begin = t / heads % parts * task_rows();
    const std::int64_t end = std::min(begin + task_rows(), seqlen);
    base::Carver carver(workspace.data() + static_cast<std::size_t>(worker) * scratch_bytes_);
    const Scratch scratch = carve(carver);
    if (padding != nullptr) {
      padding->find_visible(b, h, begin, {scratch.visible, static_cast<std::size_t>(end - begin)});
    }
    const base::RowSource rows = vectors.source(b, h);
    for (std::int64_t first = begin; first < end; first += width_) {
      const std::int64_t count = std::min(width_, end - first);
      hash_panel(rows, rotation_rows(h / group), first, count, scratch);
      const std::int64_t width = base::round_up(count, table_.lanes);
      for (std::int64_t round = 0; round < rotations_.num_hashes; ++round) {
        const IndexRow row = buckets.row(b, h, round);
        for (std::int64_t n = 0; n < count; ++n) {
          const bool hashed = padding == nullptr || scratch.visible[first - begin + n] != 0;
          row.set(first + n, hashed ? scratch.buckets[round * width + n] : factors_.buckets);
        }
      }
    }
  });
}

template class Hasher<float>;
template class Hasher<double>;

}  // namespace longspan::lsh
