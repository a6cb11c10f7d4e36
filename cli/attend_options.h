// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The options of `attend` as values, before any file is opened.
#pragma once

#include <CLI/CLI.hpp>
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "longspan/lsh_attention.h"

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
  kDlse,
  kQueryKey,  // with --method lsh, from here on
  kRotations,
  kBuckets,
  kQueryBuckets,
  kKeyBuckets
};
inline constexpr std::array<const char*, 18> kRoleNames = {
    "query",        "key",          "value",        "bias",    "mask",          "key_lengths",
    "cu_seqlens_q", "cu_seqlens_k", "alibi_slopes", "sinks",   "query_offsets", "doutput",
    "dlse",         "query_key",    "rotations",    "buckets", "query_buckets", "key_buckets"};
inline const char* name_of(Role role) { return kRoleNames[static_cast<std::size_t>(role)]; }

// "key_lengths": "--key-lengths-name"
std::string name_option(const std::string& role);

struct AttendOptions {
  using Pair = std::pair<std::int64_t, std::int64_t>;

  std::string command = "attend";  // whose options these are

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

  bool lsh = false;
  LshOptions (*lsh_preset)() = nullptr;
  // By the name of the option, in the order of the command line; applied on top of the preset.
  std::vector<std::pair<std::string, std::function<void(LshOptions&)>>> lsh_choices;
  bool whole_buckets = false;
  bool diagnose = false;
  bool save_buckets = false;

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
