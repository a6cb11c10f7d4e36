// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// NaN and inf: hidden ones never leak and change no bit, visible ones make exactly the rows that
// see them NaN.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "reference/mask_reference.h"
#include "support/call.h"

namespace longspan::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

constexpr Shape kShape{.batch = 1,
                       .seqlen_q = 70,
                       .seqlen_k = 150,
                       .heads = 2,
                       .heads_kv = 1,
                       .head_dim = 20,
                       .head_dim_v = 9};

struct MaskCase {
  std::string name;
  std::function<Mask(Inputs&)> make;
};

// One mask of every kind, and an AND. Each hides some keys from some rows.
std::vector<MaskCase> mask_cases() {
  return {
      {"causal", [](Inputs&) { return causal(75); }},
      {"window", [](Inputs&) { return window(9, 20, 60); }},
      {"prefix", [](Inputs&) { return prefix(33, 40); }},
      {"key_range", [](Inputs&) { return key_range(5, 66); }},
      {"key_lengths", [](Inputs& in) { return key_lengths(in.keep(integers({131})).view()); }},
      {"documents",
       [](Inputs& in) {
         return documents(in.keep(integers({0, 10, 10, 41, 66})).view(),
                          in.keep(integers({0, 65, 66, 66, 140})).view());
       }},
      {"dense",
       [](Inputs& in) {
         Tensor visible = in.keep(Tensor(DType::kBool, {kShape.seqlen_q, kShape.seqlen_k}));
         for (std::int64_t n = 0; n < visible.size(); ++n)
           visible.set(n, n % 3 == 0 || n % 7 == 0 ? 1 : 0);
         return dense(visible.view());
       }},
      {"predicate",
       [](Inputs&) {
         return predicate([](std::int64_t, std::int64_t head, std::int64_t i, std::int64_t j) {
           return (i + j + head) % 3 != 0;
         });
       }},
      {"causal_and_window_and_range",
       [](Inputs&) { return causal(75) & window(50, -1, 75) & key_range(3, 149); }},
  };
}

const std::vector<std::int64_t> kPoisonedKeys{0, 4, 31, 64, 65, 66, 100, 128, 149};

class ExactNan : public testing::TestWithParam<std::tuple<std::string, DType>> {
 protected:
  Inputs inputs() const { return normal_inputs(kShape, std::get<1>(GetParam()), 41); }
  Output result_of(const Inputs& in) const { return run(in, on(std::get<0>(GetParam()))); }

  static bool sees(const Inputs& in, std::int64_t head, std::int64_t query, std::int64_t key) {
    return reference::may_see(in.options.mask, in.options.query_offset, kShape.seqlen_q,
                              kShape.seqlen_k, 0, head, query, key);
  }

  static void expect_same_row(const Output& a, const Output& b, std::int64_t head,
                              std::int64_t query, std::int64_t except = -1) {
    ASSERT_EQ(a.lse.get({0, head, query}), b.lse.get({0, head, query}))
        << "lse of row " << query << ", head " << head;
    for (std::int64_t d = 0; d < kShape.head_dim_v; ++d) {
      if (d == except) continue;
      ASSERT_EQ(a.output.get({0, query, head, d}), b.output.get({0, query, head, d}))
          << "row " << query << ", head " << head << ", component " << d;
    }
  }

  static void expect_nan_row(const Output& a, std::int64_t head, std::int64_t query) {
    ASSERT_TRUE(std::isnan(a.lse.get({0, head, query})))
        << "lse of row " << query << ", head " << head;
    for (std::int64_t d = 0; d < kShape.head_dim_v; ++d) {
      ASSERT_TRUE(std::isnan(a.output.get({0, query, head, d})))
          << "row " << query << ", head " << head << ", component " << d;
    }
  }

  // `expect(head, query)` for every row.
  static void for_rows(const std::function<void(std::int64_t, std::int64_t)>& expect) {
    for (std::int64_t h = 0; h < kShape.heads; ++h) {
      for (std::int64_t i = 0; i < kShape.seqlen_q; ++i) {
        expect(h, i);
        if (HasFatalFailure()) return;
      }
    }
  }
};

TEST_P(ExactNan, NanInAKeyTakesTheRowsThatSeeIt) {
  for (const MaskCase& mask : mask_cases()) {
    Inputs clean = inputs();
    clean.options.mask = mask.make(clean);
    const Output expected = result_of(clean);
    EXPECT_TRUE(matches_reference(expected, clean));
    for (const std::int64_t key : kPoisonedKeys) {
      SCOPED_TRACE(testing::Message() << mask.name << ", key " << key);
      Inputs poisoned = inputs();
      poisoned.options = clean.options;
      poisoned.key.set({0, key, 0, key % kShape.head_dim}, kNan);
      const Output result = result_of(poisoned);
      for_rows([&](std::int64_t h, std::int64_t i) {
        if (sees(clean, h, i, key)) {
          expect_nan_row(result, h, i);
        } else {
          expect_same_row(result, expected, h, i);
        }
      });
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(ExactNan, NanOrInfInAValueTakesThatComponentAlone) {
  for (const MaskCase& mask : mask_cases()) {
    Inputs clean = inputs();
    clean.options.mask = mask.make(clean);
    const Output expected = result_of(clean);
    EXPECT_TRUE(matches_reference(expected, clean));
    for (const double poison : {kNan, kInf, -kInf}) {
      for (const std::int64_t key : kPoisonedKeys) {
        SCOPED_TRACE(testing::Message() << mask.name << ", value " << key << " = " << poison);
        const std::int64_t component = key % kShape.head_dim_v;
        Inputs poisoned = inputs();
        poisoned.options = clean.options;
        poisoned.value.set({0, key, 0, component}, poison);
        const Output result = result_of(poisoned);
        for_rows([&](std::int64_t h, std::int64_t i) {
          if (!sees(clean, h, i, key)) return expect_same_row(result, expected, h, i);
          expect_same_row(result, expected, h, i, component);
          const double got = result.output.get({0, i, h, component});
          ASSERT_TRUE(std::isnan(poison) ? std::isnan(got) : got == poison)
              << "row " << i << ": " << got;
        });
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(ExactNan, HiddenKeysMayHoldAnything) {
  for (const MaskCase& mask : mask_cases()) {
    Inputs clean = inputs();
    clean.options.mask = mask.make(clean);
    const Output expected = result_of(clean);
    EXPECT_TRUE(matches_reference(expected, clean));
    for (const double poison : {kNan, kInf, -kInf}) {
      for (const std::int64_t key : kPoisonedKeys) {
        SCOPED_TRACE(testing::Message()
                     << mask.name << ", key and value " << key << " = " << poison);
        Inputs poisoned = inputs();
        poisoned.options = clean.options;
        for (std::int64_t d = 0; d < kShape.head_dim; ++d) poisoned.key.set({0, key, 0, d}, poison);
        for (std::int64_t d = 0; d < kShape.head_dim_v; ++d)
          poisoned.value.set({0, key, 0, d}, poison);
        const Output result = result_of(poisoned);
        for_rows([&](std::int64_t h, std::int64_t i) {
          if (!sees(clean, h, i, key)) expect_same_row(result, expected, h, i);
        });
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(ExactNan, NanInAQueryTakesItsRowUnlessItSeesNothing) {
  for (const MaskCase& mask : mask_cases()) {
    Inputs clean = inputs();
    clean.options.mask = mask.make(clean);
    const Output expected = result_of(clean);
    EXPECT_TRUE(matches_reference(expected, clean));
    for (const std::int64_t query : {0, 31, 64, 68, 69}) {
      for (const double poison : {kNan, kInf}) {
        SCOPED_TRACE(testing::Message() << mask.name << ", query " << query << " = " << poison);
        Inputs poisoned = inputs();
        poisoned.options = clean.options;
        for (std::int64_t d = 0; d < kShape.head_dim; ++d)
          poisoned.query.set({0, query, 1, d}, poison);
        const Output result = result_of(poisoned);
        for_rows([&](std::int64_t h, std::int64_t i) {
          const bool hit = h == 1 && i == query && expected.lse.get({0, h, i}) != -kInf;
          hit ? expect_nan_row(result, h, i) : expect_same_row(result, expected, h, i);
        });
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(ExactNan, AVisibleScoreOfInfinityMakesItsRowNan) {
  Inputs clean = inputs();
  const Output expected = result_of(clean);
  for (const std::int64_t key : kPoisonedKeys) {
    SCOPED_TRACE(testing::Message() << "key " << key);
    Inputs poisoned = inputs();
    poisoned.key.set({0, key, 0, 3},
                     kInf);  // scores +inf or -inf by the sign of the query's component
    const Output result = result_of(poisoned);
    for_rows([&](std::int64_t h, std::int64_t i) {
      if (clean.query.get({0, i, h, 3}) > 0) {
        expect_nan_row(result, h, i);
      } else {  // the key has weight 0
        ASSERT_TRUE(std::isfinite(result.lse.get({0, h, i}))) << "row " << i;
        ASSERT_TRUE(std::isfinite(result.output.get({0, i, h, 0}))) << "row " << i;
      }
    });
    if (HasFatalFailure()) return;
  }
}

TEST_P(ExactNan, BiasOfMinusInfinityHidesNan) {
  Inputs clean = inputs();
  Tensor bias = clean.keep(Tensor(DType::kFloat32, {kShape.seqlen_q, kShape.seqlen_k}).fill(0.25));
  for (std::int64_t i = 0; i < kShape.seqlen_q; ++i) bias.set({i, 66}, -kInf);
  for (std::int64_t i = 20; i < 40; ++i) bias.set({i, 100}, -kInf);
  for (std::int64_t j = 0; j < kShape.seqlen_k; ++j) bias.set({55, j}, -kInf);
  clean.options.bias = bias.view();
  const Output expected = result_of(clean);
  Inputs poisoned = inputs();
  poisoned.options = clean.options;
  for (const std::int64_t key : {66, 100}) {
    for (std::int64_t d = 0; d < kShape.head_dim; ++d) poisoned.key.set({0, key, 0, d}, kNan);
    for (std::int64_t d = 0; d < kShape.head_dim_v; ++d) poisoned.value.set({0, key, 0, d}, kInf);
  }
  const Output result = result_of(poisoned);
  for_rows([&](std::int64_t h, std::int64_t i) {
    const bool hidden = (i >= 20 && i < 40) || i == 55;
    hidden ? expect_same_row(result, expected, h, i) : expect_nan_row(result, h, i);
  });
  EXPECT_EQ(result.lse.get({0, 0, 55}), -kInf);
  EXPECT_EQ(result.output.get({0, 55, 0, 0}), 0.0);
}

TEST_P(ExactNan, ANanOfTheBiasMattersWhereItIsVisible) {
  for (const double poison : {kNan, kInf}) {
    Inputs clean = inputs();
    clean.options.mask = causal(75);
    Tensor bias =
        clean.keep(Tensor(DType::kFloat32, {kShape.seqlen_q, kShape.seqlen_k}).fill(0.25));
    clean.options.bias = bias.view();
    const Output expected = result_of(clean);
    for (std::int64_t i = 0; i < kShape.seqlen_q; ++i)
      bias.set({i, 100}, poison);  // seen by rows 25 and up
    const Output result = result_of(clean);
    for_rows([&](std::int64_t h, std::int64_t i) {
      i + 75 >= 100 ? expect_nan_row(result, h, i) : expect_same_row(result, expected, h, i);
    });
    if (HasFatalFailure()) return;
  }
}

TEST_P(ExactNan, SinksOfRowsThatSeeNothing) {
  Inputs in = inputs();
  in.query.fill(kNan);
  in.value.fill(kNan);
  in.options.mask = key_range(7, 7);
  in.options.sinks =
      in.keep(Tensor(DType::kFloat32, {kShape.heads}).fill_values({1.5, -0.25})).view();
  const Output result = result_of(in);
  for_rows([&](std::int64_t h, std::int64_t i) {
    ASSERT_EQ(result.lse.get({0, h, i}), h == 0 ? 1.5 : -0.25);
    for (std::int64_t d = 0; d < kShape.head_dim_v; ++d)
      ASSERT_EQ(result.output.get({0, i, h, d}), 0.0);
  });
}

INSTANTIATE_TEST_SUITE_P(Kernels, ExactNan,
                         testing::ValuesIn(kernels_and_types({DType::kFloat32, DType::kFloat64,
                                                              DType::kFloat16, DType::kBFloat16})),
                         [](const auto& one) {
                           return std::get<0>(one.param) + "_" +
                                  longspan::name_of(std::get<1>(one.param));
                         });

}  // namespace
}  // namespace longspan::test
