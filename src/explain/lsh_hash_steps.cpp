// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Hashing and sorting, step by step. "The lab" is the Reformer lab of Trax, whose names are given
// beside ours.
#include "explain/lsh_hash_steps.h"

#include <algorithm>
#include <string>

#include "base/row_sums.h"
#include "explain/products.h"
#include "lsh/key_factor.h"
#include "lsh/rotations.h"

namespace longspan::explain {
namespace {

using At = std::array<std::int64_t, 4>;

Axis head_axis(const LshView& view) { return axis("head", view.heads()); }
Axis kv_axis(const LshView& view) {
  return axis("head_kv", mask::Range{view.head_kv(view.heads().begin),
                                     view.head_kv(view.heads().end - 1) + 1});
}

std::string factors_text(const std::vector<std::int64_t>& factors) {
  std::string text;
  for (const std::int64_t factor : factors) {
    text += (text.empty() ? "" : " x ") + std::to_string(factor);
  }
  return text;
}

bool buckets_are_given(const LshOptions& options) {
  return is_given(options.buckets) || is_given(options.query_buckets);
}

void add_rotation_steps(Steps& steps, const LshView& view, const LshOptions& options) {
  const engine::CheckedCall& call = view.call();
  const std::int64_t dim = call.head_dim, rounds = options.num_hashes,
                     columns = view.factors().columns;
  const lsh::RotationSource source{options.rotations, options.seed, dim, rounds, columns};
  // [rounds * columns][dim] of each head of keys that is shown.
  const Axis kv_heads = kv_axis(view);
  std::vector<std::vector<double>> directions;
  for (const std::int64_t h : kv_heads.index) {
    source.fill_rows(h, directions.emplace_back(rounds * columns * dim).data());
  }
  const auto of_head = [&](std::int64_t kv) -> const std::vector<double>& {
    return directions[static_cast<std::size_t>(kv - kv_heads.index.front())];
  };
  const Axis round = axis("round", rounds), column = axis("column", columns);
  steps.add(
      "rotations", {kv_heads, axis("feature", dim), round, column},
      {.also = "rotations, R: section 2 of the paper; the lab's random_rotations",
       .code = "R ~ N(0, 1), from the seed, the head and the round alone",
       .why = "Random directions, drawn anew in every round, the same for every position: "
              "each column is one direction and, with the sign turned, the opposite one."},
      [&](const At& at) {
        return of_head(at[0])[static_cast<std::size_t>((at[2] * columns + at[3]) * dim + at[1])];
      });

  const mask::Range heads = view.heads();
  std::vector<std::vector<double>> rotated;  // [head][position][round * columns]
  for (std::int64_t h = heads.begin; h < heads.end; ++h) {
    std::vector<double> rows;
    for (const std::int64_t q : view.queries()) {
      for (std::int64_t d = 0; d < dim; ++d) {
        rows.push_back(number_at(call.query, view.batch(), h, q, d));
      }
    }
    rotated.push_back(products(rows, of_head(view.head_kv(h)), dim));
  }
  const std::vector<std::int64_t>& shown = view.queries();
  steps.add("rotated", {head_axis(view), {"position", shown}, round, column},
            {.also = "xR; the lab's rotated_vecs, before it appends the negatives",
             .code = "rotated = jnp.einsum('hqd,hdrc->hqrc', vectors, rotations)",
             .einsum = "hqd,hdrc->hqrc",
             .why = "How far each vector points into each direction. A vector and a longer one of "
                    "the same direction get the same bucket, so lengths do not matter."},
            [&](const At& at) {
              const auto place =
                  std::lower_bound(shown.begin(), shown.end(), at[1]) - shown.begin();
              return rotated[static_cast<std::size_t>(at[0] - heads.begin)]
                            [static_cast<std::size_t>((place * rounds + at[2]) * columns + at[3])];
            });
}

}  // namespace

KeyNumbers::KeyNumbers(const LshView& view, const LshOptions& options) : view_(view) {
  const engine::CheckedCall& call = view.call();
  if (!view.shared()) return;
  for (std::int64_t h = view.heads().begin; h < view.heads().end; ++h) {
    for (std::int64_t n = 0; n < call.seqlen_k; ++n) {
      const auto number = [&](std::int64_t d) {
        return number_at(call.query, view.batch(), h, n, d);
      };
      factors_.push_back(lsh::key_factor(base::sum_of_squares(number, call.head_dim), call.head_dim,
                                         options.key_norm));
    }
  }
}

double KeyNumbers::at(std::int64_t head, std::int64_t key, std::int64_t component) const {
  const engine::CheckedCall& call = view_.call();
  if (!view_.shared()) {
    return number_at(call.key, view_.batch(), view_.head_kv(head), key, component);
  }
  return number_at(call.query, view_.batch(), head, key, component) *
         factors_[static_cast<std::size_t>((head - view_.heads().begin) * call.seqlen_k + key)];
}

void add_input_steps(Steps& steps, const LshView& view, const LshOptions& options,
                     const KeyNumbers& keys) {
  const engine::CheckedCall& call = view.call();
  const Axis positions{view.shared() ? "position" : "query", view.queries()};
  const Axis features = axis("feature", call.head_dim);
  const auto query = [&](const At& at) {
    return number_at(call.query, view.batch(), at[1], at[0], at[2]);
  };
  if (!view.shared()) {
    steps.section("The input",
                  "Queries and keys are two tensors and hashed by the same rotations.");
    steps.add("query", {positions, head_axis(view), features},
              {.also = "q", .why = "The rows that ask."}, query);
    return;
  }
  steps.section("The input and its keys",
                "Query and key are one tensor: a position asks with the same vector that it is "
                "found by. So that nobody's key is larger than another's, keys are normalised.");
  steps.add("query_key", {positions, head_axis(view), features},
            {.also = "q; Shared-QK in the paper", .why = "One vector for each position and head."},
            query);
  const bool rms = options.key_norm == KeyNorm::kRms;
  steps.add("key", {positions, head_axis(view), features},
            {.also = "sk in the lab",
             .code = rms ? "key = q / sqrt(mean(q ** 2) + 1e-6) / sqrt(head_dim)"
                         : "key = q / max(norm(q), 1e-12)",
             .why = rms ? "Length 1 (nearly): the usual 1 / sqrt(head_dim) is in it already."
                        : "Length 1; scores are multiplied by 1 / sqrt(head_dim)."},
            [&](const At& at) { return keys.at(at[1], at[0], at[2]); });
}

void add_hash_steps(Steps& steps, const LshView& view, const LshOptions& options) {
  const lsh::Rounds& rounds = view.rounds();
  const lsh::BucketFactors& factors = view.factors();
  const bool one_chunk = view.call().seqlen_k <= options.chunk_len;
  const bool given = buckets_are_given(options);
  std::string text =
      given ? "The buckets were given with the input, so nothing is hashed here."
            : "Vectors that point the same way get the same bucket, with a good chance in each "
              "round: " +
                  std::to_string(options.num_hashes) + " independent rounds, " +
                  factors_text(factors.factors) + " buckets in each.";
  if (one_chunk) {
    text =
        "The sequence is no longer than a chunk: everybody meets everybody, once, and nothing "
        "is hashed.";
  }
  steps.section("Hashing: from vectors to buckets", text);
  if (!given && !one_chunk) add_rotation_steps(steps, view, options);
  const Axis round = axis("round", rounds.count());
  const bool several = factors.factors.size() > 1;
  steps.add(
      "buckets", {head_axis(view), round, {view.shared() ? "position" : "query", view.queries()}},
      {.also = "buckets; the lab adds round * num_buckets to those of each round",
       .code = several ? "mixed radix of argmax([xR, -xR]) of each factor"
                       : "buckets = jnp.argmax(jnp.concatenate([rotated, -rotated]), axis=-1)",
       .why = "Equal numbers, and equal colours, will sit together in that round. Buckets of "
              "two rounds have nothing to do with each other." +
              std::string(given ? ""
                                : " Bucket " + std::to_string(factors.buckets) +
                                      " would be that of padding."),
       .picture = Picture::kColours,
       .whole_numbers = true},
      [&](const At& at) {
        return rounds.query_buckets(view.batch(), at[0], at[1])[static_cast<std::size_t>(at[2])];
      });
}

void add_order_steps(Steps& steps, const LshView& view) {
  if (!view.shows_all()) return;
  const lsh::Rounds& rounds = view.rounds();
  const Axis heads = kv_axis(view), round = axis("round", rounds.count());
  const Axis places = axis("place", view.call().seqlen_k);
  const auto head_of = [&](std::int64_t kv) { return kv * rounds.lists_of_key_head(); };
  const auto order = [&](const At& at) {
    return view.keys_by_bucket(head_of(at[0]), at[1])[static_cast<std::size_t>(at[2])];
  };
  steps.section("Sorting: equal buckets side by side",
                "Each round is sorted by (bucket, position). Attention is then among neighbours in "
                "this order.");
  steps.add("sorted_positions", {heads, round, places},
            {.also = "sticker % seqlen, or st, in the lab",
             .code = "sorted_positions = jnp.argsort(seqlen * buckets + positions)",
             .why = "Which position sits at each place. Inside a bucket positions ascend: the sort "
                    "is stable.",
             .whole_numbers = true},
            order);
  steps.add("sorted_buckets", {heads, round, places},
            {.code = "sorted_buckets = buckets[sorted_positions]",
             .why = "The same colours as before, now in runs.",
             .picture = Picture::kColours,
             .whole_numbers = true},
            [&](const At& at) {
              return rounds.key_buckets(view.batch(), head_of(at[0]),
                                        at[1])[static_cast<std::size_t>(order(at))];
            });
  steps.add("places", {heads, round, axis("position", view.call().seqlen_k)},
            {.also = "undo_sort in the lab",
             .code = "places = jnp.argsort(sorted_positions)",
             .why = "The inverse: where each position went. It brings results back.",
             .whole_numbers = true},
            [&](const At& at) {
              const std::vector<std::int32_t>& all = view.keys_by_bucket(head_of(at[0]), at[1]);
              return std::find(all.begin(), all.end(), at[2]) - all.begin();
            });
}

namespace {

// A bucket that lies on both sides of a chunk's edge, and how many of its pairs windows hold.
void add_spanning_bucket(Steps& steps, const LshView& view) {
  const lsh::Rounds& rounds = view.rounds();
  const std::int64_t chunk_len = rounds.options().chunk_len, head = view.heads().begin;
  for (std::int64_t r = 0; r < rounds.count(); ++r) {
    const std::vector<std::int32_t>& order = view.keys_by_bucket(head, r);
    const auto buckets = rounds.key_buckets(view.batch(), head, r);
    const auto bucket = [&](std::int64_t place) {
      return buckets[static_cast<std::size_t>(order[static_cast<std::size_t>(place)])];
    };
    for (std::int64_t edge = chunk_len; edge < view.call().seqlen_k; edge += chunk_len) {
      if (bucket(edge - 1) != bucket(edge)) continue;
      std::int64_t begin = edge - 1, end = edge + 1;
      while (begin > 0 && bucket(begin - 1) == bucket(edge)) --begin;
      while (end < view.call().seqlen_k && bucket(end) == bucket(edge)) ++end;
      const auto chunk = [&](std::int64_t place) { return place / chunk_len; };
      std::vector<std::int64_t> positions;
      for (std::int64_t p = begin; p < end; ++p) {
        positions.push_back(order[static_cast<std::size_t>(p)]);
      }
      const Axis members{"position", positions};
      const std::string name = "spanning_bucket/";
      steps.section("A bucket that two chunks share",
                    "Bucket " + std::to_string(bucket(edge)) + " of round " + std::to_string(r) +
                        " holds " + count_text(end - begin, "position") +
                        " and lies across the edge of a chunk. Looking back one chunk is there for "
                        "it.");
      steps.add(name + "chunk", {members},
                {.why = "The chunk that each of its positions sits in.",
                 .picture = Picture::kColours,
                 .whole_numbers = true},
                [&](const At& at) {
                  return chunk(std::find(order.begin(), order.end(), at[0]) - order.begin());
                });
      steps.add(name + "pairs", {axis("chunks_before", 2)},
                {.why = "How many of its " + std::to_string((end - begin) * (end - begin - 1)) +
                        " pairs of two different positions stand in a window when a chunk looks at "
                        "itself alone (0) and at the chunk before it, too (1), masks aside.",
                 .whole_numbers = true},
                [&](const At& at) {
                  double pairs = 0;
                  for (std::int64_t i = begin; i < end; ++i) {
                    for (std::int64_t j = begin; j < end; ++j) {
                      pairs += i != j && chunk(j) <= chunk(i) && chunk(j) >= chunk(i) - at[0];
                    }
                  }
                  return pairs;
                });
      return;
    }
  }
}

}  // namespace

void add_window_steps(Steps& steps, const LshView& view) {
  constexpr std::int64_t kMost = 48;
  const lsh::Rounds& rounds = view.rounds();
  const std::int64_t numbers = view.numbers(), all = numbers * rounds.count();
  if (view.whole_buckets() || all > kMost) return;
  std::string text =
      "Each round is cut into chunks of " + std::to_string(rounds.options().chunk_len) +
      " places: " + count_text(numbers, "chunk") + " a round, " + count_text(all, "chunk") +
      " in all, those of round 0 first. A chunk meets itself, " +
      std::to_string(rounds.options().chunks_before) + " before and " +
      std::to_string(rounds.options().chunks_after) + " after it.";
  if (rounds.count() > 1) {
    const char* seam =
        rounds.options().wrap == Wrap::kAll
            ? "it looks back over the seam into the round before, whose buckets mean something else"
        : rounds.options().wrap == Wrap::kRound
            ? "it looks back cyclically, to the last chunk of its own round"
            : "there is nothing before it: windows end at the edge of a round";
    text += " Chunk " + std::to_string(numbers) + " is the first of round 1, at the seam: " + seam +
            ".";
  }
  steps.section("Chunks, and whom they meet", text);
  steps.add("chunk_round", {axis("chunk", all)},
            {.why = "Which round each chunk belongs to: attention is inside one chunk (and its "
                    "neighbours), so a softmax is over keys of one round, never over all rounds.",
             .picture = Picture::kColours,
             .whole_numbers = true},
            [&](const At& at) { return at[0] / numbers; });
  steps.add("windows", {axis("chunk", all), axis("key_chunk", all)},
            {.why = "1 where the queries of a chunk (row) meet the keys of another (column).",
             .picture = Picture::kHeat,
             .whole_numbers = true},
            [&](const At& at) {
              const std::vector<ChunkPlace> window = view.window(at[0] / numbers, at[0] % numbers);
              return std::any_of(window.begin(), window.end(), [&](const ChunkPlace& place) {
                return place.round * numbers + place.chunk == at[1];
              });
            });
  add_spanning_bucket(steps, view);
}

}  // namespace longspan::explain
