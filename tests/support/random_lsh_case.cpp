// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Small sequences, every option mixed with every other.
#include "support/random_lsh_case.h"

#include "support/compare.h"

namespace longspan::test {

RandomLshCase::RandomLshCase(std::uint64_t seed) : seed_(seed), random_(seed) {
  draw_shape();
  draw_options();
  draw_masks();
  draw_scores();
}

void RandomLshCase::draw_shape() {
  in.shared = random_.chance(0.6);
  const DType dtype = random_.choose(
      {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16, DType::kFloat32});
  const std::int64_t batch = random_.between(1, 2);
  seqlen_k_ = random_.choose<std::int64_t>({0, 1, 3, 17, 40, 67, 100});
  seqlen_q_ = in.shared ? seqlen_k_ : random_.choose<std::int64_t>({0, 1, 5, 33, 67});
  const std::int64_t heads_kv = random_.between(1, 2);
  heads_ = in.shared ? heads_kv : heads_kv * random_.between(1, 2);
  const std::int64_t dim = random_.choose<std::int64_t>({1, 4, 16, 19});
  const auto layout_of = [&] { return static_cast<Layout>(random_.between(0, kLayouts - 1)); };
  // Longer rows are peaked, which float32 rounds; the invariants go further.
  const double gain = random_.choose({1.0, 1.0, 0.1, dtype == DType::kFloat64 ? 10.0 : 1.5});
  in.query = Tensor(dtype, {batch, seqlen_q_, heads_, dim}, layout_of()).fill_normal(random_, gain);
  in.key = Tensor(dtype, {batch, seqlen_k_, heads_kv, dim}, layout_of()).fill_normal(random_);
  in.value = Tensor(dtype, {batch, seqlen_k_, heads_kv, random_.choose<std::int64_t>({1, 8, 21})},
                    layout_of())
                 .fill_normal(random_);
  output = random_.chance(0.5) ? dtype : DType::kFloat32;
  layout = static_cast<Layout>(random_.between(0, kOutputLayouts - 1));
  execution.threads = static_cast<int>(random_.between(1, 3));
  const std::vector<std::string> kernels = kernels_for(dtype);
  execution.kernel = kernels[random_.between(0, static_cast<std::int64_t>(kernels.size()) - 1)];
}

void RandomLshCase::draw_options() {
  LshOptions& lsh = in.lsh;
  lsh.num_hashes = random_.between(1, 5);
  lsh.chunk_len = random_.choose<std::int64_t>({1, 4, 7, 16, 64});
  lsh.chunks_before = random_.between(0, 3);
  lsh.chunks_after = random_.between(0, 2);
  lsh.dedup = random_.choose({Dedup::kExact, Dedup::kExact, Dedup::kLogCount, Dedup::kNone});
  if (in.shared) lsh.wrap = random_.choose({Wrap::kNone, Wrap::kNone, Wrap::kRound, Wrap::kAll});
  lsh.key_norm = random_.choose({KeyNorm::kRms, KeyNorm::kL2});
  lsh.self_rule = random_.choose({SelfRule::kAdded, SelfRule::kAssigned});
  lsh.self_score = random_.choose({-1e5, -1e5, -1.0, 0.5});
  lsh.self_overrides_padding = random_.chance(0.2);
  lsh.seed = static_cast<std::uint64_t>(random_.between(0, 1000));
  if (random_.chance(0.5)) lsh.num_buckets = {random_.choose<std::int64_t>({2, 4, 64}), 2};
  if (lsh.wrap == Wrap::kNone) lsh.whole_buckets = random_.chance(0.2);
  if (random_.chance(0.2)) {
    lsh.local_window = {{random_.between(-1, 9), random_.between(-1, 9)}};
  }
}

void RandomLshCase::draw_masks() {
  AttentionOptions& options = in.options;
  if (!in.shared) {  // also where documents have other lengths than keys
    options.query_offset =
        random_.chance(0.5) ? QueryOffset::end() : QueryOffset(random_.between(-9, 9));
  }
  const std::int64_t batch = in.query.shape()[0];
  if (random_.chance(0.5)) options.mask = options.mask & causal();
  if (random_.chance(0.2)) options.mask = options.mask & window(random_.between(0, 30), -1);
  if (random_.chance(0.3)) {
    std::vector<std::int64_t> lengths;
    for (std::int64_t b = 0; b < batch; ++b) lengths.push_back(random_.between(0, seqlen_k_));
    options.mask = options.mask & key_lengths(in.keep(integers(lengths)));
  }
  if (batch == 1 && random_.chance(0.4)) {
    const std::int64_t q = random_.between(0, seqlen_q_);
    const std::int64_t k = in.shared ? q : random_.between(0, seqlen_k_);
    options.mask = options.mask & documents(in.keep(integers({0, q, seqlen_q_})),
                                            in.keep(integers({0, k, seqlen_k_})));
  }
  if (random_.chance(0.2)) {
    const std::int64_t rows = random_.chance(0.5) ? 1 : seqlen_q_;
    Tensor visible = in.keep(Tensor(DType::kBool, {batch, 1, rows, seqlen_k_}));
    for (std::int64_t n = 0; n < visible.size(); ++n) visible.set(n, random_.chance(0.8) ? 1 : 0);
    options.mask = options.mask & dense(visible);
  }
  if (random_.chance(0.1)) {
    options.mask = options.mask & predicate([](std::int64_t, std::int64_t head, std::int64_t i,
                                               std::int64_t j) { return (i + j + head) % 5 != 0; });
  }
}

void RandomLshCase::draw_scores() {
  AttentionOptions& options = in.options;
  if (!in.shared && random_.chance(0.3)) options.scale = random_.choose({0.7, -0.4, 0.0});
  if (random_.chance(0.2)) options.softcap = random_.choose({0.5, 20.0});
  if (random_.chance(0.2)) {
    options.alibi_slopes = in.keep(Tensor(DType::kFloat32, {heads_}).fill(0.125));
  }
  if (random_.chance(0.2)) {
    options.sinks = in.keep(Tensor(DType::kFloat32, {heads_}).fill(0.5));
  }
}

std::string RandomLshCase::text() const {
  std::string line = "LONGSPAN_TEST_SEED=" + std::to_string(seed_) +
                     " LONGSPAN_TEST_COUNT=1: " + std::string(in.shared ? "shared " : "separate ") +
                     name_of(in.query.view().dtype) + " query " + shape_string(in.query) + " key " +
                     shape_string(in.key) + " value " + shape_string(in.value) + ", kernel " +
                     execution.kernel;
  const auto say = [&](const char* name, auto value) {
    line += std::string(", ") + name + " " + std::to_string(value);
  };
  say("rounds", in.lsh.num_hashes);
  say("chunk", in.lsh.chunk_len);
  say("before", in.lsh.chunks_before);
  say("after", in.lsh.chunks_after);
  say("dedup", static_cast<int>(in.lsh.dedup));
  say("wrap", static_cast<int>(in.lsh.wrap));
  say("whole buckets", in.lsh.whole_buckets);
  say("local", in.lsh.local_window.has_value());
  say("self score", in.lsh.self_score);
  say("assigned", in.lsh.self_rule == SelfRule::kAssigned);
  say("mask terms", in.options.mask.terms().size());
  say("softcap", in.options.softcap);
  return line;
}

}  // namespace longspan::test
