// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Loops that read each cache line of a large buffer once.
#include <algorithm>
#include <array>
#include <cstdint>

#include "peaks.h"
#include "together.h"

namespace longspan::bench {
namespace {

constexpr std::size_t kLine = 64;
constexpr int kKept = 3;
// From a few lines, which covers the latency of a cache, to what covers that of memory under load.
constexpr std::array<int, 6> kDistances = {512, 1024, 2048, 4096, 8192, 16384};
constexpr std::array<int, 3> kStreams = {1, 2, 4};

using Words = const std::uint64_t*;

std::uint64_t sum_of_line(Words line) {
  return (line[0] ^ line[1]) + (line[2] ^ line[3]) + (line[4] ^ line[5]) + (line[6] ^ line[7]);
}

// Streams lie `bytes` apart and are read line by line in turn. Prefetching past the end is
// harmless.
template <int kHint>
std::uint64_t read(const char* first, std::size_t bytes, int streams, std::size_t distance) {
  std::uint64_t sum = 0;
  for (std::size_t at = 0; at < bytes; at += kLine) {
    for (int s = 0; s < streams; ++s) {
      const char* line = first + static_cast<std::size_t>(s) * bytes + at;
      if constexpr (kHint == 1) __builtin_prefetch(line + distance, 0, 2);
      if constexpr (kHint == 2) __builtin_prefetch(line + distance, 0, 3);
      sum += sum_of_line(reinterpret_cast<Words>(line));
    }
  }
  return sum;
}

}  // namespace

ReadBandwidth::ReadBandwidth(int threads) : threads_(threads), buffer_(kBytes, 1) {
  std::vector<Loop> loops;
  for (const int streams : kStreams) {
    loops.push_back({streams, 0, 0});
    for (const int hint : {1, 2}) {
      for (const int distance : kDistances) loops.push_back({streams, hint, distance});
    }
  }
  std::vector<std::pair<double, std::size_t>> rates;
  rates.reserve(loops.size());
  for (std::size_t n = 0; n < loops.size(); ++n) rates.emplace_back(time(loops[n]), n);
  std::sort(rates.rbegin(), rates.rend());
  for (int n = 0; n < kKept; ++n) best_.push_back(loops[rates[static_cast<std::size_t>(n)].second]);
}

double ReadBandwidth::measure() const {
  double best = 0;
  for (const Loop& loop : best_) best = std::max(best, time(loop));
  return best;
}

double ReadBandwidth::time(const Loop& loop) const {
  const std::size_t share = kBytes / static_cast<std::size_t>(threads_);
  const std::size_t bytes = share / static_cast<std::size_t>(loop.streams) / kLine * kLine;
  const auto distance = static_cast<std::size_t>(loop.distance);
  const double seconds = slowest_of(threads_, [&](int t) {
    const char* first = buffer_.data() + static_cast<std::size_t>(t) * (share / kLine * kLine);
    const auto pass = loop.hint == 0 ? read<0> : loop.hint == 1 ? read<1> : read<2>;
    return seconds_of([&] {
      volatile std::uint64_t kept = pass(first, bytes, loop.streams, distance);
      static_cast<void>(kept);
    });
  });
  return static_cast<double>(bytes) * loop.streams * threads_ / seconds;
}

std::string ReadBandwidth::best_loop() const {
  const Loop& loop = best_.front();
  return std::to_string(loop.streams) + " streams a thread, " +
         (loop.hint == 0 ? std::string("no prefetch")
                         : "prefetch " + std::to_string(loop.distance) + " bytes ahead into L" +
                               (loop.hint == 1 ? "2" : "1"));
}

}  // namespace longspan::bench
