// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Random masks against the pair by pair definition: hulls, coverage and bits of random tiles.
// LONGSPAN_TEST_SEED is the first seed, LONGSPAN_TEST_COUNT how many cases follow; a failure prints
// the line that repeats its case.
#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <optional>
#include <string>
#include <vector>

#include "mask/bound_mask.h"
#include "reference/mask_reference.h"
#include "support/call.h"

namespace longspan::test {
namespace {

using mask::BoundMask;
using mask::CallShape;
using mask::Coverage;
using mask::Positions;
using mask::Range;

constexpr std::uint64_t kDefaultSeed = 1;
constexpr std::uint64_t kDefaultCount = 2000;
constexpr int kTiles = 12;

std::int64_t awkward_length(Random& random) {
  return random.choose<std::int64_t>({0, 1, 3, 7, 31, 64, 65, 100});
}

// A mask of one to three terms and the call it is for, fully determined by the seed.
class MaskCase {
 public:
  explicit MaskCase(std::uint64_t seed);

  Mask mask;
  QueryOffset offset;
  CallShape shape;
  bool intervals_only = true;  // then hulls are tight and coverage is exact
  std::string text;

 private:
  ConstTensorView keep(std::vector<std::int64_t> values);
  std::int64_t any_offset();
  QueryOffset draw_offset(bool may_be_unset);
  Mask draw_term(MaskKind kind);
  Mask draw_documents();
  Mask draw_dense();
  std::vector<std::int64_t> boundaries(std::int64_t documents, std::int64_t seqlen);

  Random random_;
  std::list<Tensor> kept_;
};

MaskCase::MaskCase(std::uint64_t seed) : random_(seed) {
  shape = {random_.between(1, 3), random_.between(1, 2), awkward_length(random_),
           awkward_length(random_)};
  if (random_.chance(0.4)) shape.seqlen_k = shape.seqlen_q;
  std::vector<MaskKind> kinds;
  for (std::int64_t n = random_.between(1, 3); n > 0; --n) {
    const auto kind = static_cast<MaskKind>(random_.between(0, 7));
    if (kind == MaskKind::kDocuments && std::count(kinds.begin(), kinds.end(), kind) != 0) continue;
    kinds.push_back(kind);
  }
  const bool packed = std::count(kinds.begin(), kinds.end(), MaskKind::kDocuments) != 0;
  if (packed) shape.batch = 1;
  offset = draw_offset(!packed && shape.seqlen_q == shape.seqlen_k);
  text = "seqlen_q " + std::to_string(shape.seqlen_q) + ", seqlen_k " +
         std::to_string(shape.seqlen_k) + ", kinds";
  for (const MaskKind kind : kinds) {
    mask = mask & draw_term(kind);
    if (kind == MaskKind::kDense || kind == MaskKind::kPredicate) intervals_only = false;
    text += " " + std::to_string(static_cast<int>(kind));
  }
}

// int32 or int64, in a random layout.
ConstTensorView MaskCase::keep(std::vector<std::int64_t> values) {
  const DType dtype = random_.choose({DType::kInt32, DType::kInt64});
  const Layout layout = random_.choose({Layout::kRowMajor, Layout::kReversed, Layout::kGaps});
  Tensor& kept = kept_.emplace_back(
      dtype, std::vector<std::int64_t>{static_cast<std::int64_t>(values.size())}, layout);
  for (std::size_t n = 0; n < values.size(); ++n) {
    kept.set(static_cast<std::int64_t>(n), static_cast<double>(values[n]));
  }
  return kept;
}

std::int64_t MaskCase::any_offset() {
  const std::int64_t reach = shape.seqlen_q + shape.seqlen_k + 3;
  return random_.choose<std::int64_t>({0, shape.seqlen_k - shape.seqlen_q,
                                       random_.between(-reach, reach),
                                       random_.between(-reach, reach), random_.between(-5, 5)});
}

QueryOffset MaskCase::draw_offset(bool may_be_unset) {
  switch (random_.between(may_be_unset ? 0 : 1, 3)) {
    case 0:
      return {};
    case 1:
      return any_offset();
    case 2:
      return QueryOffset::end();
    default: {
      std::vector<std::int64_t> offsets(shape.batch);
      for (std::int64_t& one : offsets) one = any_offset();
      return QueryOffset::for_batch(keep(offsets));
    }
  }
}

Mask MaskCase::draw_term(MaskKind kind) {
  const auto side = [&] {
    return random_.choose<std::int64_t>(
        {-1, 0, random_.between(0, 5), random_.between(0, shape.seqlen_k + 2), INT64_MAX});
  };
  const auto own = [&] { return random_.chance(0.4) ? draw_offset(true) : QueryOffset(); };
  switch (kind) {
    case MaskKind::kCausal:
      return causal(own());
    case MaskKind::kWindow: {
      const std::int64_t left = side(), right = side();
      return window(left, right, own());
    }
    case MaskKind::kPrefix:
      return prefix(random_.between(0, shape.seqlen_k + 2), own());
    case MaskKind::kKeyLengths: {
      std::vector<std::int64_t> lengths(shape.batch);
      for (std::int64_t& one : lengths) one = random_.between(0, shape.seqlen_k);
      return key_lengths(keep(lengths));
    }
    case MaskKind::kKeyRange: {
      const std::int64_t first = random_.between(0, shape.seqlen_k);
      return key_range(first, random_.between(first, shape.seqlen_k));
    }
    case MaskKind::kDocuments:
      return draw_documents();
    case MaskKind::kDense:
      return draw_dense();
    case MaskKind::kPredicate: {
      const std::int64_t modulus = random_.between(1, 4);
      return predicate([modulus](auto batch, auto head, auto query, auto key) {
        return (batch + 2 * head + 3 * query + key) % modulus == 0;
      });
    }
  }
  return {};
}

std::vector<std::int64_t> MaskCase::boundaries(std::int64_t documents, std::int64_t seqlen) {
  std::vector<std::int64_t> starts(documents + 1);
  for (std::int64_t& start : starts) start = random_.between(0, seqlen);
  if (random_.chance(0.5)) starts.back() = seqlen;
  starts[0] = 0;
  std::sort(starts.begin(), starts.end());
  return starts;
}

Mask MaskCase::draw_documents() {
  const std::int64_t count = random_.choose<std::int64_t>({0, 1, 2, 3, 8, 40});
  if (random_.chance(0.3)) {
    return documents(keep(boundaries(count, std::min(shape.seqlen_q, shape.seqlen_k))));
  }
  const ConstTensorView queries = keep(boundaries(count, shape.seqlen_q));
  return documents(queries, keep(boundaries(count, shape.seqlen_k)));
}

Mask MaskCase::draw_dense() {
  const std::int64_t full[] = {shape.batch, shape.num_heads, shape.seqlen_q, shape.seqlen_k};
  std::vector<std::int64_t> extents;
  for (std::int64_t axis = random_.between(0, 4); axis < 4; ++axis) {
    extents.push_back(random_.chance(0.3) ? 1 : full[axis]);
  }
  const Layout layout = random_.choose(
      {Layout::kRowMajor, Layout::kSwapped, Layout::kReversed, Layout::kGaps, Layout::kPaddedRow});
  Tensor& visible = kept_.emplace_back(DType::kBool, extents, layout);
  const double share = random_.choose({0.0, 0.02, 0.5, 0.98, 1.0});
  for (std::int64_t n = 0; n < visible.size(); ++n) visible.set(n, random_.chance(share) ? 1 : 0);
  return dense(visible);
}

// The pairs of one batch entry and head by definition.
class Pairs {
 public:
  Pairs(const MaskCase& drawn, std::int64_t batch, std::int64_t head)
      : shape_(drawn.shape), visible_(shape_.seqlen_q * shape_.seqlen_k) {
    for (std::int64_t i = 0; i < shape_.seqlen_q; ++i) {
      for (std::int64_t j = 0; j < shape_.seqlen_k; ++j) {
        visible_[i * shape_.seqlen_k + j] = reference::may_see(
            drawn.mask, drawn.offset, shape_.seqlen_q, shape_.seqlen_k, batch, head, i, j);
      }
    }
  }

  bool at(std::int64_t query, std::int64_t key) const {
    return visible_[query * shape_.seqlen_k + key];
  }
  std::int64_t count(Range queries, Range keys) const {
    std::int64_t total = 0;
    for (std::int64_t i = queries.begin; i < queries.end; ++i) {
      for (std::int64_t j = keys.begin; j < keys.end; ++j) total += at(i, j) ? 1 : 0;
    }
    return total;
  }
  Range hull_of_keys(Range queries) const {
    Range hull;
    for (std::int64_t j = 0; j < shape_.seqlen_k; ++j) widen(hull, j, count(queries, {j, j + 1}));
    return hull;
  }

 private:
  static void widen(Range& hull, std::int64_t n, std::int64_t visible) {
    if (visible == 0) return;
    hull = hull.empty() ? Range{n, n + 1} : Range{hull.begin, n + 1};
  }
  CallShape shape_;
  std::vector<bool> visible_;
};

// Often of the full length, as the engine's tiles are.
Range random_range(Random& random, std::int64_t seqlen, std::int64_t longest) {
  const std::int64_t begin = random.chance(0.2) ? 0 : random.between(0, seqlen);
  const std::int64_t length = random.chance(0.5) ? longest : random.between(0, longest);
  return {begin, std::min(seqlen, begin + length)};
}

void expect_hull(Range found, Range exact, std::int64_t seqlen, bool tight) {
  if (exact.empty()) {
    EXPECT_TRUE(!tight || found.empty()) << found.begin << ".." << found.end;
    return;
  }
  EXPECT_LE(found.begin, exact.begin);
  EXPECT_GE(found.end, exact.end);
  EXPECT_GE(found.begin, 0);
  EXPECT_LE(found.end, seqlen);
  if (tight) {
    EXPECT_EQ(found.begin, exact.begin);
    EXPECT_EQ(found.end, exact.end);
  }
}

void expect_coverage(Coverage found, std::int64_t visible, std::int64_t pairs, bool exact) {
  switch (found) {
    case Coverage::kNone:
      EXPECT_EQ(visible, 0);
      break;
    case Coverage::kFull:
      EXPECT_GT(pairs, 0);
      EXPECT_EQ(visible, pairs);
      break;
    case Coverage::kPartial:
      EXPECT_GT(pairs, 0);
      EXPECT_TRUE(!exact || (0 < visible && visible < pairs)) << visible << " of " << pairs;
      break;
  }
}

std::vector<std::int32_t> random_index(Random& random, Range range) {
  std::vector<std::int32_t> index(static_cast<std::size_t>(range.size()));
  for (std::int32_t& one : index) {
    one = static_cast<std::int32_t>(random.between(range.begin, range.end - 1));
  }
  return index;
}

void expect_bits(const std::vector<std::uint64_t>& words, const Pairs& pairs, Positions queries,
                 Positions keys) {
  for (std::int64_t k = 0; k < keys.count; ++k) {
    std::uint64_t expected = 0;
    for (std::int64_t l = 0; l < queries.count; ++l) {
      if (pairs.at(queries[l], keys[k])) expected |= std::uint64_t{1} << l;
    }
    ASSERT_EQ(words[static_cast<std::size_t>(k)], expected)
        << "key " << keys[k] << (keys.index == nullptr ? "" : ", gathered");
  }
}

void check_bits(const BoundMask& bound, const Pairs& pairs, std::int64_t batch, std::int64_t head,
                Range queries, Range keys) {
  std::vector<std::uint64_t> words(static_cast<std::size_t>(keys.size()), 0x5555555555555555u);
  bound.fill_bits(batch, head, queries, keys, words);
  expect_bits(words, pairs, {queries.begin, queries.size()}, {keys.begin, keys.size()});
}

// Any order, repetitions allowed: what the interval terms leave, less what the others hide.
void check_gathered_bits(Random& random, const BoundMask& bound, const Pairs& pairs,
                         std::int64_t batch, std::int64_t head, Range query_range,
                         Range key_range) {
  const std::vector<std::int32_t> query_index = random_index(random, query_range);
  const std::vector<std::int32_t> key_index = random_index(random, key_range);
  const Positions queries{0, query_range.size(), query_index.data()};
  const Positions keys{0, key_range.size(), key_index.data()};
  std::vector<Range> keys_of_lane(query_index.size());
  bound.keys_of_queries(batch, queries, keys_of_lane);
  std::vector<std::uint64_t> words(key_index.size());
  for (std::size_t k = 0; k < words.size(); ++k) {
    for (std::size_t l = 0; l < keys_of_lane.size(); ++l) {
      if (keys_of_lane[l].contains(key_index[k])) words[k] |= std::uint64_t{1} << l;
    }
  }
  if (bound.has_other_terms()) bound.clear_hidden(batch, head, queries, keys, words);
  expect_bits(words, pairs, queries, keys);
}

void check_tile(Random& random, const MaskCase& drawn, const BoundMask& bound, const Pairs& pairs,
                std::int64_t batch, std::int64_t head) {
  const CallShape& shape = drawn.shape;
  const bool dense_alone =
      drawn.mask.terms().size() == 1 && drawn.mask.terms()[0].kind == MaskKind::kDense;
  const std::int64_t longest = random.choose<std::int64_t>({1, 3, 32, 48, 64});
  const Range queries = random_range(random, shape.seqlen_q, longest);
  const Range keys =
      random_range(random, shape.seqlen_k, random.choose<std::int64_t>({1, 32, 128}));
  SCOPED_TRACE(testing::Message() << "queries " << queries.begin << ".." << queries.end << ", keys "
                                  << keys.begin << ".." << keys.end);
  expect_hull(bound.visible_keys(batch, queries), pairs.hull_of_keys(queries), shape.seqlen_k,
              drawn.intervals_only);
  expect_coverage(bound.coverage(batch, head, queries, keys), pairs.count(queries, keys),
                  queries.size() * keys.size(), drawn.intervals_only || dense_alone);
  check_bits(bound, pairs, batch, head, queries, keys);
  check_gathered_bits(random, bound, pairs, batch, head, queries, keys);
}

void check_positions(const MaskCase& drawn, const BoundMask& bound, const Pairs& pairs,
                     std::int64_t batch) {
  const CallShape& shape = drawn.shape;
  for (std::int64_t i = 0; i < shape.seqlen_q; i += 5) {
    for (std::int64_t j = 0; j < shape.seqlen_k; j += 3) {
      if (!pairs.at(i, j)) continue;  // across documents there is no distance
      ASSERT_EQ(static_cast<double>(bound.query_position(batch, i) - bound.key_position(j)),
                reference::distance(drawn.mask, drawn.offset, shape.seqlen_q, shape.seqlen_k, batch,
                                    i, j))
          << "query " << i << ", key " << j;
    }
  }
}

void run_case(std::uint64_t seed) {
  const MaskCase drawn(seed);
  SCOPED_TRACE(testing::Message() << "repeat with LONGSPAN_TEST_SEED=" << seed
                                  << " LONGSPAN_TEST_COUNT=1 mask_random_test: " << drawn.text);
  Random random(~seed);
  std::optional<BoundMask> bound;
  ASSERT_NO_THROW(bound.emplace(drawn.mask, drawn.offset, drawn.shape, true));
  const CallShape& shape = drawn.shape;
  std::int64_t visible = 0;
  for (std::int64_t batch = 0; batch < shape.batch; ++batch) {
    for (std::int64_t head = 0; head < shape.num_heads; ++head) {
      SCOPED_TRACE(testing::Message() << "batch " << batch << ", head " << head);
      const Pairs pairs(drawn, batch, head);
      visible += pairs.count({0, shape.seqlen_q}, {0, shape.seqlen_k});
      for (int n = 0; n < kTiles; ++n) check_tile(random, drawn, *bound, pairs, batch, head);
      check_positions(drawn, *bound, pairs, batch);
    }
  }
  const bool all = visible == shape.batch * shape.num_heads * shape.seqlen_q * shape.seqlen_k;
  if (drawn.intervals_only) {
    EXPECT_EQ(bound->everything_visible(), all);
  } else if (bound->everything_visible()) {
    EXPECT_TRUE(all);
  }
}

TEST(MaskRandom, AnswersFollowTheDefinition) {
  const std::uint64_t seed = number_from_environment("LONGSPAN_TEST_SEED", kDefaultSeed);
  const std::uint64_t count = number_from_environment("LONGSPAN_TEST_COUNT", kDefaultCount);
  for (std::uint64_t n = 0; n < count; ++n) {
    run_case(seed + n);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace longspan::test
