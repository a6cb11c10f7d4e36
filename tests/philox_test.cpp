// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Philox against the published vectors, and against a longer run of an independent program.
#include "base/philox.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace longspan::base {
namespace {

nlohmann::json golden() {
  std::ifstream file(std::string(LONGSPAN_GOLDEN_DIR) + "/philox.json");
  return nlohmann::json::parse(file);
}

template <std::size_t N>
std::array<std::uint32_t, N> words_of(const nlohmann::json& list) {
  EXPECT_EQ(list.size(), N);
  std::array<std::uint32_t, N> words{};
  for (std::size_t n = 0; n < N; ++n) {
    words[n] = static_cast<std::uint32_t>(std::stoul(list.at(n).get<std::string>(), nullptr, 16));
  }
  return words;
}

TEST(Philox, PublishedVectors) {
  const nlohmann::json answers = golden().at("known_answers");
  ASSERT_EQ(answers.size(), 6u);
  int of_ten_rounds = 0;
  for (const nlohmann::json& answer : answers) {
    const int rounds = answer.at("rounds").get<int>();
    const PhiloxCounter counter = words_of<4>(answer.at("counter"));
    const PhiloxKey key = words_of<2>(answer.at("key"));
    const PhiloxBlock output = words_of<4>(answer.at("output"));
    EXPECT_EQ(philox(counter, key, rounds), output) << answer;
    if (rounds != kPhiloxRounds) continue;
    ++of_ten_rounds;
    EXPECT_EQ(philox(counter, key), output) << answer;
  }
  EXPECT_EQ(of_ten_rounds, 3);
}

TEST(Philox, ALongerRun) {
  const nlohmann::json derived = golden().at("derived");
  std::array<std::uint64_t, 4> sum{};
  PhiloxBlock all{};
  for (std::uint32_t i = 0; i < 4096; ++i) {
    const PhiloxBlock block = philox({i, 0, 0x12345678, 0}, {0xDEADBEEF, 0x0BADF00D});
    if (i == 0 || i == 4095) {
      EXPECT_EQ(block, words_of<4>(derived.at(i == 0 ? "first" : "last")));
    }
    for (std::size_t w = 0; w < 4; ++w) {
      sum[w] += block[w];
      all[w] ^= block[w];
    }
  }
  EXPECT_EQ(all, words_of<4>(derived.at("xor")));
  EXPECT_EQ(nlohmann::json(sum), derived.at("sum"));
}

TEST(Philox, TheKeyIsTheSeedLowHalfFirst) {
  EXPECT_EQ(philox_key(0x0123456789ABCDEF), (PhiloxKey{0x89ABCDEF, 0x01234567}));
}

TEST(Philox, IsConstant) {
  constexpr PhiloxBlock kBlock = philox({0, 0, 0, 0}, {0, 0});
  static_assert(kBlock[0] == 0x6627E8D5 && kBlock[3] == 0x9B00DBD8);
}

}  // namespace
}  // namespace longspan::base
