// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Golden cases: one safetensors file each, with inputs, expected tensors and the options of the
// command line.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "longspan/attention.h"
#include "longspan/lsh_attention.h"

namespace longspan::test {

struct GoldenCase {
  std::string name;  // file name without its ending
  std::map<std::string, std::string> metadata;
  std::map<std::string, io::StoredTensor> tensors;

  // Absent view when the file has no such tensor.
  ConstTensorView find(const std::string& tensor) const;
  // All numbers of a tensor of any rank, row-major.
  std::vector<double> numbers(const std::string& tensor) const;
};
GoldenCase load_golden(const std::string& path);

// Names of the .safetensors files of LONGSPAN_GOLDEN_DIR/folder, sorted, without the ending.
std::vector<std::string> golden_names(const std::string& folder);
GoldenCase load_golden(const std::string& folder, const std::string& name);
// Of exact/: all but those where NaN is visible.
std::vector<std::string> golden_names_with_gradients();

struct GoldenOptions {
  AttentionOptions attention;  // masks of tensors included
  LshOptions lsh;              // rotations and buckets included
  Execution execution;
  bool heads_first = false;  // --layout bhsd
};
// Throws std::invalid_argument for an option that it does not know, so that none is ignored by
// accident; --backward has no meaning here and is skipped.
GoldenOptions parse_options(const GoldenCase& golden);

}  // namespace longspan::test
