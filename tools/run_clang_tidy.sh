#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# usage: run_clang_tidy.sh PROGRAMS BUILD_FOLDER [JOBS]
# clang-tidy of the folder PROGRAMS over all sources; findings are shown, and only they
set -euo pipefail

log="$2/clang-tidy.log"
if ! "$1/run-clang-tidy.py" -clang-tidy-binary "$1/clang-tidy" -quiet -p "$2" -j "${3:-$(nproc)}" \
  '^(?!.*/nanobind/src/).*/(src|cli|python|tests|bench|examples)/.*\.cpp$' \
  >"$log" 2>"$log.progress"; then
  grep -vE '^(\[|Running |$)' "$log" || tail "$log.progress"
  exit 1
fi
