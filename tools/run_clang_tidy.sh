#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# usage: run_clang_tidy.sh BUILD_FOLDER [JOBS]   clang-tidy over all sources; findings are shown, and only they
set -euo pipefail

log="$1/clang-tidy.log"
if ! run-clang-tidy -quiet -p "$1" -j "${2:-$(nproc)}" '^(?!.*/nanobind/src/).*/(src|cli|python|tests|bench|examples)/.*\.cpp$' \
  >"$log" 2>"$log.progress"; then
  grep -vE '^clang-tidy[-0-9]* |^$' "$log" || tail "$log.progress"
  exit 1
fi
