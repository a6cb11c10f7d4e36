// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Records as text and as JSON.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "explain_testing.h"
#include "longspan/explain.h"

namespace longspan::test {
namespace {

TEST(Explanation, FindsAStepByItsName) {
  const Explanation record = small_record();
  ASSERT_NE(record.find("order"), nullptr);
  EXPECT_EQ(record.find("order"), &record.sections[1].steps[0]);
  EXPECT_EQ(record.find("chunk_1/scores"), &record.sections[0].steps[0]);
  EXPECT_EQ(record.find("scores"), nullptr);
  EXPECT_EQ(record.find(""), nullptr);
}

TEST(ExplainText, ASmallRecord) {
  EXPECT_EQ(to_text(small_record(), {.columns = 60}),
            "exact attention: 2 queries, 3 keys\n"
            "==================================\n"
            "\n"
            "Two queries meet three keys.\n"
            "\n"
            "There is one head.\n"
            "\n"
            "1. chunk 1: keys 8 to 10\n"
            "------------------------\n"
            "\n"
            "The first part of the keys.\n"
            "\n"
            "chunk_1/scores [query 2, head 1, key 3]\n"
            "  also    attn_weights: paper, Figure 1, line 13\n"
            "  code    scores = np.einsum('qhd,khd->qhk', query, key)\n"
            "  einsum  qhd,khd->qhk\n"
            "          kept     q query, k key\n"
            "          batched  h head\n"
            "          summed   d feature\n"
            "          for each query q:\n"
            "            for each head h:\n"
            "              for each key k:\n"
            "                scores[q,h,k] = sum over d feature of\n"
            "                    query[q,h,d] * key[k,h,d]\n"
            "\n"
            "        key        8        9       10\n"
            "  head 0\n"
            "    query 4   0.5000  -1.2500        .\n"
            "    query 5   2.0000  1.0e-07        0\n"
            "  . hidden (-inf)\n"
            "\n"
            "  A score is the product of a query and a key.\n"
            "\n"
            "2. sort\n"
            "-------\n"
            "\n"
            "order [slot 4]\n"
            "  slot  0  1  2  3\n"
            "        3  0  2  1\n");
}

TEST(ExplainText, LongAxesAreCutInTheMiddle) {
  const ExplainStep step = counting_step({"query", "key"}, {100, 60});
  const std::vector<std::string> lines = lines_of(to_text(record_of({step}), {.columns = 60}));
  EXPECT_EQ(lines.size(), 34u);  // 5 of titles, blank, name, keys, 24 of numbers, 1 of dots, end
  const auto line_of = [&](const std::string& start) {
    for (const std::string& line : lines) {
      if (line.starts_with(start)) return line;
    }
    return std::string();
  };
  EXPECT_EQ(line_of("       key"), "       key        0        1        2  ...       58       59");
}

TEST(ExplainText, NoLineIsWiderThanAsked) {
  ExplainStep wide = counting_step(
      {"an axis with a name that is longer than a line of text", "query", "key"}, {3, 40, 300});
  wide.name = std::string(300, 'n');
  wide.also = "words " + std::string(300, 'a') + " words";
  wide.code = std::string(50, ' ') + std::string(100, 'c');
  wide.einsum =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ,a->abcdefghijklmnopqrstuvwxyz";
  wide.why = "\xC3\xA4\xC3\xB6\xC3\xBC " + std::string(99, 'w');
  ExplainStep digits = step_of({"key"}, {3}, {-1e300, 123456789012345, kNaN});
  digits.index = {
      {std::numeric_limits<std::int64_t>::min(), 0, std::numeric_limits<std::int64_t>::max()}};
  ExplainStep coverage = step_of({"chunk of queries", "chunk of keys"}, {1, 3}, {0, 1, 2});
  coverage.picture = Picture::kCoverage;
  Explanation record = record_of({wide, digits, coverage, scores()});
  record.title = std::string(200, 't');
  record.sections[0].title = "many words in a title of a section, which is long";
  for (const int columns : {-3, 0, 40, 41, 47, 60, 80, 133, 1000}) {
    SCOPED_TRACE(columns);
    const auto most = static_cast<std::size_t>(std::max(columns, 40));
    std::size_t widest = 0;
    for (const std::string& line : lines_of(to_text(record, {.columns = columns}))) {
      EXPECT_LE(columns_of(line), most) << line;
      EXPECT_FALSE(line.ends_with(' ')) << line;
      widest = std::max(widest, columns_of(line));
    }
    EXPECT_GT(widest, std::min<std::size_t>(most, 300) * 3 / 4);
  }
}

TEST(ExplainText, TablesFillTheirLinesAndNoMore) {
  const Explanation record = record_of({counting_step({"query", "head", "key"}, {2, 2, 300})});
  std::size_t filled = 0;
  for (int columns = 40; columns <= 140; ++columns) {
    std::size_t widest = 0;
    for (const std::string& line : lines_of(to_text(record, {.columns = columns}))) {
      widest = std::max(widest, columns_of(line));
    }
    EXPECT_LE(widest, static_cast<std::size_t>(columns));
    filled += widest == static_cast<std::size_t>(columns);
  }
  EXPECT_GT(filled, 5u);
}

TEST(ExplainText, ALargeRecordStaysShort) {
  const std::string text =
      to_text(record_of({counting_step({"round", "query", "key"}, {20, 20, 50})}));
  EXPECT_LT(lines_of(text).size(), 45u);
  EXPECT_TRUE(contains(text, "... 376 more rows")) << text;
  EXPECT_TRUE(contains(text, "round 0\n"));
  EXPECT_TRUE(contains(text, "round 19\n"));
}

TEST(ExplainText, ColoursAddEscapesOnly) {
  const Explanation record = small_record();
  std::string coloured = to_text(record, {.columns = 60, .colours = true});
  const std::string plain = to_text(record, {.columns = 60});
  EXPECT_TRUE(contains(coloured, "\x1b[1mchunk_1/scores"));
  for (std::size_t at; (at = coloured.find("\x1b[")) != std::string::npos;) {
    coloured.erase(at, coloured.find('m', at) + 1 - at);
  }
  EXPECT_EQ(coloured, plain);
  EXPECT_FALSE(contains(plain, "\x1b"));
}

TEST(ExplainText, Numbers) {
  const auto shown = [](std::vector<double> values, bool whole_numbers = false) {
    const auto count = static_cast<std::int64_t>(values.size());
    ExplainStep step = step_of({"head"}, {count}, std::move(values));
    step.whole_numbers = whole_numbers;
    const std::vector<std::string> lines = lines_of(to_text(record_of({step})));
    std::string words;
    for (const char c : lines.at(lines.size() - 2)) {
      if (c != ' ' || (!words.empty() && words.back() != ' ')) words += c;
    }
    return words;
  };
  EXPECT_EQ(shown({1, 2, -3}), "1 2 -3");
  EXPECT_EQ(shown({1, 2.5}), "1.0000 2.5000");
  EXPECT_EQ(shown({12.5, 0, -0.0}), "12.500 0 0");
  EXPECT_EQ(shown({1234.5, 0.25}), "1234.50 0.25");
  EXPECT_EQ(shown({0.5, 0.0012345}), "0.50000 0.00123");
  EXPECT_EQ(shown({0.5, 1e-9}), "0.50000 1.0e-09");
  EXPECT_EQ(shown({-5.61e-8, 2e-9, 0}), "-5.6100e-08 2.0000e-09 0");
  EXPECT_EQ(shown({-100000.25, 0.5}), "-1e+05 0.50000");
  EXPECT_EQ(shown({-kInf, kInf, kNaN, 0.5}), "-inf inf nan 0.50000");
  EXPECT_EQ(shown({123456, 7}, true), "123456 7");
  EXPECT_EQ(shown({std::numeric_limits<double>::max(), std::numeric_limits<double>::denorm_min()}),
            "1.7977e+308 4.9407e-324");
}

TEST(ExplainText, RanksAndEmptyShapes) {
  EXPECT_TRUE(contains(to_text(record_of({step_of({}, {}, {2.5})})), "step []\n  2.5000\n"));
  const std::string empty = to_text(record_of({step_of({"query", "key"}, {3, 0}, {})}));
  EXPECT_TRUE(contains(empty, "step [query 3, key 0]\n  empty: there are no numbers\n"));
  EXPECT_EQ(to_text({}), "");
  ExplainStep coverage = step_of({"chunk of queries", "chunk of keys"}, {2, 3}, {2, 1, 0, 2, 2, 1});
  coverage.picture = Picture::kCoverage;
  EXPECT_TRUE(contains(to_text(record_of({coverage})), "chunk of queries 0  #  /  .\n"));
}

TEST(ExplainText, LettersTakeTheirNamesFromTheOperands) {
  ExplainStep query = counting_step({"row", "head", "depth"}, {1, 1, 1});
  query.name = "inputs/query";
  ExplainStep step = scores();
  const std::string text = to_text(record_of({query, step}));
  EXPECT_TRUE(contains(text, "kept     q query, k key\n"))
      << text;  // the step's own names count most
  EXPECT_TRUE(contains(text, "summed   d depth\n")) << text;

  step.einsum = "qhk, khf -> qhf";
  step.code = "numerator = jnp.einsum('qhk, khf -> qhf', exp(scores), value)";
  step.axes = {"query", "head", "feature"};
  const std::string other = to_text(record_of({step}));
  EXPECT_TRUE(contains(other, "kept     q query, f feature\n")) << other;
  EXPECT_TRUE(contains(other, "batched  h head\n"));
  EXPECT_TRUE(contains(other, "summed   k key\n"));
  EXPECT_TRUE(contains(other, "A[q,h,k] * B[k,h,f]\n"));

  step.einsum = "...d,kd->...k";
  EXPECT_TRUE(contains(to_text(record_of({step})), "einsum  ...d,kd->...k\n"));
  EXPECT_FALSE(contains(to_text(record_of({step})), "for each"));
  for (const char* equation : {"->", ",->", "q", "q->k", "a,a,a->", "aa->a", "-->", "q->q->q"}) {
    step.einsum = equation;
    EXPECT_NO_THROW(to_text(record_of({step}))) << equation;
    EXPECT_NO_THROW(to_json(record_of({step}))) << equation;
  }
}

using Json = nlohmann::json;

TEST(ExplainJson, ASmallRecord) {
  const std::string text = to_json(small_record());
  const Json json = Json::parse(text);
  EXPECT_EQ(json["schema"], 1);
  EXPECT_EQ(json["method"], "exact");
  EXPECT_EQ(json["title"], "exact attention: 2 queries, 3 keys");
  EXPECT_EQ(json["text"], small_record().text);
  EXPECT_EQ(json["sections"][0]["title"], "chunk 1: keys 8 to 10");
  EXPECT_EQ(json["sections"][0]["text"], "The first part of the keys.");
  EXPECT_EQ(json["sections"][0]["steps"], Json::parse(R"(["chunk_1/scores"])"));
  EXPECT_EQ(json["sections"][1]["steps"], Json::parse(R"(["order"])"));
  ASSERT_EQ(json["steps"].size(), 2u);
  const char* const scores_step = R"json({
    "name": "chunk_1/scores", "also": "attn_weights: paper, Figure 1, line 13",
    "code": "scores = np.einsum('qhd,khd->qhk', query, key)", "einsum": "qhd,khd->qhk",
    "letters": {"kept": "qk", "batched": "h", "summed": "d"},
    "axes": ["query", "head", "key"], "shape": [2, 1, 3], "index": [[4, 5], [0], [8, 9, 10]],
    "values": [[[0.5, -1.25, "-inf"]], [[2.0, 1e-7, 0.0]]],
    "why": "A score is the product of a query and a key."})json";
  EXPECT_EQ(json["steps"][0], Json::parse(scores_step));
  EXPECT_TRUE(contains(text, "\"values\": [3,0,2,1]")) << text;  // whole numbers, one line
  EXPECT_TRUE(contains(text, "[2.0,1e-07,0.0]")) << text;
  EXPECT_TRUE(text.ends_with("}\n"));
}

TEST(ExplainJson, EveryNumberComesBackBitForBit) {
  std::vector<double> values = {0.1,
                                1.0 / 3,
                                -0.0,
                                1e22,
                                123456789.123456789,
                                5e-324,
                                -1.7976931348623157e308,
                                static_cast<double>(0.1f),
                                9007199254740993.0};
  std::uint64_t bits = 88172645463325252u;  // xorshift
  while (values.size() < 1000) {
    bits ^= bits << 13, bits ^= bits >> 7, bits ^= bits << 17;
    const double value = std::bit_cast<double>(bits);
    if (std::isfinite(value)) values.push_back(value);
  }
  const auto compare = [&](bool whole_numbers) {
    ExplainStep step = step_of({"a", "b"}, {10, 100}, values);
    step.whole_numbers = whole_numbers;
    const Json read = Json::parse(to_json(record_of({step})))["steps"][0]["values"];
    ASSERT_EQ(read.size(), 10u);
    for (std::size_t i = 0; i < 1000; ++i) {
      const double found = read.at(i / 100).at(i % 100).get<double>();
      EXPECT_EQ(std::bit_cast<std::uint64_t>(found), std::bit_cast<std::uint64_t>(values[i]))
          << values[i] << " became " << found;
    }
  };
  compare(false);
  compare(true);
}

TEST(ExplainJson, NestedLists) {
  const auto values = [](ExplainStep step) {
    return Json::parse(to_json(record_of({std::move(step)})))["steps"][0]["values"].dump();
  };
  EXPECT_EQ(values(step_of({}, {}, {2.5})), "2.5");
  EXPECT_EQ(values(step_of({"a"}, {0}, {})), "[]");
  EXPECT_EQ(values(step_of({"a", "b"}, {2, 0}, {})), "[[],[]]");
  EXPECT_EQ(values(step_of({"a", "b"}, {0, 2}, {})), "[]");
  EXPECT_EQ(values(step_of({"a", "b", "c"}, {1, 2, 0}, {})), "[[[],[]]]");
  EXPECT_EQ(values(step_of({"a", "b"}, {1, 3}, {kNaN, kInf, -kInf})), R"([["nan","inf","-inf"]])");
  ExplainStep whole = step_of({"a"}, {3}, {-2, 7, -kInf});
  whole.whole_numbers = true;
  EXPECT_EQ(values(whole), R"([-2,7,"-inf"])");
  EXPECT_EQ(Json::parse(to_json({}))["steps"], Json::array());
}

}  // namespace
}  // namespace longspan::test
