#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Installs the Debian packages named as arguments that are not there yet. Needs no network when all are.
set -euo pipefail

is_installed() {
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing=()
for package in "$@"; do
  is_installed "$package" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "deps: no apt-get here; install by hand what these Debian packages hold: ${missing[*]}" >&2
  exit 1
fi
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
  apt-get install -y -qq --no-install-recommends "${missing[@]}")

echo "deps: installing ${missing[*]}"
# The package lists of the machine may do; they are renewed only when they do not.
"${install[@]}" >/dev/null 2>&1 || { "${as_root[@]}" apt-get update -qq && "${install[@]}" >/dev/null; }
echo "deps: installed"
