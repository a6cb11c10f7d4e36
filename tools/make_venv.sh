#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# usage: make_venv.sh FOLDER REQUIREMENTS
# A virtual environment with what the file names, made again when the file changed. FOLDER/complete says that it is all
# there; without network it is not, and whoever needs it says that it was skipped.
set -euo pipefail

folder=$1 requirements=$2
if [ -e "$folder/complete" ] && [ ! "$requirements" -nt "$folder/complete" ]; then exit 0; fi
rm -f "$folder/complete"
echo "deps: installing the packages of $requirements into $folder"
[ -x "$folder/bin/pip" ] || python3 -m venv "$folder"
if "$folder/bin/pip" install -q --disable-pip-version-check --retries 1 -r "$requirements"; then
  touch "$folder/complete"
else
  echo "deps: the Python index gave not all of them: what needs $folder will be skipped, or fail and say so" >&2
fi
