#!/usr/bin/env python3
"""help_test.py NAME=PROGRAM[,WORD]...: what the programs beside virt-reclaim say of themselves (golden/help/NAME.txt): their help in both
spellings, and what they say to a call without words and to an option they do not know. virt-reclaim's own: golden/program_test.cc.

VIRT_RECLAIM_UPDATE_GOLDEN=1 writes the files anew."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

GOLDEN = Path(__file__).resolve().parent / "help"
CALLS = (("--help",), ("-h",), (), ("--bogus",))


def said(name: str, program: list[str]) -> str:
    text, first = "", ""
    for words in CALLS:
        done = subprocess.run(
            [*program, *words], env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=60, check=False,
        )
        output = f"{done.stdout}--- stderr\n{done.stderr}--- exit status {done.returncode}\n"
        # The second spelling says the same, or else something of its own.
        text += f"$ {' '.join((name, *words))}\n" + ("as above\n" if output == first else output)
        first = first or output
    return text


def main() -> int:
    wrong = 0
    for argument in sys.argv[1:]:
        name, _, program = argument.partition("=")
        actual, path = said(name, program.split(",")), GOLDEN / f"{name}.txt"
        if os.environ.get("VIRT_RECLAIM_UPDATE_GOLDEN"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(actual)
        if not path.exists() or path.read_text() != actual:
            wrong += 1
            print(f"{path}: {name} says something else:\n{actual}", file=sys.stderr)
    return 1 if wrong or len(sys.argv) == 1 else 0


if __name__ == "__main__":
    sys.exit(main())
