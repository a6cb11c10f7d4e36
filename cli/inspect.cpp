// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// `longspan inspect`: what a tensor file holds.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "commands.h"
#include "failure.h"
#include "options.h"
#include "record.h"
#include "tensor_file.h"

namespace longspan::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  longspan inspect input.safetensors
  longspan inspect query.npy --json)";

struct InspectOptions {
  std::string file;
  bool json = false;
};

// Over the finite values; NaN and infinities are counted.
struct Statistics {
  double min = HUGE_VAL, max = -HUGE_VAL;
  long double sum = 0;
  std::int64_t finite = 0, nan = 0, inf = 0;

  void add(std::span<const double> values) {
    for (const double value : values) {
      if (std::isnan(value)) {
        ++nan;
      } else if (std::isinf(value)) {
        ++inf;
      } else {
        ++finite;
        min = std::min(min, value);
        max = std::max(max, value);
        sum += value;
      }
    }
  }
  double mean() const { return static_cast<double>(sum / static_cast<long double>(finite)); }
};

Statistics statistics_of(const TensorFile& file, const io::TensorEntry& entry) {
  constexpr std::int64_t kChunk = 1 << 18;  // 2 MiB of doubles
  const std::int64_t count = element_count(entry);
  std::vector<double> values(static_cast<std::size_t>(std::min(count, kChunk)));
  Statistics statistics;
  for (std::int64_t first = 0; first < count; first += kChunk) {
    const std::span chunk(values.data(), static_cast<std::size_t>(std::min(kChunk, count - first)));
    file.read_numbers(entry, first, chunk);
    statistics.add(chunk);
  }
  return statistics;
}

Json record_of(const io::TensorEntry& entry, const Statistics& statistics) {
  Json record = {{"name", printable(entry.name)},
                 {"dtype", io::name_of(entry.type)},
                 {"shape", entry.shape},
                 {"bytes", byte_count(entry)}};
  const bool any = statistics.finite > 0;
  record["min"] = any ? Json(statistics.min) : Json();
  record["max"] = any ? Json(statistics.max) : Json();
  record["mean"] = any ? Json(statistics.mean()) : Json();
  record["nan"] = statistics.nan;
  record["inf"] = statistics.inf;
  return record;
}

int run_inspect(const InspectOptions& options) {
  if (options.file.empty())
    throw Failure(kUsage, "inspect: FILE: expected a file name, found none");
  const TensorFile file(options.file);
  const auto metadata = file.metadata();
  Json tensors = Json::array();
  std::size_t width = 4;
  for (const io::TensorEntry& entry : file.entries())
    width = std::clamp(entry.name.size(), width, std::size_t{60});
  std::string text =
      fmt::format("{:<{}}  {:<7}  {:<24}  {:>12}  {:>12}  {:>12}  {:>6}  {:>6}\n", "name", width,
                  "dtype", "shape", "min", "max", "mean", "NaN", "inf");
  for (const io::TensorEntry& entry : file.entries()) {
    const Statistics statistics = statistics_of(file, entry);
    tensors.push_back(record_of(entry, statistics));
    const auto number = [&](double value) {
      return statistics.finite > 0 ? fmt::format("{:.5g}", value) : "-";
    };
    text += fmt::format("{:<{}}  {:<7}  {:<24}  {:>12}  {:>12}  {:>12}  {:>6}  {:>6}\n",
                        entry.name.empty() ? "-" : printable(entry.name), width,
                        io::name_of(entry.type), format_shape(entry.shape), number(statistics.min),
                        number(statistics.max), number(statistics.mean()), statistics.nan,
                        statistics.inf);
  }
  if (options.json) {
    Json record = new_record();
    record["command"] = "inspect";
    record["file"] = printable(options.file);
    record["metadata"] = metadata;
    record["tensors"] = std::move(tensors);
    print_record(record);
    return kSuccess;
  }
  for (const auto& [key, value] : metadata)
    text += fmt::format("{} = {}\n", printable(key), printable(value));
  print_out(text);
  return kSuccess;
}

}  // namespace

Runner add_inspect(CLI::App& program) {
  CLI::App* app = program.add_subcommand("inspect", "Lists the tensors of a file with their range");
  const auto options = std::make_shared<InspectOptions>();
  app->add_option("FILE", options->file, "a .safetensors or .npy file")->type_name("FILE");
  OptionAdder(*app).flag("--json", options->json, "a JSON record on standard output");
  app->footer(kExamples);
  return [options] { return run_inspect(*options); };
}

}  // namespace longspan::cli
