// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// `longspan merge`: attention over disjoint sets of keys, merged to attention over their union.
// Parts are read one after another into a float64 sum, so memory does not grow with their number.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "commands.h"
#include "failure.h"
#include "io/file_error.h"
#include "longspan/partial.h"
#include "machine.h"
#include "options.h"
#include "output_file.h"
#include "record.h"
#include "signals.h"
#include "tensor_file.h"

namespace longspan::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  longspan attend input.safetensors -o low.safetensors --keys 0:4096 --output-dtype f32
  longspan attend input.safetensors -o high.safetensors --keys 4096:8192 --output-dtype f32
  longspan merge low.safetensors high.safetensors -o all.safetensors)";

struct MergeOptions {
  std::vector<std::string> parts;
  std::string output;
  std::string layout;  // empty: as the parts say
  bool json = false;
  bool force = false;
};

// The header of a part; its tensors are read when they are merged.
struct Part {
  std::string path;
  io::TensorEntry output, lse;
  bool bhsd = false;
};

const io::TensorEntry& find_tensor(const TensorFile& file, const std::string& path,
                                   const char* name) {
  const io::TensorEntry* entry = file.find(name);
  if (entry == nullptr) {
    throw Failure(kBadInput, fmt::format("{}: expected a tensor '{}', found none", path, name),
                  "a part holds output and lse, as attend writes them");
  }
  return *entry;
}

Part open_part(const std::string& path, const std::string& layout) {
  if (is_npy(path)) {
    throw Failure(kBadInput,
                  path + ": expected a safetensors file with output and lse, found an npy file");
  }
  const TensorFile file(path);
  Part part{path, find_tensor(file, path, "output"), find_tensor(file, path, "lse")};
  const auto metadata = file.metadata();
  const auto said = metadata.find("layout");
  part.bhsd = layout.empty() ? said != metadata.end() && said->second == "bhsd" : layout == "bhsd";
  for (const io::TensorEntry& entry : file.entries()) {
    if (entry.name != "output" && entry.name != "lse") {
      warn(fmt::format("{}: merge does not use {}", path, io::in_quotes(entry.name)));
    }
  }
  return part;
}

// [batch, num_heads, seqlen], of which an output of lower rank lacks the first.
std::vector<std::int64_t> lse_shape(const Part& part) {
  std::vector<std::int64_t> shape = part.output.shape;
  shape.pop_back();
  if (!part.bhsd && shape.size() > 1) std::iter_swap(shape.end() - 1, shape.end() - 2);
  return shape;
}

void check_part(const Part& part) {
  for (const io::TensorEntry* entry : {&part.output, &part.lse}) {
    const auto dtype = io::dtype_of(entry->type);
    if (!dtype || !is_floating(*dtype)) {
      throw Failure(kBadInput, fmt::format("{}: {}: expected F32, F64, F16 or BF16, found {}",
                                           part.path, entry->name, io::name_of(entry->type)));
    }
  }
  const std::size_t rank = part.output.shape.size();
  if (rank < 2 || rank > kMaxRank) {
    throw Failure(kBadInput, fmt::format("{}: output: expected 2, 3 or 4 dimensions, found {}",
                                         part.path, format_shape(part.output.shape)));
  }
  if (part.lse.shape != lse_shape(part)) {
    throw Failure(
        kBadInput,
        fmt::format("{}: lse: expected {} with output {} in the layout {}, found {}", part.path,
                    format_shape(lse_shape(part)), format_shape(part.output.shape),
                    part.bhsd ? "bhsd" : "bshd", format_shape(part.lse.shape)),
        "--layout says what the layout is");
  }
}

void check_fit(const Part& part, const Part& first) {
  for (const auto& [entry, other] :
       {std::pair{&part.output, &first.output}, {&part.lse, &first.lse}}) {
    if (entry->shape != other->shape) {
      throw Failure(kBadInput,
                    fmt::format("merge: {} must have one shape in all parts; {} has {}, {} has {}",
                                entry->name, first.path, format_shape(other->shape), part.path,
                                format_shape(entry->shape)));
    }
  }
  if (part.bhsd != first.bhsd) {
    throw Failure(kBadInput,
                  fmt::format("merge: {} and {} have different layouts", first.path, part.path),
                  "--layout says what both have, if their metadata is wrong");
  }
}

// The parts' own type when they agree; otherwise the type that loses nothing of what merging keeps.
DType common_dtype(const std::vector<Part>& parts, io::TensorEntry Part::*tensor) {
  const io::StoredType first = (parts.front().*tensor).type;
  const auto all = [&](io::StoredType type) {
    return std::all_of(parts.begin(), parts.end(),
                       [&](const Part& p) { return (p.*tensor).type == type; });
  };
  if (all(first)) return *io::dtype_of(first);
  const bool any_double = std::any_of(parts.begin(), parts.end(), [&](const Part& p) {
    return (p.*tensor).type == io::StoredType::kF64;
  });
  return any_double ? DType::kFloat64 : DType::kFloat32;
}

template <class Output, class Lse>
auto partial_of(const Output& output, const Lse& lse, bool bhsd) {
  if constexpr (std::is_same_v<Output, TensorView>) {
    return Partial{
        bhsd && output.rank > 2 ? transpose(output, output.rank - 3, output.rank - 2) : output,
        lse};
  } else {
    return ConstPartial{
        bhsd && output.rank > 2 ? transpose(output, output.rank - 3, output.rank - 2) : output,
        lse};
  }
}

int run_merge(const MergeOptions& options) {
  if (options.parts.empty())
    throw Failure(kUsage, "merge: PART: expected at least one file, found none");
  if (options.output.empty())
    throw Failure(kUsage, "merge: -o OUTPUT: expected a file name, found none");
  const OutputFile to{"merge", options.output, options.force, options.json};
  check_output(to);

  std::vector<Part> parts;
  std::uint64_t largest = 0;
  for (const std::string& path : options.parts) {
    parts.push_back(open_part(path, options.layout));
    check_part(parts.back());
    check_fit(parts.back(), parts.front());
    largest = std::max(largest, byte_count(parts.back().output) + byte_count(parts.back().lse));
  }
  const Part& first = parts.front();
  const bool bhsd = first.bhsd;
  const DType dtype = common_dtype(parts, &Part::output);
  DType lse_dtype = common_dtype(parts, &Part::lse);
  if (lse_dtype != DType::kFloat64) lse_dtype = DType::kFloat32;  // lse is float32 at least
  if (is_npy(options.output) && dtype == DType::kBFloat16) {
    throw Failure(kUsage,
                  "merge: OUTPUT: npy has no bfloat16; expected a .safetensors name, found " +
                      options.output);
  }
  const auto elements =
      static_cast<std::uint64_t>(element_count(first.output) + element_count(first.lse));
  const MemoryNeed need{largest, elements * (sizeof(double) + size_of(dtype)), 0};
  check_memory("merge", need, [](std::uint64_t) {
    return "merge a part of the batch, heads or queries at a time";
  });
  print_err(fmt::format("merge: {}\n", need.text()));

  const auto start = std::chrono::steady_clock::now();
  Execution execution;
  execution.stop = stop_token();
  const OwnedTensor sum_output = make_tensor(DType::kFloat64, first.output.shape);
  const OwnedTensor sum_lse = make_tensor(DType::kFloat64, first.lse.shape);
  const Partial sum = partial_of(sum_output.view, sum_lse.view, bhsd);
  clear(sum);
  for (const Part& part : parts) {
    const TensorFile file(part.path);
    const io::StoredTensor output = file.read(part.output);
    const io::StoredTensor lse = file.read(part.lse);
    const ConstPartial one =
        partial_of(view_of(part.output, output.bytes()), view_of(part.lse, lse.bytes()), bhsd);
    merge(sum, {&one, 1}, execution);
  }
  const OwnedTensor output = make_tensor(dtype, first.output.shape);
  const OwnedTensor lse = make_tensor(lse_dtype, first.lse.shape);
  const Partial result = partial_of(output.view, lse.view, bhsd);
  clear(result);
  const ConstPartial exact = sum;
  merge(result, {&exact, 1}, execution);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  const io::NamedTensor tensors[] = {{"output", output.view}, {"lse", lse.view}};
  write_output(to, tensors,
               {{"command", "merge"},
                {"version", version()},
                {"layout", bhsd ? "bhsd" : "bshd"},
                {"parts", std::to_string(parts.size())}});
  if (options.json) {
    Json record = new_record();
    record["command"] = "merge";
    record["version"] = version();
    record["parts"] = parts.size();
    record["shape"] = first.output.shape;
    record["layout"] = bhsd ? "bhsd" : "bshd";
    record["output_dtype"] = name_of(dtype);
    record["seconds"] = seconds;
    record["peak_bytes"] = peak_memory();
    record["output"] = printable(options.output);
    print_after_output(to, text_of(record));
  } else {
    print_after_output(to, fmt::format("merge: {} parts of {}, {}; {:.3g} s\n", parts.size(),
                                       format_shape(first.output.shape), name_of(dtype), seconds));
  }
  return kSuccess;
}

}  // namespace

Runner add_merge(CLI::App& program) {
  CLI::App* app = program.add_subcommand("merge", "Merges results over disjoint keys into one");
  const auto options = std::make_shared<MergeOptions>();
  app->add_option("PART", options->parts, "files with output and lse")->type_name("FILE");
  app->add_option("-o,--output", options->output, "the merged file")->type_name("FILE");
  OptionAdder add(*app);
  add.text("--layout", "bshd|bhsd", "axes of output (as the parts' metadata says, else bshd)",
           "bshd or bhsd", [options](const std::string& value) {
             options->layout = value;
             return value == "bshd" || value == "bhsd";
           });
  add.flag("--json", options->json, "a JSON record on standard output");
  add.flag("--force", options->force, "overwrite OUTPUT");
  app->footer(kExamples);
  return [options] { return run_merge(*options); };
}

}  // namespace longspan::cli
