#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Looks into the compiled kernels: every block that meets queries with keys fetches what is read
# next, and so does what adds to rows one after the other. A compiler that drops these instructions
# changes no result, so that no other test sees it.
#
#     check_fetches.py OBJDUMP LIBRARY
import re
import subprocess
import sys

BLOCK = re.compile(
    r"^[0-9a-f]+ <(\S*longspan\S*(?:(?:Forward|Backward)\S*5block|8add_rowsI)\S*)>:$")
FETCH = re.compile(r"\t(?:prefetch|prfm)")


def main():
    objdump, library = sys.argv[1], sys.argv[2]
    if objdump.endswith("NOTFOUND"):
        print("skipped: there is no objdump")
        return 0
    listing = subprocess.run([objdump, "-d", "--no-show-raw-insn", library], check=True,
                             stdout=subprocess.PIPE, text=True).stdout
    fetches, block = {}, None
    for line in listing.splitlines():
        if line.endswith(">:"):
            found = BLOCK.match(line)
            block = found and found[1]
            if block:
                fetches[block] = 0
        elif block and FETCH.search(line):
            fetches[block] += 1
    without = sorted(name for name, count in fetches.items() if count == 0)
    for name in without:
        print(f"{library}: {name} fetches nothing; expected instructions that prefetch "
              "(src/kernels/rows_ahead.h)")
    if not fetches:
        print(f"{library}: found no function of a block; expected Forward<...>::block")
    return 1 if without or not fetches else 0


if __name__ == "__main__":
    sys.exit(main())
