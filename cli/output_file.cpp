// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Checks and writes OUTPUT.
#include "output_file.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "failure.h"
#include "io/atomic_file.h"
#include "io/npy.h"
#include "longspan/error.h"
#include "record.h"
#include "signals.h"
#include "tensor_file.h"

namespace longspan::cli {
namespace {

// A terminal and /dev/null keep nothing that a further line could damage.
bool is_standard_output(const std::string& path) {
  struct stat there {
  }, here{};
  return stat(path.c_str(), &there) == 0 && fstat(STDOUT_FILENO, &here) == 0 &&
         there.st_dev == here.st_dev && there.st_ino == here.st_ino && !S_ISCHR(here.st_mode);
}

template <class Write>
void run_write(const Write& write) {
  stop_if_interrupted();
  try {
    write();
  } catch (const Error& error) {
    throw Failure(kRunTimeFailure, error.what(), error.hint());
  }
}

}  // namespace

void check_output(const OutputFile& output) {
  if (output.json && is_standard_output(output.path)) {
    throw Failure(kUsage, fmt::format("{}: --json: expected an OUTPUT that is not standard output, "
                                      "where the record goes, found {}",
                                      output.command, output.path));
  }
  struct stat status {};
  if (stat(output.path.c_str(), &status) == 0) {
    // Nothing is lost by writing to a device or a pipe; opening one twice may block.
    if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) return;
    if (S_ISREG(status.st_mode) && !output.force) {
      throw Failure(kUsage,
                    fmt::format("{}: OUTPUT: expected a new file, found that {} exists",
                                output.command, output.path),
                    "--force overwrites it");
    }
  }
  run_write([&] { const io::AtomicFile probe(output.path); });
}

void write_output(const OutputFile& output, std::span<const io::NamedTensor> tensors,
                  const std::map<std::string, std::string>& metadata) {
  run_write([&] {
    if (is_npy(output.path)) {
      io::write_npy(output.path, tensors.front().tensor);
    } else {
      io::write_safetensors(output.path, tensors, metadata);
    }
  });
}

void write_output(const OutputFile& output, const std::string& text) {
  run_write([&] {
    io::AtomicFile file(output.path);
    file.write(text.data(), text.size());
    file.commit();
  });
}

void print_after_output(const OutputFile& output, const std::string& text) {
  if (is_standard_output(output.path)) return print_err(text);
  try {
    print_out(text);
  } catch (const Failure& failure) {
    throw Failure(failure.exit_code(),
                  fmt::format("{}; {} was written", failure.what(), output.path));
  }
}

}  // namespace longspan::cli
