#!/usr/bin/env python3
"""The man pages: scdoc builds each source, and mandoc finds no error in the page (one without a source is checked as it is).
Exit status 77 without scdoc or mandoc."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

from lintlib import SKIP, Finding, Sample, Tree, main

SOURCE = re.compile(r"docs/man/[a-z-]+\.\d(\.scd)?")
LINT_LINE = re.compile(r"mandoc: <stdin>:(\d+):\d+: (ERROR|UNSUPP|BADARG): (.*)")


def ends_in_table(text: str) -> bool:
    """scdoc drops a table that is the last thing of a file."""
    block = text.rstrip().split("\n\n")[-1]
    return block.lstrip("\t").startswith(("[", "|", "]"))


def lint(path: str, page: str) -> list[Finding]:
    linted = subprocess.run(["mandoc", "-T", "lint", "-W", "error"], input=page, capture_output=True, text=True, check=False)
    output = linted.stdout + linted.stderr
    found = [Finding(path, 0, f"mandoc: {match[3]} (line {match[1]} of the built page)") for match in LINT_LINE.finditer(output)]
    if linted.returncode != 0 and not found:
        found.append(Finding(path, 0, f"mandoc: {output.strip()}"))
    return found


def check_page(path: str, text: str) -> list[Finding]:
    if not path.endswith(".scd"):
        return lint(path, text)
    found = [Finding(path, 0, "ends with a table, which scdoc drops")] if ends_in_table(text) else []
    built = subprocess.run(["scdoc"], input=text, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        return [*found, Finding(path, 0, f"scdoc: {built.stderr.strip()}")]
    return found + lint(path, built.stdout)


def check(tree: Tree) -> list[Finding]:
    pages = [path for path in tree.files if SOURCE.fullmatch(path)]
    if not pages:
        return [Finding("docs/man", 0, "has no man page")]
    return [finding for path in pages for finding in check_page(path, tree.read(path))]


PAGE = "a(1)\n\n# NAME\n\na - does something\n"
SAMPLES = [
    Sample("good", {"docs/man/a.1.scd": PAGE}, None),
    Sample("none", {"docs/a.md": ""}, "has no man page"),
    Sample("scdoc refuses", {"docs/man/a.1.scd": PAGE + "\n*bold _underlined*\n"}, "scdoc:"),
    Sample("table at the end", {"docs/man/a.1.scd": PAGE + "\n[[ *a*\n:< *b*\n|  c\n:  d\n"}, "ends with a table"),
    # scdoc escapes what could become a macro, so mandoc's own errors need a page that scdoc did not write.
    Sample("mandoc refuses", {"docs/man/a.1": ".TH a 1\n.SH NAME\na \\- b\n.NOSUCH x\n"}, "mandoc: skipping unknown macro"),
    Sample("no title", {"docs/man/a.1.scd": "a\n\n# NAME\n\na - does something\n"}, "scdoc:"),
]

if __name__ == "__main__":
    missing = [name for name in ("scdoc", "mandoc") if not shutil.which(name)]
    if missing:
        print(f"missing: {', '.join(missing)}")
        sys.exit(SKIP)
    sys.exit(main(check, SAMPLES, __doc__ or ""))
