// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Nothing in a record breaks its renderings: every string may be a file's.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "explain_testing.h"
#include "longspan/error.h"
#include "longspan/explain.h"

namespace longspan::test {
namespace {

using Json = nlohmann::json;

TEST(ExplainHostile, StringsAreHarmlessInEveryPlace) {
  const std::string hostile[] = {"<script>alert(1)</script>",
                                 "\"><img src=x onerror=y>",
                                 "' onload='z",
                                 "&amp;&#0;&",
                                 "</style></pre>",
                                 "]]><!--",
                                 "\x1b[31mred\x1b]0;title\x07",
                                 "\r\b\x7f\t",
                                 "\xC2\x9B;31m",
                                 "\xE2\x80\xAEtxt.exe\xE2\x81\xA6",
                                 "\xE2\x80\xA8",
                                 "\xFF\xFE",
                                 "\xC0\xAF",
                                 "\xED\xA0\x80",
                                 "\xF4\x90\x80\x80",
                                 "\xE2\x82",
                                 "\xF0\x9F\x98\x80 \xC3\xA9",
                                 std::string("nul\0nul", 7),
                                 "a/b/../c",
                                 "",
                                 "/",
                                 std::string(5000, 'x'),
                                 "\n\n\n",
                                 "\xEF\xBF\xBF"};
  const std::function<std::string&(Explanation&)> fields[] = {
      [](Explanation& r) -> std::string& { return r.method; },
      [](Explanation& r) -> std::string& { return r.title; },
      [](Explanation& r) -> std::string& { return r.text; },
      [](Explanation& r) -> std::string& { return r.sections[0].title; },
      [](Explanation& r) -> std::string& { return r.sections[0].text; },
      [](Explanation& r) -> std::string& { return r.sections[0].steps[0].name; },
      [](Explanation& r) -> std::string& { return r.sections[0].steps[0].also; },
      [](Explanation& r) -> std::string& { return r.sections[0].steps[0].code; },
      [](Explanation& r) -> std::string& { return r.sections[0].steps[0].einsum; },
      [](Explanation& r) -> std::string& { return r.sections[0].steps[0].axes[0]; },
      [](Explanation& r) -> std::string& { return r.sections[0].steps[0].axes[1]; },
      [](Explanation& r) -> std::string& { return r.sections[0].steps[0].axes[2]; },
      [](Explanation& r) -> std::string& { return r.sections[0].steps[0].why; },
  };
  for (const Picture picture : kPictures) {
    for (std::size_t field = 0; field < std::size(fields); ++field) {
      for (const std::string& text : hostile) {
        Explanation record = small_record();
        record.sections[0].steps[0].picture = picture;
        fields[field](record) = text;
        SCOPED_TRACE(testing::Message()
                     << "field " << field << ", text " << testing::PrintToString(text));
        const std::string shown = to_text(record), html = to_html(record), json = to_json(record);
        EXPECT_TRUE(is_harmless(shown));
        EXPECT_TRUE(is_harmless(html));
        EXPECT_TRUE(is_harmless(json));
        EXPECT_TRUE(
            std::all_of(json.begin(), json.end(), [](char c) { return c >= '\n' && c < 0x7F; }));
        EXPECT_TRUE(is_well_formed(html));
        EXPECT_TRUE(is_well_formed(to_html(record, false)));
        EXPECT_FALSE(needs_others(html));
        for (const std::string& line : lines_of(shown)) EXPECT_LE(columns_of(line), 80u) << line;
        EXPECT_EQ(Json::parse(json)["steps"].size(), 2u);
      }
    }
  }
}

TEST(ExplainHostile, TextThatIsUtf8IsKept) {
  Explanation record = small_record();
  record.title =
      "Gr\xC3\xB6\xC3\x9F"
      "e \xE2\x88\x9E \xF0\x9F\x98\x80 <b>";
  EXPECT_TRUE(contains(to_text(record), record.title));
  EXPECT_TRUE(contains(to_html(record),
                       "Gr\xC3\xB6\xC3\x9F"
                       "e \xE2\x88\x9E \xF0\x9F\x98\x80 &lt;b&gt;"));
  EXPECT_EQ(Json::parse(to_json(record))["title"], record.title);
  record.title = "bad \xFF here";
  EXPECT_TRUE(contains(to_text(record), "bad ? here"));
  EXPECT_TRUE(contains(to_html(record), "bad ? here"));
  EXPECT_EQ(Json::parse(to_json(record))["title"], "bad \xEF\xBF\xBD here");
}

TEST(ExplainHostile, SizesThatDoNotFitTogetherAreRefused) {
  const std::function<void(ExplainStep&)> changes[] = {
      [](ExplainStep& step) { step.values.pop_back(); },
      [](ExplainStep& step) { step.values.push_back(0); },
      [](ExplainStep& step) { step.axes.pop_back(); },
      [](ExplainStep& step) { step.shape[0] = -2; },
      [](ExplainStep& step) {
        step.shape = {std::int64_t{1} << 62, 8, 0};
      },
      [](ExplainStep& step) { step.index.pop_back(); },
      [](ExplainStep& step) { step.index[0].pop_back(); },
  };
  for (std::size_t i = 0; i < std::size(changes); ++i) {
    Explanation record = small_record();
    changes[i](record.sections[0].steps[0]);
    for (const auto& render : {+[](const Explanation& r) { return to_text(r); },
                               +[](const Explanation& r) { return to_json(r); },
                               +[](const Explanation& r) { return to_html(r); }}) {
      try {
        render(record);
        ADD_FAILURE() << "change " << i << " was accepted";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
        EXPECT_TRUE(contains(error.what(), "explain: step chunk_1/scores: ")) << error.what();
      }
    }
  }
}

}  // namespace
}  // namespace longspan::test
