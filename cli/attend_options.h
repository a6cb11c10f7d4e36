// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The options of `attend` as values, before any file is opened.
#pragma once

#include <CLI/CLI.hpp>
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace longspan::cli {

// What a tensor of the input is for; its name in the file is the same unless --NAME-name says
// otherwise.
enum class Role {
  kQuery,
  kKey,
  kValue,
  kBias,
  kMask,
  kKeyLengths,
  kCuSeqlensQ,
  kCuSeqlensK,
  kAlibiSlopes,
  kSinks,
  kQueryOffsets,
  kDoutput,  // with --backward
  kDlse
};
inline constexpr std::array<const char*, 13> kRoleNames = {
    "query",         "key",          "value",        "bias",         "mask",
    "key_lengths",   "cu_seqlens_q", "cu_seqlens_k", "alibi_slopes", "sinks",
    "query_offsets", "doutput",      "dlse"};
inline const char* name_of(Role role) { return kRoleNames[static_cast<std::size_t>(role)]; }

struct AttendOptions {
  using Pair = std::pair<std::int64_t, std::int64_t>;

  std::vector<std::string> inputs;  // one safetensors file, or three npy files
  std::string output;
  std::map<std::string, std::string> renamed;  // role's name -> name in the file
  bool bhsd = false;
  bool output_f32 = false;

  bool causal = false;
  std::optional<Pair> window;
  bool offset_end = false;
  std::optional<std::int64_t> offset;
  std::optional<double> scale;
  std::optional<double> softcap;
  std::optional<Pair> keys;
  double dropout = 0;
  std::int64_t seed = 0;
  bool backward = false;

  std::int64_t query_chunk = 0;
  std::int64_t key_chunk = 0;
  std::int64_t threads = 0;
  std::uint64_t memory_limit = 0;

  bool dry_run = false;
  bool json = false;
  bool quiet = false;
  bool force = false;
};

void add_attend_options(CLI::App& app, AttendOptions& options);

// What can be said without a file: the number of inputs, OUTPUT, options that exclude each other.
// Throws Failure (2).
void check_attend_options(const AttendOptions& options);

}  // namespace longspan::cli
