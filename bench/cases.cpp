// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Shapes, masks and score terms of the rows.
#include "cases.h"

#include <algorithm>
#include <random>

namespace longspan::bench {

void plain(const Shape& shape, Extras& extras) {
  static_cast<void>(shape);
  static_cast<void>(extras);
}

void set_causal(const Shape& shape, Extras& extras) {
  static_cast<void>(shape);
  extras.options.mask = causal();
}

namespace {

struct NamedFeature {
  const char* name;
  Feature feature;
  std::int64_t heads_kv = 8;
};

void set_causal_end(const Shape&, Extras& extras) {
  extras.options.mask = causal(QueryOffset::end());
}

// Documents of 500 tokens; the last one is short.
Mask documents_of_500(const Shape& shape, Extras& extras) {
  const std::int64_t count = (shape.seqlen_k + 499) / 500;
  const Array& starts = extras.add(DType::kInt32, {count + 1});
  for (std::int64_t n = 0; n <= count; ++n) {
    starts.data<std::int32_t>()[n] = static_cast<std::int32_t>(std::min(n * 500, shape.seqlen_k));
  }
  return documents(starts.view());
}

// Half of the pairs, at random: no tile is full or empty.
void set_dense(const Shape& shape, Extras& extras) {
  const Array& visible = extras.add(DType::kBool, {1, 1, shape.seqlen_q, shape.seqlen_k});
  std::mt19937_64 engine(5);
  for (std::int64_t n = 0; n < shape.seqlen_q * shape.seqlen_k; ++n) {
    visible.data<std::uint8_t>()[n] = static_cast<std::uint8_t>(engine() >> 63);
  }
  extras.options.mask = dense(visible.view());
}

void set_bias(const Shape& shape, Extras& extras, std::int64_t heads) {
  Array& bias = extras.add(DType::kFloat32, {1, heads, shape.seqlen_q, shape.seqlen_k});
  bias.fill_normal(6);
  extras.options.bias = bias.view();
}

void set_alibi(const Shape& shape, Extras& extras) {
  const Array& slopes = extras.add(DType::kFloat32, {shape.heads});
  for (std::int64_t h = 0; h < shape.heads; ++h) {
    slopes.data<float>()[h] = 1.0F / static_cast<float>(std::int64_t{2} << h);
  }
  extras.options.alibi_slopes = slopes.view();
}

const NamedFeature kFeatures[] = {
    {"causal", set_causal},
    {"causal window of 1024", [](const Shape&, Extras& e) { e.options.mask = window(1023, 0); }},
    {"window of 512 on both sides",
     [](const Shape&, Extras& e) { e.options.mask = window(512, 512); }},
    {"documents of 500",
     [](const Shape& s, Extras& e) { e.options.mask = documents_of_500(s, e); }},
    {"documents of 500, causal",
     [](const Shape& s, Extras& e) { e.options.mask = documents_of_500(s, e) & causal(); }},
    {"key length 3000",
     [](const Shape&, Extras& e) {
       const Array& length = e.add(DType::kInt32, {1});
       *length.data<std::int32_t>() = 3000;
       e.options.mask = key_lengths(length.view());
     }},
    {"prefix of 1000", [](const Shape&, Extras& e) { e.options.mask = prefix(1000); }},
    {"random half of the pairs", set_dense},
    {"bias [1, 1, n, n]", [](const Shape& s, Extras& e) { set_bias(s, e, 1); }},
    {"bias [1, 8, n, n]", [](const Shape& s, Extras& e) { set_bias(s, e, s.heads); }},
    {"ALiBi, causal",
     [](const Shape& s, Extras& e) {
       set_alibi(s, e);
       e.options.mask = causal();
     }},
    {"8 heads on 2", plain, 2},
    {"8 heads on 1", plain, 1},
    {"sinks",
     [](const Shape& s, Extras& e) {
       Array& sinks = e.add(DType::kFloat32, {s.heads});
       sinks.fill_normal(7);
       e.options.sinks = sinks.view();
     }},
    {"softcap 30", [](const Shape&, Extras& e) { e.options.softcap = 30; }},
    {"dropout 0.1",
     [](const Shape&, Extras& e) {
       e.options.dropout = {0.1, 8};
     }},
};

Shape square(std::int64_t heads, std::int64_t seqlen, std::int64_t head_dim, DType dtype) {
  return {heads, heads, seqlen, seqlen, head_dim, dtype};
}

std::string name_of_shape(const Shape& s) {
  return std::to_string(s.heads) + " x " + std::to_string(s.seqlen_k) + ", d " +
         std::to_string(s.head_dim);
}

std::vector<Shape> plain_shapes(bool full) {
  std::vector<Shape> shapes;
  for (const DType dtype : kTypes) {
    for (const std::int64_t dim : {64, 128}) {
      shapes.push_back(square(8, 4096, dim, dtype));
      shapes.push_back(square(1, 16384, dim, dtype));
      if (full) shapes.push_back(square(8, 16384, dim, dtype));
    }
  }
  return shapes;
}

std::vector<Case> plain_cases(bool full) {
  const std::vector<Shape> shapes = plain_shapes(full);
  std::vector<Case> cases;
  cases.reserve(shapes.size());
  for (const Shape& shape : shapes) cases.push_back({name_of_shape(shape), shape});
  return cases;
}

std::vector<Case> causal_cases(bool full) {
  std::vector<Shape> shapes = plain_shapes(full);
  for (const DType dtype : kTypes) {
    for (const std::int64_t dim : {64, 128}) shapes.push_back(square(8, 512, dim, dtype));
  }
  std::vector<Case> cases;
  cases.reserve(shapes.size());
  for (const Shape& s : shapes) {
    cases.push_back({name_of_shape(s) + ", causal", s, set_causal, Against::kTime, s});
  }
  return cases;
}

std::vector<Case> mask_cases() {
  std::vector<Case> cases;
  for (const DType dtype : kTypes) {
    const Shape base = square(8, 4096, 64, dtype);
    for (const NamedFeature& f : kFeatures) {
      Shape shape = base;
      shape.heads_kv = f.heads_kv;
      cases.push_back({f.name, shape, f.feature, Against::kRate, base});
    }
  }
  return cases;
}

// Dims against 64 or 128, whichever is nearer (128 where both are), lengths against 4096.
std::vector<Case> dim_cases() {
  std::vector<Case> cases;
  for (const DType dtype : kTypes) {
    for (const std::int64_t dim : {32, 80, 96, 192, 256}) {
      const Shape shape = square(8, 4096, dim, dtype);
      cases.push_back({name_of_shape(shape), shape, plain, Against::kRate,
                       square(8, 4096, dim < 96 ? 64 : 128, dtype)});
    }
    for (const std::int64_t dim : {64, 128}) {
      for (const std::int64_t seqlen : {1000, 4099}) {
        const Shape shape = square(8, seqlen, dim, dtype);
        cases.push_back(
            {name_of_shape(shape), shape, plain, Against::kRate, square(8, 4096, dim, dtype)});
      }
    }
  }
  return cases;
}

}  // namespace

std::vector<Section> training_sections(bool full) {
  std::vector<Section> sections;
  for (const bool backward : {false, true}) {
    const auto add = [&](const char* name, const char* title, std::vector<Case> cases) {
      sections.push_back({backward ? "backward" : name,
                          std::string(backward ? "Backward: " : "Forward: ") + title, backward,
                          std::move(cases)});
    };
    add("forward", "every key visible", plain_cases(full));
    add("causal", "causal, time against the unmasked call", causal_cases(full));
    add("masks", "masks and score terms, 8 x 4096, d 64, rate against the plain call",
        mask_cases());
    add("dims", "head_dim and length, rate against d 64 or 128 at 4096", dim_cases());
  }
  return sections;
}

std::vector<Case> decode_cases() {
  std::vector<Case> cases;
  const auto add = [&](std::int64_t heads, std::int64_t heads_kv, std::int64_t seqlen_q,
                       std::int64_t seqlen_k, std::int64_t dim) {
    for (const DType dtype : kTypes) {
      cases.push_back({std::to_string(seqlen_q) + (seqlen_q == 1 ? " query, " : " queries, ") +
                           std::to_string(heads) + "/" + std::to_string(heads_kv) + " heads, " +
                           std::to_string(seqlen_k) + " keys, d " + std::to_string(dim),
                       {heads, heads_kv, seqlen_q, seqlen_k, dim, dtype},
                       set_causal_end});
    }
  };
  add(32, 8, 1, 32768, 128);
  add(8, 8, 1, 65536, 64);
  add(32, 32, 1, 8192, 128);
  for (const std::int64_t queries : {4, 16}) add(32, 8, queries, 32768, 128);
  return cases;
}

}  // namespace longspan::bench
