#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# usage: CXX=... CXXFLAGS=... run.sh BUILD_FOLDER SCRATCH_FOLDER EXAMPLE.cpp
# Installs into a folder, moves it, and builds and runs an example against it by find_package and by pkg-config.
set -euo pipefail

build=$1 scratch=$2 example=$3
rm -rf "$scratch"
cmake --install "$build" --prefix "$scratch/first" >/dev/null
mv "$scratch/first" "$scratch/prefix"  # nothing may hold the path it was installed to

cmake -S "$(dirname "$0")" -B "$scratch/consumer" -G Ninja -DEXAMPLE="$example" \
  -DCMAKE_PREFIX_PATH="$scratch/prefix" >/dev/null
cmake --build "$scratch/consumer"
"$scratch/consumer/consumer"

PKG_CONFIG_PATH="$(dirname "$(find "$scratch/prefix" -name longspan.pc)")"
export PKG_CONFIG_PATH
libraries=$(dirname "$PKG_CONFIG_PATH")
# Words are meant to be split here.
# shellcheck disable=SC2046,SC2086
"$CXX" -std=c++20 ${CXXFLAGS:-} "$example" $(pkg-config --cflags --libs longspan) -o "$scratch/by_pkg_config"
LD_LIBRARY_PATH="$libraries" "$scratch/by_pkg_config"

if [ -x "$scratch/prefix/bin/longspan" ]; then
  "$scratch/prefix/bin/longspan" --version
fi
