// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// OUTPUT of a command: what may stand there is found before any work, it is written whole or not at
// all, and what is said of it afterwards does not get into it.
#pragma once

#include <map>
#include <span>
#include <string>

#include "io/safetensors.h"

namespace longspan::cli {

struct OutputFile {
  std::string command;  // of whom messages speak
  std::string path;
  bool force = false;  // overwrite it
  bool json = false;   // a record will be printed
};

// Refuses an existing file without `force`, and a record where OUTPUT is standard output (exit 2),
// and a directory, a missing or unwritable folder (exit 1).
void check_output(const OutputFile& output);

// safetensors, or for a name ending in .npy the first tensor alone. Failures are exit 1.
void write_output(const OutputFile& output, std::span<const io::NamedTensor> tensors,
                  const std::map<std::string, std::string>& metadata);
void write_output(const OutputFile& output, const std::string& text);

// Prints what a command says once OUTPUT is written: on stdout, or on stderr where that is OUTPUT.
// A failure (exit 1) says that OUTPUT is there.
void print_after_output(const OutputFile& output, const std::string& text);

}  // namespace longspan::cli
