#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# usage: CXX=aarch64-linux-gnu-g++ compile_for_arm.sh BUILD_FOLDER
# Compiles src/ to objects. Highway is headers for this purpose; Debian's package for this machine has them. The
# std::thread back end stands in for oneTBB, whose headers need nothing more but are not wanted here.
set -euo pipefail

build="$1/include"
mkdir -p "$build"
# Only these two folders: all of /usr/include would bring in the C library of this machine.
ln -sfn /usr/include/hwy "$build/hwy"
ln -sfn /usr/include/nlohmann "$build/nlohmann"

count=0
for source in src/*/*.cpp; do
  [ "$source" != src/base/parallel_for_tbb.cpp ] || continue
  "${CXX:?}" -std=c++20 -O2 -fPIC -Wall -Wextra -Wpedantic -Wshadow -Wno-restrict -Wno-psabi -Werror \
    -DLONGSPAN_VERSION='"arm"' -Iinclude -Isrc -isystem "$build" \
    -c "$source" -o "$1/$(tr / _ <<<"${source%.cpp}").o"
  count=$((count + 1))
done
echo "neon: $count sources compiled by $CXX"
