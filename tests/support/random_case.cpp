// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Sizes around the panel widths and key blocks of the kernels, every mask, score option, layout and
// chunk size.
#include "support/random_case.h"

#include <algorithm>
#include <limits>
#include <sstream>

namespace longspan::test {
namespace {

// Pairs times dims of one case: keeps the n^2 reference at some milliseconds.
constexpr std::int64_t kMostWork = 4'000'000;

std::int64_t draw_length(Random& random) {
  return random.choose<std::int64_t>({0,  1,  2,   3,   5,   7,   8,   9,   15,  16,  17,
                                      23, 31, 32,  33,  37,  47,  48,  49,  63,  64,  65,
                                      66, 96, 100, 127, 128, 129, 130, 191, 258, 301, 386});
}

std::int64_t draw_dim(Random& random) {
  return random.choose<std::int64_t>({1,  2,  3,  4,  5,  7,  8,  9,  13, 15, 16,  17,  24,
                                      31, 32, 33, 40, 48, 63, 64, 65, 80, 96, 128, 129, 257});
}

DType draw_dtype(Random& random) {
  return random.choose(
      {DType::kFloat32, DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16});
}

Layout draw_layout(Random& random, int layouts) {
  return random.chance(0.5) ? Layout::kRowMajor
                            : static_cast<Layout>(random.between(0, layouts - 1));
}

std::size_t draw_misalignment(Random& random) {
  return random.choose<std::size_t>({0, 0, 4, 8, 20, 36});
}

// Boundaries of documents: `documents` + 1 values from 0 to at most `end`, some equal.
std::vector<std::int64_t> draw_boundaries(Random& random, std::int64_t documents,
                                          std::int64_t end) {
  std::vector<std::int64_t> boundaries{0};
  for (std::int64_t d = 0; d < documents; ++d) boundaries.push_back(random.between(0, end));
  if (random.chance(0.7)) boundaries.back() = end;
  std::sort(boundaries.begin(), boundaries.end());
  return boundaries;
}

template <class T>
std::string number(T x) {
  std::ostringstream text;
  text << x;
  return text.str();
}

}  // namespace

RandomCase::RandomCase(std::uint64_t seed) {
  Random random(seed);
  draw_shape(random);
  draw_tensors(random);
  draw_offset(random);
  draw_masks(random);
  draw_scores(random);
  execution = draw_execution(random);
  draw_dropout(random);
  draw_backward(random);
}

void RandomCase::draw_shape(Random& random) {
  rank_ = random.choose({4, 4, 4, 4, 3, 2});
  shape_.batch = rank_ == 4 ? random.choose<std::int64_t>({1, 1, 1, 2, 3}) : 1;
  shape_.heads_kv = rank_ >= 3 ? random.between(1, 3) : 1;
  shape_.heads = shape_.heads_kv * (rank_ >= 3 ? random.choose<std::int64_t>({1, 1, 2, 3, 4}) : 1);
  shape_.head_dim = draw_dim(random);
  shape_.head_dim_v = random.chance(0.6) ? shape_.head_dim : draw_dim(random);
  shape_.seqlen_q = draw_length(random);
  shape_.seqlen_k = random.chance(0.5) ? shape_.seqlen_q : draw_length(random);
  if (random.chance(0.2)) {  // decode: few queries, more keys
    shape_.seqlen_q =
        random.between(1, std::max<std::int64_t>(1, 18 * shape_.heads_kv / shape_.heads));
    shape_.seqlen_k = random.between(0, 400);
  }
  const auto work = [&] {
    return shape_.batch * shape_.heads * shape_.seqlen_q * shape_.seqlen_k *
           (shape_.head_dim + shape_.head_dim_v);
  };
  if (work() > kMostWork) shape_.batch = 1;
  if (work() > kMostWork) shape_.heads = shape_.heads_kv;
  if (work() > kMostWork) shape_.heads = shape_.heads_kv = 1;
  while (work() > kMostWork)
    shape_.head_dim = shape_.head_dim_v = std::max<std::int64_t>(1, shape_.head_dim / 2);
  std::ostringstream words;
  words << "rank " << rank_ << ", batch " << shape_.batch << ", seqlen " << shape_.seqlen_q << " x "
        << shape_.seqlen_k << ", heads " << shape_.heads << " on " << shape_.heads_kv << ", dims "
        << shape_.head_dim << " and " << shape_.head_dim_v;
  say(words.str());
}

void RandomCase::draw_tensors(Random& random) {
  const DType dtype = draw_dtype(random);
  const auto shaped = [&](std::int64_t seqlen, std::int64_t heads, std::int64_t dim) {
    std::vector<std::int64_t> shape{shape_.batch, seqlen, heads, dim};
    if (rank_ <= 3) shape.erase(shape.begin());
    if (rank_ == 2) shape.erase(shape.begin() + 1);
    const Layout layout = draw_layout(random, kLayouts);
    say(name_of(layout));
    return Tensor(dtype, shape, layout, draw_misalignment(random));
  };
  say(longspan::name_of(dtype));
  const double gain = random.chance(0.05) ? 30.0 : 1.0;
  inputs.query = shaped(shape_.seqlen_q, shape_.heads, shape_.head_dim).fill_normal(random, gain);
  inputs.key = shaped(shape_.seqlen_k, shape_.heads_kv, shape_.head_dim).fill_normal(random);
  inputs.value = shaped(shape_.seqlen_k, shape_.heads_kv, shape_.head_dim_v).fill_normal(random);
  output_dtype = random.chance(0.7) || dtype == DType::kFloat64 ? dtype : DType::kFloat32;
  output_layout = draw_layout(random, kOutputLayouts);
  output_misalignment = draw_misalignment(random);
  say(std::string("into ") + longspan::name_of(output_dtype) + " " + name_of(output_layout));
  if (gain != 1.0) say("gain " + number(gain));
}

void RandomCase::draw_offset(Random& random) {
  QueryOffset& offset = inputs.options.query_offset;
  const int kind = static_cast<int>(random.between(shape_.seqlen_q == shape_.seqlen_k ? 0 : 1, 3));
  if (kind == 1) {
    offset = random.between(-shape_.seqlen_q, shape_.seqlen_k);
    say("offset " + number(offset.number));
  } else if (kind == 2) {
    offset = QueryOffset::end();
    say("offset end");
  } else if (kind == 3) {
    std::vector<std::int64_t> offsets;
    for (std::int64_t b = 0; b < shape_.batch; ++b)
      offsets.push_back(random.between(-5, shape_.seqlen_k));
    offset = QueryOffset::for_batch(
        inputs.keep(integers(offsets, random.choose({DType::kInt32, DType::kInt64}))).view());
    say("offset by batch");
  }
}

// Broadcastable to [batch, heads, seqlen_q, seqlen_k], of any rank, with axes of 1 or strides of 0
// here and there.
Tensor RandomCase::draw_broadcast(Random& random, DType dtype) {
  std::vector<std::int64_t> shape{shape_.batch, shape_.heads, shape_.seqlen_q, shape_.seqlen_k};
  for (std::int64_t& extent : shape) {
    if (random.chance(0.3)) extent = 1;
  }
  shape.erase(shape.begin(), shape.begin() + random.choose<std::ptrdiff_t>({0, 0, 0, 1, 2, 3}));
  return {dtype, shape, draw_layout(random, kLayouts), draw_misalignment(random)};
}

void RandomCase::draw_masks(Random& random) {
  Mask mask;
  const auto add = [&](Mask term, const std::string& words) {
    mask = mask & term;
    say(words);
  };
  const std::int64_t keys = shape_.seqlen_k;
  const DType index_type = random.choose({DType::kInt32, DType::kInt64});
  const bool only_one = random.chance(0.5);  // half of the cases have at most one or two terms
  const double often = only_one ? 0.12 : 0.3;
  if (random.chance(0.35)) add(causal(), "causal");
  if (random.chance(often)) {
    const std::int64_t left = random.between(-1, keys / 2), right = random.between(-1, keys / 3);
    add(window(left, right), "window " + number(left) + "," + number(right));
  }
  if (random.chance(often / 3)) {
    const std::int64_t own = random.between(-3, keys);
    add(window(keys / 2, 2, own), "window with offset " + number(own));
  }
  if (random.chance(often)) {
    const std::int64_t length = random.between(0, keys);
    add(prefix(length), "prefix " + number(length));
  }
  if (random.chance(often)) {
    const std::int64_t first = random.between(0, keys), last = random.between(first, keys);
    add(key_range(first, last), "keys " + number(first) + ":" + number(last));
  }
  if (random.chance(often)) {
    std::vector<std::int64_t> lengths;
    for (std::int64_t b = 0; b < shape_.batch; ++b) lengths.push_back(random.between(0, keys));
    add(key_lengths(inputs.keep(integers(lengths, index_type)).view()), "key lengths");
  }
  if (shape_.batch == 1 && inputs.options.query_offset.kind != QueryOffset::Kind::kPerBatch &&
      random.chance(often)) {
    const std::int64_t documents_number = random.between(1, 5);
    // Documents of other lengths on the two sides need an offset that was said.
    const bool offset_said = inputs.options.query_offset.kind != QueryOffset::Kind::kUnset;
    const bool both = shape_.seqlen_q != keys || (offset_said && random.chance(0.3));
    const Tensor q = inputs.keep(
        integers(draw_boundaries(random, documents_number, shape_.seqlen_q), index_type));
    const Tensor k =
        inputs.keep(integers(draw_boundaries(random, documents_number, keys), index_type));
    add(both ? documents(q.view(), k.view()) : documents(q.view()),
        "documents " + number(documents_number));
  }
  if (random.chance(often)) {
    Tensor visible = inputs.keep(draw_broadcast(random, DType::kBool));
    const double share = random.choose({0.03, 0.5, 0.97});
    for (std::int64_t n = 0; n < visible.size(); ++n)
      visible.set(n, random.chance(share) ? 255 : 0);
    add(dense(visible.view()), "dense " + shape_string(visible.view()));
  }
  if (random.chance(often / 2)) {
    add(predicate([](std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) {
          return (b + 2 * h + 3 * i + 5 * j) % 7 != 0;
        }),
        "predicate");
  }
  inputs.options.mask = mask;
}

void RandomCase::draw_scores(Random& random) {
  AttentionOptions& options = inputs.options;
  if (random.chance(0.2)) {
    options.scale = random.choose({1.0, 0.3, -0.2, 0.0});
    say("scale " + number(*options.scale));
  }
  if (random.chance(0.2)) {
    options.softcap = random.choose({0.5, 4.0, 30.0});
    say("softcap " + number(options.softcap));
  }
  if (random.chance(0.3)) {
    Tensor bias = inputs.keep(draw_broadcast(random, draw_dtype(random)).fill_normal(random));
    const bool holes = random.chance(0.4);
    for (std::int64_t n = 0; holes && n < bias.size(); ++n) {
      if (random.chance(0.2)) bias.set(n, -std::numeric_limits<double>::infinity());
    }
    options.bias = bias.view();
    say("bias " + shape_string(bias.view()) + (holes ? " with -inf" : ""));
  }
  if (random.chance(0.2)) {
    std::vector<std::int64_t> shape{shape_.batch, shape_.heads};
    if (random.chance(0.5)) shape.erase(shape.begin());
    Tensor slopes = inputs.keep(Tensor(random.choose({DType::kFloat32, DType::kFloat64}), shape));
    for (std::int64_t n = 0; n < slopes.size(); ++n)
      slopes.set(n, 0.25 / static_cast<double>(n + 1));
    options.alibi_slopes = slopes.view();
    say("alibi rank " + number(shape.size()));
  }
  if (random.chance(0.2)) {
    options.sinks =
        inputs.keep(Tensor(draw_dtype(random), {shape_.heads}).fill_normal(random, 2.0)).view();
    say("sinks");
  }
}

Execution RandomCase::draw_execution(Random& random) {
  const auto chunk = [&](std::int64_t length) {
    return random.choose<std::int64_t>({0, 0, 0, 1, 3, 17, 64, 128, 129, length + 5});
  };
  Execution drawn;
  drawn.threads = static_cast<int>(random.choose({1, 1, 2, 3, 7}));
  drawn.query_chunk = chunk(shape_.seqlen_q);
  drawn.key_chunk = chunk(shape_.seqlen_k);
  say("threads " + number(drawn.threads) + ", chunks " + number(drawn.query_chunk) + " and " +
      number(drawn.key_chunk));
  return drawn;
}

void RandomCase::draw_dropout(Random& random) {
  if (!random.chance(0.2)) return;
  Dropout& dropout = inputs.options.dropout;
  dropout.probability = random.choose({0.0, 0.1, 0.5, 0.97, 1.0});
  dropout.seed = static_cast<std::uint64_t>(random.between(INT64_MIN, INT64_MAX));
  say("dropout " + number(dropout.probability) + " seed " + number(dropout.seed));
}

void RandomCase::draw_backward(Random& random) {
  say("backward");
  const Output like = make_output(inputs, output_dtype);
  const auto drawn = [&](const Tensor& tensor) {
    const Layout layout = draw_layout(random, kLayouts);
    say(name_of(layout));
    return Tensor(tensor.view().dtype, tensor.shape(), layout, draw_misalignment(random))
        .fill_normal(random);
  };
  derivatives.output = drawn(like.output);
  if (random.chance(0.5)) derivatives.lse = drawn(like.lse);

  const DType dtype = random.chance(0.7) ? output_dtype : accumulator_of(output_dtype);
  const Layout layout = draw_layout(random, kOutputLayouts);
  gradients = make_gradients(inputs, dtype, layout, draw_misalignment(random));
  say(std::string("gradients ") + longspan::name_of(dtype) + " " + name_of(layout));
  const auto drop = [&](Tensor& gradient, const char* name) {
    if (!is_given(gradient.view()) || !random.chance(0.15)) return;
    gradient = Tensor();
    say(std::string("no ") + name);
  };
  drop(gradients.query, "dquery");
  drop(gradients.key, "dkey");
  drop(gradients.value, "dvalue");
  drop(gradients.bias, "dbias");
  drop(gradients.sinks, "dsinks");
  backward = draw_execution(random);
}

}  // namespace longspan::test
