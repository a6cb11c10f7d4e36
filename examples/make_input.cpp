// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Writes query, key and value of independent N(0,1) float32 values for `longspan attend`, the same
// bytes every time. usage: example_make_input OUTPUT.safetensors SEQLEN NUM_HEADS HEAD_DIM
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iostream>
#include <numbers>
#include <string>
#include <vector>

namespace {

static_assert(std::endian::native == std::endian::little, "safetensors is little-endian");

// splitmix64: a counter sent through a mixing function.
class Random {
 public:
  double uniform() {  // in (0, 1]
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    z ^= z >> 31;
    return static_cast<double>((z >> 11) + 1) * 0x1p-53;
  }

  // Box-Muller: two uniform values make two normal ones.
  std::array<float, 2> normal_pair() {
    const double radius = std::sqrt(-2 * std::log(uniform()));
    const double angle = 2 * std::numbers::pi * uniform();
    return {static_cast<float>(radius * std::cos(angle)),
            static_cast<float>(radius * std::sin(angle))};
  }

 private:
  std::uint64_t state_ = 1;
};

// An 8-byte length, a JSON header of that length, the data.
std::string make_header(std::int64_t seqlen, std::int64_t num_heads, std::int64_t head_dim) {
  const std::int64_t bytes = seqlen * num_heads * head_dim * 4;
  const std::string shape = "[1," + std::to_string(seqlen) + "," + std::to_string(num_heads) + "," +
                            std::to_string(head_dim) + "]";
  std::string json;
  std::int64_t begin = 0;
  for (const char* name : {"query", "key", "value"}) {
    json += (json.empty() ? "{\"" : ",\"") + std::string(name) + R"(":{"dtype":"F32","shape":)" +
            shape + ",\"data_offsets\":[" + std::to_string(begin) + "," +
            std::to_string(begin + bytes) + "]}";
    begin += bytes;
  }
  json += '}';
  json.resize((json.size() + 7) / 8 * 8, ' ');  // so that the data is aligned
  const auto length = std::bit_cast<std::array<char, 8>>(std::uint64_t{json.size()});
  return std::string(length.begin(), length.end()) + json;
}

// 0 for what is none.
std::int64_t number(const char* text) {
  std::int64_t number = 0;
  std::from_chars(text, text + std::strlen(text), number);
  return number;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: example_make_input OUTPUT.safetensors SEQLEN NUM_HEADS HEAD_DIM\n";
    return 2;
  }
  const std::int64_t seqlen = number(argv[2]);
  const std::int64_t num_heads = number(argv[3]);
  const std::int64_t head_dim = number(argv[4]);
  if (seqlen < 1 || num_heads < 1 || head_dim < 2 || head_dim % 2 != 0) {
    std::cerr << "make_input: sizes are at least 1, HEAD_DIM is even\n";
    return 2;
  }

  std::ofstream file(argv[1], std::ios::binary);
  file << make_header(seqlen, num_heads, head_dim);
  Random random;
  std::vector<float> row(static_cast<std::size_t>(num_heads * head_dim));
  for (std::int64_t i = 0; i < 3 * seqlen; ++i) {
    for (std::size_t d = 0; d < row.size(); d += 2) {
      const auto [first, second] = random.normal_pair();
      row[d] = first;
      row[d + 1] = second;
    }
    file.write(reinterpret_cast<const char*>(row.data()),
               static_cast<std::streamsize>(row.size() * sizeof(float)));
  }
  file.close();
  if (!file) {
    std::cerr << "make_input: " << argv[1] << ": writing failed\n";
    return 1;
  }
  return 0;
}
