// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// `longspan compare`: tensors of two files, element by element in float64 (64-bit integers in long
// double, which holds them), a chunk of memory at a time.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "commands.h"
#include "failure.h"
#include "io/file_error.h"
#include "options.h"
#include "record.h"
#include "tensor_file.h"

namespace longspan::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  longspan compare result.safetensors expected.safetensors
  longspan compare result.safetensors expected.safetensors --tensor output --rel-l2 2e-6
  longspan compare a.safetensors b.safetensors --tensor output=expected_output --atol 1e-7)";

struct CompareOptions {
  std::string a, b;
  std::vector<std::string> tensors;  // "name" or "name in A=name in B"
  std::optional<double> rtol, atol, rel_l2;
  bool json = false;
};

struct Pair {
  const io::TensorEntry* a = nullptr;
  const io::TensorEntry* b = nullptr;
};

struct Difference {
  bool within = true;
  double max_abs = 0, rms = 0, rel_l2 = 0;
  std::int64_t worst = -1;   // flat index of the largest difference; -1 when there are no elements
  long double a = 0, b = 0;  // the values there
};

// Sums of squares are taken in long double: float64 squares of values above 1e154 overflow.
class Accumulator {
 public:
  explicit Accumulator(const CompareOptions& options)
      : rtol_(options.rtol.value_or(1e-5)),
        atol_(options.atol.value_or(1e-6)),
        rel_l2_(options.rel_l2) {}

  template <class Number>
  void add(std::int64_t first, std::span<const Number> a, std::span<const Number> b) {
    for (std::size_t n = 0; n < a.size(); ++n)
      add(first + static_cast<std::int64_t>(n), a[n], b[n]);
  }

  Difference result() const {
    Difference found = found_;
    if (count_ == 0) return found;
    found.rms =
        unequal_special_
            ? HUGE_VAL
            : static_cast<double>(std::sqrt(delta_squares_ / static_cast<long double>(count_)));
    if (unequal_special_ || delta_squares_ > 0) {
      found.rel_l2 = unequal_special_ || !(b_squares_ > 0)
                         ? HUGE_VAL
                         : static_cast<double>(std::sqrt(delta_squares_ / b_squares_));
    }
    if (rel_l2_) found.within = found.rel_l2 <= *rel_l2_ && !unequal_special_;
    return found;
  }

 private:
  template <class Number>
  void add(std::int64_t index, Number a, Number b) {
    ++count_;
    const bool same = a == b || (std::isnan(a) && std::isnan(b));
    const bool special = !std::isfinite(a) || !std::isfinite(b);
    // NaN or infinity against anything else is an infinite difference, whatever the tolerance.
    const Number delta = same ? 0 : special ? Number{HUGE_VAL} : std::abs(a - b);
    if (found_.worst < 0 || delta > found_.max_abs) {
      found_.worst = index;
      found_.max_abs = static_cast<double>(delta);
      found_.a = a;
      found_.b = b;
    }
    if (special) {
      unequal_special_ = unequal_special_ || !same;
    } else {
      delta_squares_ += static_cast<long double>(delta) * delta;
      b_squares_ += static_cast<long double>(b) * b;
    }
    if (!same && !(delta <= atol_ + rtol_ * std::abs(b) && !special)) found_.within = false;
  }

  double rtol_, atol_;
  std::optional<double> rel_l2_;
  Difference found_;
  std::int64_t count_ = 0;
  long double delta_squares_ = 0, b_squares_ = 0;
  bool unequal_special_ = false;
};

template <class Number>
Difference compare_as(const TensorFile& file_a, const TensorFile& file_b, const Pair& pair,
                      const CompareOptions& options) {
  constexpr std::int64_t kChunk = 1 << 18;  // 2 MiB of doubles a side
  const std::int64_t count = element_count(*pair.a);
  std::vector<Number> a(static_cast<std::size_t>(std::min(count, kChunk))), b(a.size());
  Accumulator accumulator(options);
  for (std::int64_t first = 0; first < count; first += kChunk) {
    const auto length = static_cast<std::size_t>(std::min(kChunk, count - first));
    const std::span chunk_a(a.data(), length), chunk_b(b.data(), length);
    file_a.read_numbers(*pair.a, first, chunk_a);
    file_b.read_numbers(*pair.b, first, chunk_b);
    accumulator.add<Number>(first, chunk_a, chunk_b);
  }
  return accumulator.result();
}

Difference compare_pair(const TensorFile& file_a, const TensorFile& file_b, const Pair& pair,
                        const CompareOptions& options) {
  return is_floating(pair.a->type) ? compare_as<double>(file_a, file_b, pair, options)
                                   : compare_as<long double>(file_a, file_b, pair, options);
}

// An npy file holds one tensor without a name.
std::string label(const std::string& path, const io::TensorEntry& entry) {
  return is_npy(path) ? "npy" : io::in_quotes(entry.name);
}

void check_pair(const Pair& pair, const std::string& name) {
  if (pair.a->shape != pair.b->shape) {
    throw Failure(kBadInput,
                  fmt::format("compare: {}: shapes must be the same; A has {}, B has {}", name,
                              format_shape(pair.a->shape), format_shape(pair.b->shape)));
  }
  if (is_floating(pair.a->type) != is_floating(pair.b->type)) {
    throw Failure(
        kBadInput,
        fmt::format("compare: {}: expected two floating or two integer types, found {} and {}",
                    name, io::name_of(pair.a->type), io::name_of(pair.b->type)));
  }
}

// The tensor of an npy file answers to any name.
const io::TensorEntry* find_named(const TensorFile& file, const std::string& path,
                                  const std::string& name) {
  const io::TensorEntry* entry = is_npy(path) ? file.find("") : file.find(name);
  if (entry == nullptr) {
    throw Failure(kBadInput,
                  fmt::format("{}: expected a tensor {}, found none", path, io::in_quotes(name)),
                  "'longspan inspect' lists the tensors");
  }
  return entry;
}

struct Selection {
  std::vector<Pair> pairs;
  std::vector<std::string> only_a, only_b;
};

Selection select(const CompareOptions& options, const TensorFile& file_a,
                 const TensorFile& file_b) {
  Selection selection;
  for (const std::string& word : options.tensors) {
    const std::size_t equals = word.find('=');
    const std::string name_a = word.substr(0, equals);
    const std::string name_b = equals == std::string::npos ? name_a : word.substr(equals + 1);
    selection.pairs.push_back(
        {find_named(file_a, options.a, name_a), find_named(file_b, options.b, name_b)});
  }
  if (!options.tensors.empty()) return selection;
  if (is_npy(options.a) != is_npy(options.b)) {
    throw Failure(kUsage,
                  "compare: expected --tensor NAME to say which tensor the npy file is compared "
                  "with, found none");
  }
  for (const io::TensorEntry& entry : file_a.entries()) {
    const io::TensorEntry* other = file_b.find(entry.name);
    if (other != nullptr) {
      selection.pairs.push_back({&entry, other});
    } else {
      selection.only_a.push_back(entry.name);
    }
  }
  for (const io::TensorEntry& entry : file_b.entries()) {
    if (file_a.find(entry.name) == nullptr) selection.only_b.push_back(entry.name);
  }
  return selection;
}

std::vector<std::int64_t> unflatten(std::int64_t index, const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> position(index < 0 ? 0 : shape.size());
  for (std::size_t axis = position.size(); axis-- > 0;) {
    position[axis] = index % shape[axis];
    index /= shape[axis];
  }
  return position;
}

// Integers with all their digits.
Json value_record(const Pair& pair, long double value) {
  if (is_floating(pair.a->type)) return json_number(static_cast<double>(value));
  if (value < 0) return static_cast<std::int64_t>(value);
  return static_cast<std::uint64_t>(value);
}

std::string value_text(const Pair& pair, long double value) {
  return is_floating(pair.a->type) ? fmt::format("{:.9g}", value)
                                   : value_record(pair, value).dump();
}

Json record_of(const Pair& pair, const Difference& found) {
  return {{"name", printable(pair.a->name)},
          {"name_b", printable(pair.b->name)},
          {"shape", pair.a->shape},
          {"dtype", io::name_of(pair.a->type)},
          {"dtype_b", io::name_of(pair.b->type)},
          {"within", found.within},
          {"max_abs", json_number(found.max_abs)},
          {"rms", json_number(found.rms)},
          {"rel_l2", json_number(found.rel_l2)},
          {"worst_index", unflatten(found.worst, pair.a->shape)},
          {"a", value_record(pair, found.a)},
          {"b", value_record(pair, found.b)}};
}

std::string line_of(const Pair& pair, const Difference& found, const std::string& name) {
  std::string line = fmt::format("{} {} {}: max abs {:.3g}, rms {:.3g}, rel L2 {:.3g}",
                                 found.within ? "ok  " : "FAIL", name, format_shape(pair.a->shape),
                                 found.max_abs, found.rms, found.rel_l2);
  if (found.worst >= 0) {
    line +=
        fmt::format("; worst at {}: {} and {}", format_shape(unflatten(found.worst, pair.a->shape)),
                    value_text(pair, found.a), value_text(pair, found.b));
  }
  return line + "\n";
}

int run_compare(const CompareOptions& options) {
  if (options.b.empty()) throw Failure(kUsage, "compare: A B: expected two files, found fewer");
  if (options.rel_l2 && (options.rtol || options.atol)) {
    throw Failure(kUsage, "compare: expected --rel-l2 or --rtol and --atol, found both");
  }
  const TensorFile file_a(options.a), file_b(options.b);
  const Selection selection = select(options, file_a, file_b);
  for (const Pair& pair : selection.pairs) check_pair(pair, label(options.a, *pair.a));

  bool within = selection.only_a.empty() && selection.only_b.empty();
  std::string text;
  Json tensors = Json::array();
  for (const Pair& pair : selection.pairs) {
    const Difference found = compare_pair(file_a, file_b, pair, options);
    within = within && found.within;
    const std::string& name = pair.a->name;
    text += line_of(pair, found, name.empty() ? label(options.a, *pair.a) : printable(name));
    tensors.push_back(record_of(pair, found));
  }
  if (options.json) {
    Json record = new_record();
    record["command"] = "compare";
    record["within"] = within;
    if (options.rel_l2) {
      record["tolerance"] = {{"rel_l2", *options.rel_l2}};
    } else {
      record["tolerance"] = {{"rtol", options.rtol.value_or(1e-5)},
                             {"atol", options.atol.value_or(1e-6)}};
    }
    record["tensors"] = std::move(tensors);
    record["only_a"] = selection.only_a;
    record["only_b"] = selection.only_b;
    print_record(record);
  } else {
    for (const std::string& name : selection.only_a)
      text += fmt::format("FAIL {}: only in A\n", printable(name));
    for (const std::string& name : selection.only_b)
      text += fmt::format("FAIL {}: only in B\n", printable(name));
    print_out(text);
  }
  return within ? kSuccess : kRunTimeFailure;
}

}  // namespace

Runner add_compare(CLI::App& program) {
  CLI::App* app = program.add_subcommand(
      "compare", "Compares the tensors of two files; exit 1 when they differ");
  const auto options = std::make_shared<CompareOptions>();
  app->add_option("A", options->a, "a .safetensors or .npy file")->type_name("FILE");
  app->add_option("B", options->b, "the reference")->type_name("FILE");
  app->add_option("--tensor", options->tensors,
                  "compare this tensor; NAME=NAME when B calls it otherwise; may be repeated (all)")
      ->type_name("NAME[=NAME]")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  OptionAdder add(*app);
  add.real("--rtol", options->rtol, 0, "relative to |b| (1e-5)");
  add.real("--atol", options->atol, 0, "absolute (1e-6)");
  add.real("--rel-l2", options->rel_l2, 0,
           "relative L2 of the whole tensor, instead of both (off)");
  add.flag("--json", options->json, "a JSON record on standard output");
  app->footer(kExamples);
  return [options] { return run_compare(*options); };
}

}  // namespace longspan::cli
