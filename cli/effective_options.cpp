// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Options as text.
#include "effective_options.h"

#include <fmt/format.h>

#include <cmath>
#include <string_view>

#include "lsh_options.h"

namespace longspan::cli {
namespace {

// As a shell reads it.
std::string in_shell(const std::string& word) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:,=";
  if (word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

}  // namespace

std::string effective_options(const AttendOptions& options, const AttendCall& call,
                              bool has_query_offsets) {
  std::string text = fmt::format("--method {} --layout {}", options.lsh ? "lsh" : "exact",
                                 options.bhsd ? "bhsd" : "bshd");
  if (options.lsh) text += effective_lsh_options(options, call.lsh, call.seqlen_k);
  for (const auto& [role, name] : options.renamed) {
    if (!name.empty()) text += fmt::format(" {}={}", name_option(role), in_shell(name));
  }
  if (options.causal) text += " --causal";
  if (options.window)
    text += fmt::format(" --window={},{}", options.window->first, options.window->second);
  if (options.offset_end) {
    text += " --query-offset=end";
  } else if (!has_query_offsets) {
    text += fmt::format(" --query-offset={}", options.offset.value_or(0));
  }
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(call.head_dim)));
  if (!call.shared) text += fmt::format(" --scale={}", scale);
  text += fmt::format(" --softcap={}", options.softcap.value_or(0));
  if (options.dropout > 0)
    text += fmt::format(" --dropout={} --seed {}", options.dropout, options.seed);
  if (options.keys) text += fmt::format(" --keys {}:{}", options.keys->first, options.keys->second);
  if (options.query_chunk > 0) text += fmt::format(" --query-chunk {}", options.query_chunk);
  if (options.key_chunk > 0) text += fmt::format(" --key-chunk {}", options.key_chunk);
  if (options.output_f32) text += " --output-dtype f32";
  if (options.backward) text += " --backward";
  return text;
}

}  // namespace longspan::cli
