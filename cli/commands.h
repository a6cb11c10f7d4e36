// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The commands. Each adds itself with its options to the program and returns what runs it after
// parsing; the result is the exit code, failures are thrown.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace longspan::cli {

using Runner = std::function<int()>;

Runner add_attend(CLI::App& program);
Runner add_merge(CLI::App& program);
Runner add_compare(CLI::App& program);
Runner add_inspect(CLI::App& program);
Runner add_doctor(CLI::App& program);
Runner add_bench(CLI::App& program);
Runner add_explain(CLI::App& program);

}  // namespace longspan::cli
