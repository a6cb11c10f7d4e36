// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// NaN and inf in the backward pass: hidden ones never leak and change no bit, a visible NaN makes
// exactly the gradients that depend on it NaN.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "reference/mask_reference.h"
#include "support/backward.h"

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

std::vector<MaskCase> mask_cases() {
  return {
      {"causal", [](Inputs&) { return causal(75); }},
      {"causal_from_the_start", [](Inputs&) { return causal(-3); }},  // three rows see nothing
      {"window", [](Inputs&) { return window(9, 20, 60); }},
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
         for (std::int64_t j = 0; j < kShape.seqlen_k; ++j) visible.set({68, j}, 0);
         return dense(visible.view());
       }},
      {"predicate_and_range",
       [](Inputs&) {
         return key_range(3, 149) &
                predicate([](std::int64_t, std::int64_t head, std::int64_t i, std::int64_t j) {
                  return (i + j + head) % 3 != 0 && i != 31;
                });
       }},
  };
}

const std::vector<std::int64_t> kKeys{4, 66, 128, 149};
const std::vector<std::int64_t> kQueries{0, 31, 68};

// Which pairs of a call are visible, by the definition.
class Visibility {
 public:
  explicit Visibility(const Inputs& in) {
    for (std::int64_t h = 0; h < kShape.heads; ++h)
      for (std::int64_t i = 0; i < kShape.seqlen_q; ++i)
        for (std::int64_t j = 0; j < kShape.seqlen_k; ++j)
          seen_.push_back(reference::may_see(in.options.mask, in.options.query_offset,
                                             kShape.seqlen_q, kShape.seqlen_k, 0, h, i, j));
  }
  bool operator()(std::int64_t head, std::int64_t query, std::int64_t key) const {
    return seen_[static_cast<std::size_t>((head * kShape.seqlen_q + query) * kShape.seqlen_k +
                                          key)];
  }
  bool any(std::int64_t head, std::int64_t query) const {
    for (std::int64_t j = 0; j < kShape.seqlen_k; ++j)
      if ((*this)(head, query, j)) return true;
    return false;
  }

 private:
  std::vector<bool> seen_;
};

// What a poisoned element reaches.
struct Reach {
  std::set<std::pair<std::int64_t, std::int64_t>> rows;  // (head, query) whose dquery is NaN
  bool values = false;                // dvalue of the keys that those rows see, too
  std::int64_t value_component = -1;  // of one component alone; -1: all
};

class ExactBackwardNan : public testing::TestWithParam<std::tuple<std::string, DType>> {
 protected:
  // With scores that are terms, a bias and sinks, the gradients of these are looked at as well.
  static Inputs inputs(DType dtype, bool terms) {
    Inputs in = normal_inputs(kShape, dtype, 41);
    if (!terms) return in;
    Random random(42);
    in.options.bias =
        in.keep(Tensor(DType::kFloat32, {kShape.seqlen_q, kShape.seqlen_k}).fill_normal(random))
            .view();
    in.options.sinks = in.keep(Tensor(DType::kFloat32, {kShape.heads}).fill(0.5)).view();
    in.options.softcap = 5;
    return in;
  }

  struct Call {
    Inputs inputs;
    Derivatives derivatives;
    const Visibility& sees;
  };
  Call call(const MaskCase& mask, bool terms) const {
    const DType dtype = std::get<1>(GetParam());
    Inputs in = inputs(dtype, terms);
    in.options.mask = mask.make(in);
    static std::map<std::string, Visibility> visible;  // by the mask's name
    const Visibility& sees = visible.try_emplace(mask.name, in).first->second;
    return {in, normal_derivatives(in, dtype, 43), sees};
  }
  GradientTensors gradients_of(const Inputs& in, const Derivatives& derivatives) const {
    const Execution execution = on(std::get<0>(GetParam()), 2);
    return run_backward(in, run(in, execution), derivatives, execution);
  }
  GradientTensors gradients_of(const Call& call) const {
    return gradients_of(call.inputs, call.derivatives);
  }

  static Reach rows_that_see(const Call& call, std::int64_t key) {
    Reach reach;
    for (std::int64_t h = 0; h < kShape.heads; ++h)
      for (std::int64_t i = 0; i < kShape.seqlen_q; ++i)
        if (call.sees(h, i, key)) reach.rows.insert({h, i});
    return reach;
  }
  static Reach row_alone(const Call& call, std::int64_t head, std::int64_t query) {
    Reach reach;
    if (call.sees.any(head, query)) reach.rows.insert({head, query});
    return reach;
  }

  static testing::AssertionResult agrees(double actual, double clean, bool nan) {
    if (nan ? std::isnan(actual) : actual == clean) return testing::AssertionSuccess();
    return testing::AssertionFailure() << actual << " for " << (nan ? kNan : clean);
  }

  // Every element is NaN where the poison reaches it, and has the clean run's value elsewhere. With
  // `only_elsewhere` (inf as poison) what is reached may be anything.
  static void expect(const Call& call, const GradientTensors& actual, const GradientTensors& clean,
                     const Reach& reach, bool only_elsewhere = false) {
    const Inputs& in = call.inputs;
    const auto check = [&](const Tensor& a, const Tensor& b, std::int64_t n, bool reached) {
      if (reached && only_elsewhere) return testing::AssertionSuccess();
      return agrees(a.get(n), b.get(n), reached);
    };
    for (std::int64_t h = 0; h < kShape.heads; ++h) {
      for (std::int64_t i = 0; i < kShape.seqlen_q; ++i) {
        const bool reached = reach.rows.contains({h, i});
        for (std::int64_t d = 0; d < kShape.head_dim; ++d) {
          const std::int64_t n = actual.query.number_of({0, i, h, d});
          ASSERT_TRUE(check(actual.query, clean.query, n, reached))
              << "dquery of row " << i << ", head " << h << ", component " << d;
        }
      }
    }
    for (std::int64_t j = 0; j < kShape.seqlen_k; ++j) {
      bool reached = false;
      for (const auto& [h, i] : reach.rows) reached = reached || call.sees(h, i, j);
      for (std::int64_t d = 0; d < kShape.head_dim; ++d) {
        const std::int64_t n = actual.key.number_of({0, j, 0, d});
        ASSERT_TRUE(check(actual.key, clean.key, n, reached))
            << "dkey of key " << j << ", component " << d;
      }
      for (std::int64_t d = 0; d < kShape.head_dim_v; ++d) {
        const bool component = reach.value_component == -1 || reach.value_component == d;
        const std::int64_t n = actual.value.number_of({0, j, 0, d});
        ASSERT_TRUE(check(actual.value, clean.value, n, reached && reach.values && component))
            << "dvalue of key " << j << ", component " << d;
      }
    }
    if (is_given(in.options.bias)) {
      for (std::int64_t i = 0; i < kShape.seqlen_q; ++i) {
        for (std::int64_t j = 0; j < kShape.seqlen_k; ++j) {
          bool reached = false;
          for (std::int64_t h = 0; h < kShape.heads; ++h)
            reached = reached || (reach.rows.contains({h, i}) && call.sees(h, i, j));
          const std::int64_t n = actual.bias.number_of({i, j});
          ASSERT_TRUE(check(actual.bias, clean.bias, n, reached)) << "dbias of " << i << ", " << j;
        }
      }
    }
    for (std::int64_t h = 0; is_given(in.options.sinks) && h < kShape.heads; ++h) {
      bool reached = false;
      for (const auto& row : reach.rows) reached = reached || row.first == h;
      ASSERT_TRUE(check(actual.sinks, clean.sinks, h, reached)) << "dsinks of head " << h;
    }
  }

  // `body(call, clean gradients)` for every mask, without and with further terms of the scores.
  void for_masks(const std::function<void(const Call&, const GradientTensors&, const MaskCase&,
                                          bool terms)>& body) const {
    for (const MaskCase& mask : mask_cases()) {
      for (const bool terms : {false, true}) {
        SCOPED_TRACE(testing::Message() << mask.name << (terms ? ", bias and sinks" : ""));
        const Call clean = call(mask, terms);
        const GradientTensors gradients = gradients_of(clean);
        body(clean, gradients, mask, terms);
        if (HasFatalFailure()) return;
      }
    }
  }
};

TEST_P(ExactBackwardNan, WithoutNanTheReferenceIsMet) {
  for_masks([&](const Call& clean, const GradientTensors& gradients, const MaskCase&, bool) {
    EXPECT_TRUE(matches_reference(gradients, clean.inputs, clean.derivatives));
  });
}

TEST_P(ExactBackwardNan, NanInAKeyTakesTheRowsThatSeeIt) {
  for_masks([&](const Call&, const GradientTensors& clean, const MaskCase& mask, bool terms) {
    for (const std::int64_t key : kKeys) {
      SCOPED_TRACE(testing::Message() << "key " << key);
      Call poisoned = call(mask, terms);
      poisoned.inputs.key.set({0, key, 0, key % kShape.head_dim}, kNan);
      Reach reach = rows_that_see(poisoned, key);
      reach.values = true;
      expect(poisoned, gradients_of(poisoned), clean, reach);
      if (HasFatalFailure()) return;
    }
  });
}

TEST_P(ExactBackwardNan, NanInAValueSparesTheGradientsOfValues) {
  for_masks([&](const Call&, const GradientTensors& clean, const MaskCase& mask, bool terms) {
    for (const std::int64_t key : kKeys) {
      SCOPED_TRACE(testing::Message() << "value " << key);
      Call poisoned = call(mask, terms);
      poisoned.inputs.value.set({0, key, 0, key % kShape.head_dim_v}, kNan);
      expect(poisoned, gradients_of(poisoned), clean, rows_that_see(poisoned, key));
      if (HasFatalFailure()) return;
    }
  });
}

TEST_P(ExactBackwardNan, HiddenKeysAndValuesMayHoldAnything) {
  for_masks([&](const Call&, const GradientTensors& clean, const MaskCase& mask, bool terms) {
    for (const double poison : {kNan, -kInf}) {
      for (const std::int64_t key : kKeys) {
        SCOPED_TRACE(testing::Message() << "key and value " << key << " = " << poison);
        Call poisoned = call(mask, terms);
        for (std::int64_t d = 0; d < kShape.head_dim; ++d)
          poisoned.inputs.key.set({0, key, 0, d}, poison);
        for (std::int64_t d = 0; d < kShape.head_dim_v; ++d)
          poisoned.inputs.value.set({0, key, 0, d}, poison);
        Reach reach = rows_that_see(poisoned, key);
        reach.values = true;
        constexpr bool kOnlyElsewhere = true;
        expect(poisoned, gradients_of(poisoned), clean, reach, kOnlyElsewhere);
        if (HasFatalFailure()) return;
      }
    }
  });
}

TEST_P(ExactBackwardNan, AKeyThatNobodySeesHasZeroGradients) {
  for_masks([&](const Call&, const GradientTensors&, const MaskCase& mask, bool terms) {
    Call poisoned = call(mask, terms);
    std::vector<std::int64_t> unseen;
    for (std::int64_t j = 0; j < kShape.seqlen_k; ++j) {
      if (!rows_that_see(poisoned, j).rows.empty()) continue;
      unseen.push_back(j);
      for (std::int64_t d = 0; d < kShape.head_dim; ++d)
        poisoned.inputs.key.set({0, j, 0, d}, kNan);
      for (std::int64_t d = 0; d < kShape.head_dim_v; ++d)
        poisoned.inputs.value.set({0, j, 0, d}, kInf);
    }
    const GradientTensors gradients = gradients_of(poisoned);
    for (const std::int64_t j : unseen) {
      for (std::int64_t d = 0; d < kShape.head_dim; ++d)
        ASSERT_EQ(gradients.key.get({0, j, 0, d}), 0.0) << "key " << j;
      for (std::int64_t d = 0; d < kShape.head_dim_v; ++d)
        ASSERT_EQ(gradients.value.get({0, j, 0, d}), 0.0) << "key " << j;
    }
  });
}

TEST_P(ExactBackwardNan, NanInAQueryTakesItsRowUnlessItSeesNothing) {
  for_masks([&](const Call&, const GradientTensors& clean, const MaskCase& mask, bool terms) {
    for (const std::int64_t query : kQueries) {
      SCOPED_TRACE(testing::Message() << "query " << query);
      Call poisoned = call(mask, terms);
      poisoned.inputs.query.set({0, query, 1, query % kShape.head_dim}, kNan);
      Reach reach = row_alone(poisoned, 1, query);
      reach.values = true;
      expect(poisoned, gradients_of(poisoned), clean, reach);
      if (HasFatalFailure()) return;
    }
  });
}

TEST_P(ExactBackwardNan, NanInDoutputOfARowThatSees) {
  for_masks([&](const Call&, const GradientTensors& clean, const MaskCase& mask, bool terms) {
    for (const std::int64_t query : kQueries) {
      SCOPED_TRACE(testing::Message() << "doutput " << query);
      Call poisoned = call(mask, terms);
      if (!poisoned.sees.any(1, query)) continue;
      const std::int64_t component = query % kShape.head_dim_v;
      poisoned.derivatives.output.set({0, query, 1, component}, kNan);
      Reach reach = row_alone(poisoned, 1, query);
      reach.values = true;
      reach.value_component = component;
      expect(poisoned, gradients_of(poisoned), clean, reach);
      if (HasFatalFailure()) return;
    }
  });
}

TEST_P(ExactBackwardNan, NanInDlseOfARowThatSees) {
  for_masks([&](const Call&, const GradientTensors& clean, const MaskCase& mask, bool terms) {
    for (const std::int64_t query : kQueries) {
      SCOPED_TRACE(testing::Message() << "dlse " << query);
      Call poisoned = call(mask, terms);
      if (!poisoned.sees.any(0, query)) continue;
      poisoned.derivatives.lse.set({0, 0, query}, kNan);
      expect(poisoned, gradients_of(poisoned), clean, row_alone(poisoned, 0, query));
      if (HasFatalFailure()) return;
    }
  });
}

// Without sinks: a row that has one sees it.
TEST_P(ExactBackwardNan, RowsThatSeeNothingHaveZeroGradientsWhateverTheyHold) {
  constexpr bool kPlain = false;
  for (const MaskCase& mask : mask_cases()) {
    const GradientTensors clean = gradients_of(call(mask, kPlain));
    for (const double poison : {kNan, kInf}) {
      SCOPED_TRACE(testing::Message() << mask.name << ", " << poison);
      Call poisoned = call(mask, kPlain);
      for (std::int64_t h = 0; h < kShape.heads; ++h) {
        for (std::int64_t i = 0; i < kShape.seqlen_q; ++i) {
          if (poisoned.sees.any(h, i)) continue;
          for (std::int64_t d = 0; d < kShape.head_dim; ++d)
            poisoned.inputs.query.set({0, i, h, d}, poison);
          for (std::int64_t d = 0; d < kShape.head_dim_v; ++d)
            poisoned.derivatives.output.set({0, i, h, d}, poison);
          poisoned.derivatives.lse.set({0, h, i}, poison);
        }
      }
      const GradientTensors gradients = gradients_of(poisoned);
      ASSERT_TRUE(same_bits(gradients, clean));
      for (std::int64_t h = 0; h < kShape.heads; ++h) {
        for (std::int64_t i = 0; i < kShape.seqlen_q; ++i) {
          if (!poisoned.sees.any(h, i)) {
            ASSERT_EQ(gradients.query.get({0, i, h, 0}), 0.0) << "row " << i;
          }
        }
      }
    }
  }
}

TEST_P(ExactBackwardNan, BiasOfMinusInfinityHidesNan) {
  const DType dtype = std::get<1>(GetParam());
  const auto make = [&](double poison) {
    Inputs in = normal_inputs(kShape, dtype, 41);
    Tensor bias = in.keep(Tensor(DType::kFloat32, {kShape.seqlen_q, kShape.seqlen_k}).fill(0.25));
    for (std::int64_t i = 0; i < kShape.seqlen_q; ++i) bias.set({i, 66}, -kInf);
    for (std::int64_t j = 0; j < kShape.seqlen_k; ++j) bias.set({55, j}, -kInf);
    in.options.bias = bias.view();
    if (poison == 0) return in;
    for (std::int64_t d = 0; d < kShape.head_dim; ++d) {
      in.key.set({0, 66, 0, d}, poison);
      in.query.set({0, 55, 0, d}, poison);
    }
    for (std::int64_t d = 0; d < kShape.head_dim_v; ++d) in.value.set({0, 66, 0, d}, poison);
    return in;
  };
  const Inputs clean = make(0);
  const Derivatives derivatives = normal_derivatives(clean, dtype, 43);
  const GradientTensors expected = gradients_of(clean, derivatives);
  ASSERT_TRUE(matches_reference(expected, clean, derivatives));
  for (const double poison : {kNan, kInf}) {
    const GradientTensors gradients = gradients_of(make(poison), derivatives);
    EXPECT_TRUE(same_bits(gradients, expected)) << poison;
    EXPECT_EQ(gradients.key.get({0, 66, 0, 3}), 0.0);
    EXPECT_EQ(gradients.bias.get({7, 66}), 0.0);
    EXPECT_EQ(gradients.bias.get({55, 7}), 0.0);
  }
}

TEST_P(ExactBackwardNan, AVisibleScoreOfInfinityMakesItsRowNan) {
  Call poisoned = call({"none", [](Inputs&) { return Mask(); }}, false);
  const Call clean = call({"none", [](Inputs&) { return Mask(); }}, false);
  poisoned.inputs.key.set({0, 100, 0, 3}, kInf);  // score +inf where the query's component is > 0
  const GradientTensors gradients = gradients_of(poisoned);
  for (std::int64_t h = 0; h < kShape.heads; ++h) {
    for (std::int64_t i = 0; i < kShape.seqlen_q; ++i) {
      if (clean.inputs.query.get({0, i, h, 3}) > 0) {
        ASSERT_TRUE(std::isnan(gradients.query.get({0, i, h, 0}))) << "row " << i;
      } else {  // the key has weight 0
        ASSERT_TRUE(std::isfinite(gradients.query.get({0, i, h, 0}))) << "row " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, ExactBackwardNan,
                         testing::ValuesIn(kernels_and_types({DType::kFloat32, DType::kFloat64,
                                                              DType::kFloat16, DType::kBFloat16})),
                         [](const auto& one) {
                           return std::get<0>(one.param) + "_" +
                                  longspan::name_of(std::get<1>(one.param));
                         });

}  // namespace
}  // namespace longspan::test
