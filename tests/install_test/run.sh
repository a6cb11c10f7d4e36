#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# usage: CC=... CXX=... CXXFLAGS=... run.sh SOURCES BUILD_FOLDER SCRATCH_FOLDER
# Installs into a folder, moves it, and builds and runs examples in C++ and in C against it by find_package and by
# pkg-config. By add_subdirectory the same project is configured, not built: that would compile every kernel once more.
set -euo pipefail

sources=$1 build=$2 scratch=$3 here=$(dirname "$0")
examples=("$sources/examples/first_attention.cpp" "$sources/examples/first_attention.c")
list=$(IFS=';' && echo "${examples[*]}")
rm -rf "$scratch"
cmake --install "$build" --prefix "$scratch/first" >/dev/null
mv "$scratch/first" "$scratch/prefix"  # nothing may hold the path it was installed to

cmake -S "$here" -B "$scratch/consumer" -G Ninja -DEXAMPLES="$list" -DCMAKE_PREFIX_PATH="$scratch/prefix" >/dev/null
cmake --build "$scratch/consumer"
for program in "$scratch"/consumer/programs/*; do "$program"; done

PKG_CONFIG_PATH="$(dirname "$(find "$scratch/prefix" -name longspan.pc)")"
export PKG_CONFIG_PATH LD_LIBRARY_PATH="$PKG_CONFIG_PATH/.."
# Words are meant to be split here.
# shellcheck disable=SC2046,SC2086
"$CXX" -std=c++20 ${CXXFLAGS:-} "${examples[0]}" $(pkg-config --cflags --libs longspan) -o "$scratch/in_cpp"
# shellcheck disable=SC2046
"$CC" -std=c99 $(pkg-config --cflags longspan) -c "${examples[1]}" -o "$scratch/in_c.o"
# A static library of C++ is linked by its compiler.
# shellcheck disable=SC2046,SC2086
"$CXX" ${CXXFLAGS:-} "$scratch/in_c.o" $(pkg-config --libs longspan) -o "$scratch/in_c"
"$scratch/in_cpp"
"$scratch/in_c"

cmake -S "$here" -B "$scratch/subdirectory" -G Ninja -DEXAMPLES="$list" -DSOURCES="$sources" >/dev/null
cmake --build "$scratch/subdirectory" -- -n >/dev/null

if [ -x "$scratch/prefix/bin/longspan" ]; then
  "$scratch/prefix/bin/longspan" --version
fi
