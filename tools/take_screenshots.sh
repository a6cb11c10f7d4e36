#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Pictures of the pages of `explain` and of the report, as headless Chromium shows them, for docs/.
#
# usage: take_screenshots.sh BUILD_FOLDER
set -euo pipefail

build=$(cd "$1" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
pages=$(mktemp -d)
trap 'rm -rf "$pages"' EXIT

shoot() {  # PAGE PICTURE WIDTH,HEIGHT
  chromium --headless --no-sandbox --disable-gpu --hide-scrollbars "--window-size=$3" "--screenshot=$root/docs/$2" \
    "file://$1" >/dev/null 2>&1
  echo "docs/$2"
}

"$build/cli/longspan" explain --html "$pages/exact.html" >/dev/null
"$build/cli/longspan" explain --method lsh --html "$pages/lsh.html" >/dev/null
shoot "$pages/exact.html" explain_exact.png 900,2400
shoot "$pages/lsh.html" explain_lsh.png 900,3200
if [ -e "$build/../report/report.html" ]; then
  shoot "$(cd "$build/../report" && pwd)/report.html" report.png 900,2400
else
  echo "take_screenshots: no report ('make report' makes it); docs/report.png stays as it is"
fi
