// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Declares, checks and applies the options of `--method lsh`.
#include "lsh_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "attend_inputs.h"
#include "failure.h"
#include "longspan/lsh_names.h"
#include "tensor_file.h"

namespace longspan::cli {
namespace {

template <class Choices>
auto find_choice(const Choices& choices, const std::string& name) {
  return std::find_if(choices.begin(), choices.end(),
                      [&](const auto& choice) { return name == choice.name; });
}

template <class Choices, class Value>
const char* name_of_choice(const Choices& choices, Value value) {
  return std::find_if(choices.begin(), choices.end(),
                      [&](const auto& choice) { return value == choice.value; })
      ->name;
}

template <class Choices>
std::string all_names(const Choices& choices) {
  std::string names;
  for (const auto& choice : choices) names += (names.empty() ? "" : "|") + std::string(choice.name);
  return names;
}

class LshAdder {
 public:
  LshAdder(OptionAdder& add, AttendOptions& options) : add_(add), options_(options) {}

  // parse(text) -> optional value; it is kept, and applied on top of a preset.
  template <class Parse, class Apply>
  void option(const char* name, const std::string& type, const char* help,
              const std::string& expected, const Parse& parse, const Apply& apply) {
    add_.text(name, type, help, expected,
              [&options = options_, name, parse, apply](const std::string& text) {
                const auto value = parse(text);
                if (!value) return false;
                options.lsh_choices.emplace_back(
                    name, [apply, value](LshOptions& lsh) { apply(lsh, *value); });
                return true;
              });
  }

  void integer(const char* name, const char* help, std::int64_t least, std::int64_t most,
               std::int64_t LshOptions::*into) {
    option(
        name, "N", help, integer_in(least, most),
        [least, most](const std::string& text) {
          auto value = parse_integer(text);
          if (value && (*value < least || *value > most)) value.reset();
          return value;
        },
        [into](LshOptions& lsh, std::int64_t value) { lsh.*into = value; });
  }

  template <class Choices, class Value>
  void choice(const char* name, const char* help, const Choices& choices, Value LshOptions::*into) {
    option(
        name, all_names(choices), help, all_names(choices),
        [&choices](const std::string& text) {
          const auto found = find_choice(choices, text);
          return found != choices.end() ? std::optional<Value>(found->value) : std::nullopt;
        },
        [into](LshOptions& lsh, Value value) { lsh.*into = value; });
  }

 private:
  OptionAdder& add_;
  AttendOptions& options_;
};

// Buckets, and one more for padding, are counted in 32 bits; and so are rounds and chunks.
constexpr std::int64_t kMostCounted = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMostBuckets = kMostCounted - 1;

std::optional<std::vector<std::int64_t>> parse_factors(const std::string& text) {
  std::vector<std::int64_t> factors;
  std::int64_t buckets = 1;
  for (const std::string& part : split(text, ',')) {
    const auto factor = parse_integer(part);
    if (!factor || *factor < 2 || *factor % 2 != 0) return std::nullopt;
    if (*factor > kMostBuckets / buckets) return std::nullopt;
    buckets *= *factor;
    factors.push_back(*factor);
  }
  return factors;
}

std::optional<std::array<std::int64_t, 2>> parse_sides(const std::string& text) {
  const auto pair = parse_pair(text, ',');
  if (!pair || pair->first < -1 || pair->second < -1) return std::nullopt;
  return std::array{pair->first, pair->second};
}

[[noreturn]] void refuse(const AttendOptions& options, const std::string& what,
                         const char* hint = "") {
  throw Failure(kUsage, options.command + ": " + what, hint);
}

}  // namespace

void add_lsh_options(OptionAdder& add, AttendOptions& options) {
  static const std::string kFactors = fmt::format(
      "even integers of at least 2, such as 64 or 8,16, whose product is at most {}", kMostBuckets);
  add.group("Hashing, with --method lsh");
  LshAdder lsh(add, options);
  lsh.integer("--num-hashes", "rounds (4)", 1, kMostCounted, &LshOptions::num_hashes);
  lsh.option("--num-buckets", "N[,N...]", "buckets, or their factors (chosen by the length)",
             kFactors, parse_factors,
             [](LshOptions& into, const auto& factors) { into.num_buckets = factors; });
  lsh.integer("--chunk-len", "positions of a chunk (64)", 1, kNoLimit, &LshOptions::chunk_len);
  lsh.integer("--chunks-before", "chunks attended before the own one (1)", 0, kMostCounted,
              &LshOptions::chunks_before);
  lsh.integer("--chunks-after", "chunks attended after it (0)", 0, kMostCounted,
              &LshOptions::chunks_after);
  lsh.choice("--dedup", "how a pair found several times counts (exact: once)", kDedupNames,
             &LshOptions::dedup);
  lsh.choice("--wrap", "what is beyond the edge of a round (none)", kWrapNames, &LshOptions::wrap);
  lsh.choice("--key-norm", "how query_key becomes keys (rms)", kKeyNormNames,
             &LshOptions::key_norm);
  add.text("--preset", all_names(kLshPresetNames), "the choices of that implementation (none)",
           all_names(kLshPresetNames), [&](const std::string& text) {
             const auto found = find_choice(kLshPresetNames, text);
             if (found == kLshPresetNames.end()) return false;
             options.lsh_preset = found->value;
             return true;
           });
  add.flag("--whole-buckets", options.whole_buckets, "attend to whole buckets, not chunks");
  lsh.option("--local-window", "L,R", "keys this near are attended exactly, too (none)",
             "two integers L,R of at least -1", parse_sides,
             [](LshOptions& into, const auto& sides) { into.local_window = sides; });
  add.flag("--diagnose", options.diagnose,
           "what was found of exact attention, on sampled rows; bucket sizes");
  add.flag("--save-buckets", options.save_buckets, "the buckets into OUTPUT");
}

void check_lsh_options(const AttendOptions& options) {
  if (!options.lsh) {
    const std::string name = !options.lsh_choices.empty()    ? options.lsh_choices.front().first
                             : options.whole_buckets         ? "--whole-buckets"
                             : options.lsh_preset != nullptr ? "--preset"
                             : options.diagnose              ? "--diagnose"
                             : options.save_buckets          ? "--save-buckets"
                                                             : "";
    if (name.empty()) return;
    refuse(options, name + ": expected --method lsh with it, found --method exact", "--method lsh");
  }
  if (options.save_buckets && is_npy(options.output)) {
    refuse(options,
           "--save-buckets: expected a .safetensors OUTPUT, which holds the buckets, found " +
               options.output);
  }
  if (options.dropout > 0) refuse(options, "--dropout: expected none with --method lsh");
  if (options.query_chunk > 0 || options.key_chunk > 0) {
    refuse(options, "--query-chunk, --key-chunk: expected none with --method lsh",
           "--chunk-len is its own");
  }
}

namespace {

void check_wrap(const AttendOptions& options, const LshOptions& lsh, bool shared) {
  if (lsh.wrap == Wrap::kNone || (shared && !lsh.whole_buckets)) return;
  refuse(options,
         fmt::format("--wrap: expected none with {}, found {}{}",
                     lsh.whole_buckets ? "--whole-buckets" : "separate query and key",
                     name_of_choice(kWrapNames, lsh.wrap),
                     options.lsh_preset != nullptr ? " (the preset's, if not said)" : ""),
         "add --wrap none");
}

}  // namespace

LshOptions make_lsh_options(const AttendOptions& options, const AttendInputs& inputs) {
  LshOptions lsh = options.lsh_preset != nullptr ? options.lsh_preset() : LshOptions{};
  for (const auto& [name, apply] : options.lsh_choices) apply(lsh);
  if (options.whole_buckets) lsh.whole_buckets = true;
  check_wrap(options, lsh, inputs.has(Role::kQueryKey));
  lsh.seed = static_cast<std::uint64_t>(options.seed);
  lsh.rotations = inputs.view(Role::kRotations);
  lsh.buckets = inputs.view(Role::kBuckets);
  lsh.query_buckets = inputs.view(Role::kQueryBuckets);
  lsh.key_buckets = inputs.view(Role::kKeyBuckets);
  if (lsh.num_buckets.empty() && lsh.rotations.rank == 4) {
    lsh.num_buckets = {2 * lsh.rotations.shape[3]};
  }
  return lsh;
}

std::string effective_lsh_options(const AttendOptions& options, const LshOptions& lsh,
                                  std::int64_t seqlen_k) {
  std::string text;
  if (options.lsh_preset != nullptr) {
    text += fmt::format(" --preset {}", name_of_choice(kLshPresetNames, options.lsh_preset));
  }
  text += fmt::format(
      " --num-hashes {} --chunk-len {} --chunks-before {} --chunks-after {} --dedup {} --wrap {} "
      "--key-norm {} --seed {}",
      lsh.num_hashes, lsh.chunk_len, lsh.chunks_before, lsh.chunks_after,
      name_of_choice(kDedupNames, lsh.dedup), name_of_choice(kWrapNames, lsh.wrap),
      name_of_choice(kKeyNormNames, lsh.key_norm), lsh.seed);
  text +=
      fmt::format(" --num-buckets {}",
                  fmt::join(lsh.num_buckets.empty() ? choose_num_buckets(seqlen_k, lsh.chunk_len)
                                                    : lsh.num_buckets,
                            ","));
  if (lsh.whole_buckets) text += " --whole-buckets";
  if (options.save_buckets) text += " --save-buckets";
  if (lsh.local_window) {
    text += fmt::format(" --local-window={},{}", (*lsh.local_window)[0], (*lsh.local_window)[1]);
  }
  return text;
}

}  // namespace longspan::cli
