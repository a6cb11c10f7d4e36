// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// clear and merge over tensors against the rule in float64: the identity, any order, any number,
// any dtype and strides.
#include "longspan/partial.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "support/call.h"
#include "support/compare.h"

namespace longspan::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

struct Part {
  Tensor output, lse;
  operator Partial() { return {output, lse}; }             // NOLINT(google-explicit-constructor)
  operator ConstPartial() const { return {output, lse}; }  // NOLINT(google-explicit-constructor)
};

std::vector<std::int64_t> lse_shape(const std::vector<std::int64_t>& s) {
  if (s.size() == 4) return {s[0], s[2], s[1]};
  if (s.size() == 3) return {s[1], s[0]};
  return {s[0]};
}

Part empty_part(const std::vector<std::int64_t>& shape, DType output = DType::kFloat32,
                DType lse = DType::kFloat32, Layout layout = Layout::kRowMajor) {
  return {Tensor(output, shape, layout), Tensor(lse, lse_shape(shape), layout)};
}

Part random_part(Random& random, const std::vector<std::int64_t>& shape, double centre = 0,
                 DType output = DType::kFloat32, DType lse = DType::kFloat32,
                 Layout layout = Layout::kRowMajor) {
  Part part = empty_part(shape, output, lse, layout);
  part.output.fill_normal(random);
  for (std::int64_t n = 0; n < part.lse.size(); ++n) part.lse.set(n, centre + 3 * random.normal());
  return part;
}

Part copy_of(const Part& part) {
  Part copy = empty_part(part.output.shape(), part.output.view().dtype, part.lse.view().dtype);
  copy.output.fill_values(part.output.values());
  copy.lse.fill_values(part.lse.values());
  return copy;
}

void merge_all(Part& into, const std::vector<Part>& parts, const Execution& execution = {}) {
  const std::vector<ConstPartial> views(parts.begin(), parts.end());
  merge(into, views, execution);
}

// Row numbers of lse ([.., heads, seqlen]) for rows in the order of output ([.., seqlen, heads]).
std::vector<std::size_t> lse_rows(const ConstTensorView& output) {
  const std::int64_t batch = output.rank == 4 ? output.shape[0] : 1;
  const std::int64_t seqlen = output.shape[output.rank == 4 ? 1 : 0];
  const std::int64_t heads = output.rank >= 3 ? output.shape[output.rank - 2] : 1;
  std::vector<std::size_t> rows;
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t i = 0; i < seqlen; ++i)
      for (std::int64_t h = 0; h < heads; ++h)
        rows.push_back(static_cast<std::size_t>((b * heads + h) * seqlen + i));
  return rows;
}

struct Merged {
  std::vector<double> output, lse;
};

// The rule, row by row in float64.
Merged literal_merge(const std::vector<Part>& parts) {
  const ConstTensorView shape = parts.front().output;
  const auto dim = static_cast<std::size_t>(shape.shape[shape.rank - 1]);
  Merged merged{parts.front().output.values(), parts.front().lse.values()};
  std::vector<Merged> values;
  for (const Part& part : parts) values.push_back({part.output.values(), part.lse.values()});
  const std::vector<std::size_t> rows = lse_rows(shape);
  for (std::size_t row = 0; row < rows.size(); ++row) {
    const std::size_t at = rows[row];
    double largest = -kInf;
    bool poisoned = false;
    for (const Merged& part : values) {
      poisoned = poisoned || std::isnan(part.lse[at]) || part.lse[at] == kInf;
      largest = std::max(largest, part.lse[at]);
    }
    double sum = 0;
    std::vector<double> total(dim, 0.0);
    for (const Merged& part : values) {
      if (part.lse[at] == -kInf) continue;
      const double weight = std::exp(part.lse[at] - largest);
      sum += weight;
      for (std::size_t d = 0; d < dim; ++d) total[d] += weight * part.output[row * dim + d];
    }
    merged.lse[at] = poisoned ? kNan : sum > 0 ? largest + std::log(sum) : -kInf;
    for (std::size_t d = 0; d < dim; ++d) {
      merged.output[row * dim + d] = poisoned ? kNan : sum > 0 ? total[d] / sum : 0.0;
    }
  }
  return merged;
}

void expect_merged(const Part& into, const Merged& truth) {
  const double output_step = into.output.view().dtype == DType::kFloat64   ? 1e-14
                             : into.output.view().dtype == DType::kFloat32 ? 1e-7
                             : into.output.view().dtype == DType::kFloat16 ? 5e-4
                                                                           : 4e-3;
  const double lse_step = into.lse.view().dtype == DType::kFloat64 ? 1e-14 : 1.2e-7;
  EXPECT_TRUE(within_rel_l2(into.output.values(), truth.output, output_step));
  EXPECT_TRUE(within_elementwise(into.lse.values(), truth.lse, lse_step, lse_step));
}

const std::vector<std::int64_t> kShape{2, 5, 3, 7};

TEST(Clear, WritesTheIdentity) {
  for (int layout = 0; layout < kOutputLayouts; ++layout) {
    for (const DType dtype :
         {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
      Part part = empty_part(kShape, dtype, DType::kFloat32, static_cast<Layout>(layout));
      part.output.fill(kNan);
      part.lse.fill(kNan);
      clear(part);
      for (const double x : part.output.values()) ASSERT_EQ(x, 0.0);
      for (const double x : part.lse.values()) ASSERT_EQ(x, -kInf);
      EXPECT_TRUE(part.output.surroundings_untouched());
      EXPECT_TRUE(part.lse.surroundings_untouched());
    }
  }
}

TEST(Merge, FollowsTheRule) {
  for (const std::size_t count : {1u, 2u, 3u, 17u}) {
    for (const double centre : {0.0, 50.0, -700.0, -1e5, 1e5}) {
      Random random(count);
      std::vector<Part> parts;
      for (std::size_t n = 0; n < count; ++n) parts.push_back(random_part(random, kShape, centre));
      Part into = random_part(random, kShape, centre);
      std::vector<Part> all = parts;
      all.push_back(copy_of(into));
      const Merged truth = literal_merge(all);
      merge_all(into, parts);
      SCOPED_TRACE(testing::Message() << count << " parts around lse " << centre);
      expect_merged(into, truth);
    }
  }
}

TEST(Merge, IdentityChangesNoBitAndIsNeverRead) {
  Random random(1);
  Part part = random_part(random, kShape, -3);
  part.output.set(0, -0.0);
  Part identity = empty_part(kShape);
  identity.output.fill(kNan);  // lse -inf: nobody may read this
  identity.lse.fill(-kInf);

  Part into = copy_of(part);
  merge_all(into, {identity});
  EXPECT_TRUE(same_bits(into.output, part.output) && same_bits(into.lse, part.lse))
      << "identity from the right";

  into = copy_of(part);
  merge_all(into, {});
  EXPECT_TRUE(same_bits(into.output, part.output) && same_bits(into.lse, part.lse))
      << "no part at all";

  into = copy_of(identity);
  merge_all(into, {part});
  EXPECT_TRUE(same_bits(into.output, part.output) && same_bits(into.lse, part.lse))
      << "identity from the left";

  into = copy_of(identity);
  merge_all(into, {identity, part, identity});
  EXPECT_TRUE(same_bits(into.output, part.output) && same_bits(into.lse, part.lse))
      << "identities around";

  Part pair = copy_of(part), framed = copy_of(part);
  const Part other = random_part(random, kShape);
  merge_all(pair, {other});
  merge_all(framed, {identity, other, identity});
  EXPECT_TRUE(same_bits(pair.output, framed.output) && same_bits(pair.lse, framed.lse))
      << "between two";
}

TEST(Merge, OneNarrowPartAmongEmptyOnesKeepsItsBits) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat64}) {
    Random random(2);
    const Part part = random_part(random, kShape, 0, dtype);
    Part into = empty_part(kShape, dtype);
    clear(into);
    merge_all(into, {part});
    EXPECT_TRUE(same_bits(into.output, part.output) && same_bits(into.lse, part.lse));
  }
}

TEST(Merge, EmptyWithEmptyIsEmpty) {
  Part into = empty_part(kShape), other = empty_part(kShape);
  clear(into);
  clear(other);
  other.output.fill(kNan);
  merge_all(into, {other, other});
  for (const double x : into.output.values()) ASSERT_EQ(x, 0.0);
  for (const double x : into.lse.values()) ASSERT_EQ(x, -kInf);
}

TEST(Merge, InfinityAndNanPoisonTheirRowsAlone) {
  for (const double bad : {kInf, kNan}) {
    for (const bool in_into : {false, true}) {
      Random random(3);
      Part part = random_part(random, kShape), into = random_part(random, kShape);
      (in_into ? into : part).lse.set({1, 2, 4}, bad);
      const Merged truth = literal_merge({copy_of(into), part});
      merge_all(into, {part});
      EXPECT_TRUE(std::isnan(into.lse.get({1, 2, 4})));
      for (int d = 0; d < 7; ++d) EXPECT_TRUE(std::isnan(into.output.get({1, 4, 2, d})));
      expect_merged(into, truth);
    }
  }
}

TEST(Merge, NanInAnOutputWithOrdinaryLseStaysInItsComponent) {
  Random random(4);
  Part part = random_part(random, kShape), into = random_part(random, kShape);
  part.output.set({0, 3, 1, 5}, kNan);
  const Merged truth = literal_merge({copy_of(into), part});
  merge_all(into, {part});
  expect_merged(into, truth);
  EXPECT_TRUE(std::isnan(into.output.get({0, 3, 1, 5})));
  EXPECT_FALSE(std::isnan(into.output.get({0, 3, 1, 4})));
}

TEST(Merge, AThousandPartsLoseNothing) {
  Random random(5);
  std::vector<Part> parts;
  for (int n = 0; n < 1000; ++n) parts.push_back(random_part(random, {1, 2, 1, 3}, -1e5));
  Part into = empty_part({1, 2, 1, 3});
  clear(into);
  merge_all(into, parts);
  expect_merged(into, literal_merge(parts));
}

TEST(Merge, EqualPartsKeepOutputAndAddTheLogOfTheirNumber) {
  Random random(6);
  const Part part = random_part(random, kShape);
  for (int count : {2, 8, 1000}) {
    Part into = empty_part(kShape);
    clear(into);
    merge_all(into, std::vector<Part>(static_cast<std::size_t>(count), part));
    std::vector<double> lse = part.lse.values();
    for (double& x : lse) x += std::log(count);
    EXPECT_TRUE(within_rel_l2(into.output.values(), part.output.values(), 1e-7));
    EXPECT_TRUE(within_elementwise(into.lse.values(), lse, 2e-7, 1.2e-7));
  }
}

TEST(Merge, AnyOrderAndGroupingWithinRounding) {
  Random random(7);
  std::vector<Part> parts;
  for (int n = 0; n < 6; ++n)
    parts.push_back(random_part(random, kShape, 0, DType::kFloat64, DType::kFloat64));
  const Merged truth = literal_merge(parts);
  std::vector<std::size_t> order(parts.size());
  std::iota(order.begin(), order.end(), 0u);
  for (int shuffle = 0; shuffle < 8; ++shuffle) {
    Part left = empty_part(kShape, DType::kFloat64, DType::kFloat64);
    Part right = empty_part(kShape, DType::kFloat64, DType::kFloat64);
    clear(left);
    clear(right);
    merge_all(left, {parts[order[0]], parts[order[1]]});
    merge_all(right, {parts[order[2]], parts[order[3]], parts[order[4]]});
    merge_all(right, {parts[order[5]]});
    merge_all(left, {right});
    expect_merged(left, truth);
    for (std::size_t n = order.size() - 1; n > 0; --n) {
      std::swap(order[n],
                order[static_cast<std::size_t>(random.between(0, static_cast<std::int64_t>(n)))]);
    }
  }
}

TEST(Merge, DTypesRanksAndStrides) {
  Random random(8);
  for (const std::vector<std::int64_t>& shape :
       std::vector<std::vector<std::int64_t>>{{2, 5, 3, 7}, {5, 3, 16}, {9, 65}, {1, 1, 1, 1}}) {
    for (const DType dtype :
         {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
      for (const DType lse : {DType::kFloat32, DType::kFloat64}) {
        for (int layout = 0; layout < kOutputLayouts; ++layout) {
          const auto other = static_cast<Layout>((layout + 1) % kOutputLayouts);
          const std::vector<Part> parts{
              random_part(random, shape, 0, DType::kFloat32, lse, other),
              random_part(random, shape, 0, dtype, DType::kFloat32, Layout::kReversed)};
          Part into = random_part(random, shape, 0, dtype, lse, static_cast<Layout>(layout));
          std::vector<Part> all = parts;
          all.push_back(copy_of(into));
          const Merged truth = literal_merge(all);
          merge_all(into, parts);
          SCOPED_TRACE(testing::Message()
                       << longspan::name_of(dtype) << ", lse " << longspan::name_of(lse) << ", "
                       << name_of(static_cast<Layout>(layout)) << ", rank " << shape.size());
          expect_merged(into, truth);
          EXPECT_TRUE(into.output.surroundings_untouched());
          EXPECT_TRUE(into.lse.surroundings_untouched());
        }
      }
    }
  }
}

TEST(Merge, SameBitsForAnyThreads) {
  Random random(9);
  std::vector<Part> parts;
  for (int n = 0; n < 4; ++n) parts.push_back(random_part(random, {2, 130, 3, 33}));
  const Part start = random_part(random, {2, 130, 3, 33});
  Execution execution;
  execution.threads = 1;
  Part one = copy_of(start);
  merge_all(one, parts, execution);
  for (const int threads : {2, 3, 7}) {
    execution.threads = threads;
    Part several = copy_of(start);
    merge_all(several, parts, execution);
    EXPECT_TRUE(same_bits(one.output, several.output) && same_bits(one.lse, several.lse))
        << threads;
  }
}

TEST(Merge, EmptyTensors) {
  for (const std::vector<std::int64_t>& shape : std::vector<std::vector<std::int64_t>>{
           {0, 5, 3, 7}, {2, 0, 3, 7}, {2, 5, 0, 7}, {0, 3, 7}, {0, 7}}) {
    Part into = empty_part(shape), part = empty_part(shape);
    EXPECT_NO_THROW(clear(into));
    EXPECT_NO_THROW(merge_all(into, {part}));
  }
}

TEST(Merge, PrefixAndSuffixOfAttentionAreTheWhole) {
  Inputs inputs = normal_inputs({.batch = 2,
                                 .seqlen_q = 21,
                                 .seqlen_k = 131,
                                 .heads = 4,
                                 .heads_kv = 2,
                                 .head_dim = 24,
                                 .head_dim_v = 9},
                                DType::kFloat32, 10);
  inputs.options.query_offset = QueryOffset::end();
  for (const Mask& mask : {Mask(), causal(), window(40, 3)}) {
    inputs.options.mask = mask;
    const reference::AttentionResult truth = truth_of(inputs);
    for (const std::int64_t cut : {0, 1, 64, 111, 130, 131}) {
      Inputs prefix_inputs = inputs, suffix_inputs = inputs;
      prefix_inputs.options.mask = mask & key_range(0, cut);
      suffix_inputs.options.mask = mask & key_range(cut, 131);
      const Output suffix = run(suffix_inputs);
      Output whole = run(prefix_inputs);
      const ConstPartial part{suffix.output, suffix.lse};
      merge({whole.output, whole.lse}, {&part, 1});
      EXPECT_TRUE(within_rel_l2(whole.output.values(), truth.output, 2e-6)) << "cut at " << cut;
      EXPECT_TRUE(within_elementwise(whole.lse.values(), truth.lse, 2e-6, 1e-6))
          << "cut at " << cut;
    }
  }
}

class MergeErrors : public testing::Test {
 protected:
  testing::AssertionResult refused(Part into, const std::vector<Part>& parts,
                                   std::initializer_list<std::string> words) {
    return throws_error([&] { merge_all(into, parts); }, ErrorCode::kInvalidArgument, words);
  }
  const Part good_ = empty_part({2, 5, 3, 7});
};

TEST_F(MergeErrors, ShapesMustAgree) {
  EXPECT_TRUE(
      refused(good_, {good_, empty_part({2, 5, 3, 8})}, {"[2, 5, 3, 7]", "[2, 5, 3, 8]", "1"}));
  EXPECT_TRUE(refused(good_, {empty_part({2, 6, 3, 7})}, {"[2, 5, 3, 7]", "[2, 6, 3, 7]"}));
  EXPECT_TRUE(refused(good_, {empty_part({5, 3, 7})}, {"[5, 3, 7]"}));
  EXPECT_TRUE(refused({good_.output, Tensor(DType::kFloat32, {2, 5, 3})}, {}, {"[2, 5, 3]"}));
  EXPECT_TRUE(refused(good_, {{good_.output, Tensor(DType::kFloat32, {2, 5, 3})}}, {"[2, 5, 3]"}));
}

TEST_F(MergeErrors, DTypesMustBeFloating) {
  EXPECT_TRUE(refused(good_, {{Tensor(DType::kInt32, {2, 5, 3, 7}), good_.lse}}, {"int32"}));
  EXPECT_TRUE(refused(good_, {{good_.output, Tensor(DType::kFloat16, {2, 3, 5})}}, {"float16"}));
  EXPECT_TRUE(refused({good_.output, Tensor(DType::kBFloat16, {2, 3, 5})}, {}, {"bfloat16"}));
}

TEST_F(MergeErrors, AMissingLse) { EXPECT_TRUE(refused({good_.output, Tensor()}, {}, {"lse"})); }

TEST_F(MergeErrors, Overlap) {
  Part into = empty_part({2, 5, 3, 7});
  EXPECT_TRUE(refused(good_, {good_}, {"part 0", "overlap"}));
  TensorView lse = into.lse;
  lse.data = into.output.view().data;
  EXPECT_TRUE(throws_error(
      [&] {
        merge({into.output, lse}, {});
      },
      ErrorCode::kInvalidArgument, {"output and lse", "overlap"}));
  TensorView folded = into.output;
  folded.strides[1] = 0;
  EXPECT_TRUE(throws_error(
      [&] {
        clear({folded, into.lse});
      },
      ErrorCode::kInvalidArgument, {"clear: output", "overlap itself"}));
}

TEST_F(MergeErrors, NoData) {
  Part good = empty_part({2, 5, 3, 7}), other = empty_part({2, 5, 3, 7});
  for (const bool of_output : {true, false}) {
    TensorView output = good.output, lse = good.lse;
    (of_output ? output : lse).data = nullptr;
    const std::string name = of_output ? "output" : "lse";
    EXPECT_TRUE(throws_error(
        [&] {
          clear({output, lse});
        },
        ErrorCode::kInvalidArgument, {"clear: " + name, "null"}));
    const ConstPartial part{output, lse};
    EXPECT_TRUE(throws_error(
        [&] {
          merge({other.output, other.lse}, {&part, 1});
        },
        ErrorCode::kInvalidArgument, {"part 0: " + name, "null"}));
  }
}

}  // namespace
}  // namespace longspan::test
