#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Builds small trees, each with one fault, and expects check_floors.py to name just that one.
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

CHECK = Path(__file__).parent / "check_floors.py"

ARCHITECTURE = """The rule is in `src/partial/merge.h`, see `README.md`, and `partial/merge.h` again; `--causal` is no path.

```
longspan/
├── README.md Makefile    what it is
├── include/longspan/     public.h and nothing else
├── src/
│   ├── base/             [0] check.h
│   │                     and a comment that goes on
│   ├── partial/          [1] merge.h
│   └── engine/  plan.h *.cpp   [3] a list
└── cli/ src/             [6] main
```

```
[6] cli/                           read/write are no paths
[1] src/partial/ *   src/mask/     nor is https://example.org/src/gone
```
"""

GOOD = {
    "README.md": "",
    "Makefile": "",
    "ARCHITECTURE.md": ARCHITECTURE,
    "include/longspan/public.h": "#include <vector>\n",
    "include/longspan/second.h": '#include "longspan/public.h"\n',
    "src/base/check.h": '#include "longspan/public.h"\n',
    "src/partial/merge.h": '#include "base/check.h"\n',
    "src/mask/band.h": '#include "base/check.h"\n',
    "src/kernels/portable.cpp": '#include <hwy/highway.h>\n#include "kernels/portable.cpp"\n__m256 a;\n',
    "src/engine/plan.h": '#include "partial/merge.h"\n#include "mask/band.h"\n',
    "src/engine/plan.cpp": '#include "engine/plan.h"\n',
    "src/exact/attention.cpp": '#include "engine/plan.h"\n',
    "src/lsh/attention.h": '#include "engine/plan.h"\n',
    "src/c_api.cpp": '#include "exact/calls.h"\n',
    "src/exact/calls.h": "\n" * 500,
    "cli/options.h": "",
    "cli/main.cpp": '#include "options.h"\n#include "exact/calls.h"\n',
    "bench/peak.cpp": "#include <immintrin.h>\n",
    "tests/twins/dot.cpp": "#include <immintrin.h>\n",
    "tests/golden/data.py": "\n" * 600,
}

# Changed files -> what the one line of output must hold.
BAD = {
    "climb": ({"src/base/check.h": '#include "mask/band.h"\n', "src/mask/band.h": ""},
              "src/base/check.h: base [0] climbs to mask [1] through src/mask/band.h"),
    "climb from an indented include": ({"src/mask/band.h": '  #  include "kernels/table.h"\n', "src/kernels/table.h": ""},
                                       "src/mask/band.h: mask [1] climbs to kernels [2]"),
    "climb to the program": ({"src/exact/attention.cpp": '#include "../../cli/options.h"\n'},
                             "src/exact/attention.cpp: exact [4] climbs to cli [6]"),
    "siblings": ({"src/exact/attention.cpp": '#include "lsh/attention.h"\n'},
                 "exact [4] includes its sibling lsh [4]"),
    "siblings on floor 1": ({"src/partial/merge.h": '#include "mask/band.h"\n'},
                            "partial [1] includes its sibling mask [1]"),
    "public includes inner": ({"include/longspan/public.h": '#include "../../src/base/check.h"\n',
                               "src/base/check.h": ""}, "a public header includes src/base/check.h"),
    "circle": ({"src/mask/band.h": '#include "mask/tile.h"\n', "src/mask/tile.h": '#include "mask/edge.h"\n',
                "src/mask/edge.h": '#include "mask/band.h"\n'},
               "circle: src/mask/band.h -> src/mask/tile.h -> src/mask/edge.h -> src/mask/band.h"),
    "circle of public headers": ({"include/longspan/public.h": '#include "longspan/second.h"\n'}, "circle: "),
    "unknown folder": ({"src/attic/old.h": '#include "base/check.h"\n'}, "src/attic/old.h: attic has no floor"),
    "absent header": ({"src/mask/band.h": '#include "mask/absent.h"\n'}, '"mask/absent.h" leads nowhere'),
    "long file": ({"src/exact/calls.h": "\n" * 501}, "src/exact/calls.h: 501 lines, at most 500"),
    "long script": ({"tools/job.py": "\n" * 501}, "tools/job.py: 501 lines"),
    "highway outside": ({"src/engine/plan.cpp": "#include <hwy/highway.h>\n"}, "src/engine/plan.cpp:1: SIMD outside"),
    "intrinsics header outside": ({"tests/a_test.cpp": "\n# include <immintrin.h>\n"}, "tests/a_test.cpp:2: SIMD outside"),
    "intrinsics outside": ({"cli/options.h": "auto a = _mm256_setzero_ps();\n"}, "cli/options.h:1: SIMD outside"),
    "vector type outside": ({"cli/options.h": "__m512i a;\n"}, "cli/options.h:1: SIMD outside"),
    "no architecture": ({"ARCHITECTURE.md": None}, "ARCHITECTURE.md: absent"),
    "absent path in backticks": ({"ARCHITECTURE.md": "see `src/partial/gone.h`"}, "names src/partial/gone.h"),
    "absent inner path in backticks": ({"ARCHITECTURE.md": "see `partial/gone.h`"}, "names src/partial/gone.h"),
    "absent file in backticks": ({"ARCHITECTURE.md": "see `GONE.md`"}, "names GONE.md"),
    "absent folder in the tree": ({"ARCHITECTURE.md": ARCHITECTURE.replace("base/ ", "bases/")}, "names src/bases/"),
    "absent file in the tree": ({"ARCHITECTURE.md": ARCHITECTURE.replace("README.md M", "GONE.md M")}, "names GONE.md"),
    "absent path in a picture": ({"ARCHITECTURE.md": ARCHITECTURE.replace("src/mask/  ", "src/gone/  ")}, "names src/gone/"),
    "absent further file": ({"ARCHITECTURE.md": ARCHITECTURE.replace("plan.h *", "gone.h *")}, "names src/gone.h"),
}


def run_on(files):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = subprocess.run([sys.executable, str(CHECK), folder], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.splitlines(), done.stderr


class CheckFloorsTest(unittest.TestCase):
    def test_good_tree(self):
        code, lines, error = run_on(GOOD)
        self.assertEqual((code, error), (0, ""), lines)

    def test_each_fault_is_found_and_nothing_else(self):
        for name, (changes, expected) in BAD.items():
            with self.subTest(name):
                files = {path: text for path, text in {**GOOD, **changes}.items() if text is not None}
                code, lines, error = run_on(files)
                self.assertEqual((code, error), (1, ""), lines)
                self.assertEqual(len(lines), 1, lines)
                self.assertIn(expected, lines[0])


if __name__ == "__main__":
    unittest.main()
