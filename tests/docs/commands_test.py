#!/usr/bin/env python3
"""Every command of the documents is run, or at least known: README.md, CONTRIBUTING.md, docs/*.md, the man pages and the
collection's README, each page on a host of its own.

A command whose programs commands.toml lists as harmless is run, and must end with 0, unless a row there has it in another class:

  ends       it is run, ends with the status given there and says the text given there
  asked      it needs what no test machine has: program, verb and options are looked for in the program's help, or, where no test
             machine has the program, in what commands.toml says is in its documentation
  elsewhere  another test runs it; asked as well

What is in no class fails.

Besides, where a sentence names one of our programs with a verb or an option, these are asked for, too."""

from __future__ import annotations

import re
import subprocess
import sys
import unittest
from collections import Counter
from pathlib import Path

from doclib import OURS, Command, commands, mentions, pages, simple_commands
from sandbox import Sandbox, require
from table import FILE, Asker, Table

from vrtest import Workspace, main

ROOT = Path(__file__).resolve().parents[2]
TABLE = Table(FILE.read_text())
COUNT: Counter[str] = Counter()
# What stands in the documents for the reader's own names.
NAMES = {"DOMAIN": "web"}


def named(text: str) -> str:
    for word, name in NAMES.items():
        text = re.sub(rf"(?<![\w.-]){word}(?![\w.-])", name, text)
    return text


class Parsing(unittest.TestCase):
    """The test of the test: what is no command is none, and what is wrong is noticed."""

    PAGE = "`virt-reclaim trim --gentle` and `trim`\n```sh\na  # b\nc \\\n  d\ncat >x <<'E'\n# y\nE\n```\n```\n$ virt-reclaim report --exact\nout\n```\n"

    def test_commands_and_mentions(self) -> None:
        self.assertEqual([(each.line, each.text) for each in commands("p", self.PAGE)], [(3, "a"), (4, "c d"), (6, "cat >x <<'E'\n# y\nE")])
        self.assertEqual([each.text for each in mentions("p", self.PAGE)], ["virt-reclaim trim --gentle", "virt-reclaim report --exact"])

    def test_man_pages(self) -> None:
        page = "*virt-reclaim trim --gentle* and *trim*, in a file _f_:\n\n```\n[x]\n```\n```\nvirsh a\nb  # c\n```\n```\n/etc/x:1:2: y\n```\n"
        self.assertEqual([each.text for each in commands("p.8.scd", page)], ["virsh a", "b"])
        self.assertEqual([each.text for each in mentions("p.8.scd", page)], ["virt-reclaim trim --gentle"])
        self.assertEqual(shown_files(page), {"f": "[x]\n"})

    def test_simple_commands(self) -> None:
        self.assertEqual(simple_commands("A=1 b -c 'd e' 2>/dev/null | f >g && h"), [["b", "-c", "d e"], ["f"], ["h"]])
        self.assertEqual(simple_commands("a=b c=d"), [])

    def test_wrong_rows(self) -> None:
        for text in ("[[row]]\nmatch='a'\nclass='asked'", "[[row]]\nmatch='a'\nclass='runs'\nwhy='x'", "[program.a]\nverbs=1", "[x]",
                     "[[row]]\nmatch='a'\nclass='ends'\nwhy='x'\nstatus=5", "[program.a]\ndeclared=['-x']"):
            with self.assertRaises(ValueError, msg=text):
                Table(text)


class Pages(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.space = Workspace()
        cls.addClassCleanup(cls.space.close)
        cls.sandbox = Sandbox(cls.space)
        cls.asker = Asker(TABLE, ROOT, cls.sandbox.environment)

    def asked(self, command: Command) -> None:
        for words in simple_commands(command.text):
            self.assertEqual(self.asker.complaint(words), "", f"{command}: {words}")

    def what_is_wrong_is_noticed(self) -> None:
        for text, complaint in (
            ("virt-reclaim trim --bus=keep", "'--bus'"), ("virt-reclaim trimm web", "no verb"), ("virt-reclaim migrate undo", "'undo'"),
            ("nobody-knows-me -x", "not in commands.toml"), ("scripts/nothing", "there is no"), ("systemctl enable --noww x", "'--noww'"),
            ("virt-reclaim-agent trim --none", "'--none'"), ("systemctl start virt-reclaim-none.timer", "there is no 'packaging"),
            ("ansible-playbook virt_reclaim.fleet.none", "there is no 'ansible"), ("zfs create --none", "not declared"),
            ("cryptsetup refresh --allow-discard NAME", "unknown option"), ("cryptsetup refersh NAME", "Unknown"),
        ):
            self.assertIn(complaint, self.asker.complaint(simple_commands(text)[0]), text)
        for text in ("virt-reclaim --connect qemu:///x --json trim --gentle web", "virt-reclaim df", "virt-reclaim-agent trim --all"):
            self.assertEqual(self.asker.complaint(simple_commands(text)[0]), "", text)

    def one(self, command: Command, directory: Path) -> None:
        text = named(command.text)
        checked = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, check=False)
        self.assertEqual(checked.returncode, 0, f"{command}: {checked.stderr}")
        row = TABLE.row(command.text)
        COUNT[row.kind if row else "runs"] += 1
        if row is None or row.kind == "ends":
            strangers = [words[0] for words in simple_commands(text) if words[0] not in TABLE.runs]
            self.assertEqual(strangers, [], f"{command}: in no class of {FILE.name}")
        if row and row.kind == "elsewhere":
            self.assertTrue((ROOT / row.test).exists(), f"{command}: there is no '{row.test}'")
        if row and row.kind != "ends":
            self.asked(command)
            return
        done = self.sandbox.run(text, directory)
        self.assertIn(done.returncode, row.status if row else (0,), f"{command}\n{done.stdout}")
        if row:
            self.assertIn(row.says, done.stdout, str(command))

    def page(self, page: str) -> None:
        text = (ROOT / page).read_text()
        for mention in mentions(page, text):
            with self.subTest(str(mention)):
                COUNT["mentioned"] += 1
                self.asked(mention)
        found = commands(page, text)
        rows = [TABLE.row(command.text) for command in found]
        if not found:
            return
        # What only asks needs no host.
        directory = self.sandbox.reset(page) if any(row is None or row.kind == "ends" for row in rows) else self.space.path
        # The files that a page shows beside its commands.
        for file, content in shown_files(text).items():
            (directory / file).write_text(content)
        for command in found:
            with self.subTest(str(command)):
                self.one(command, directory)


class Rows(unittest.TestCase):
    """No row for what is not there any more; unittest runs it last."""

    def test_no_row_is_stale(self) -> None:
        texts = [command.text for page in pages(ROOT) for command in commands(page, (ROOT / page).read_text())]
        used = {TABLE.row(text) for text in texts}
        self.assertEqual([row.match for row in TABLE.rows if row not in used], [])
        names = {words[0] for text in texts for words in simple_commands(text)}
        self.assertEqual([name for name in TABLE.programs if name not in names], [])
        self.assertEqual([name for name in TABLE.runs if name not in names], [])
        self.assertFalse(set(TABLE.programs) & set(OURS))


def shown_files(text: str) -> dict[str, str]:
    """'in a file `NAME`:', and the block below it."""
    return {name: content for name, content in re.findall(r"[Ii]n a file [`_]([^`_]+)[`_]:\n\n```\w*\n(.*?)^```", text, re.M | re.S)}


def add_pages() -> None:
    setattr(Pages, "test_0_what_is_wrong_is_noticed", Pages.what_is_wrong_is_noticed)
    for page in pages(ROOT):
        setattr(Pages, f"test_{page}", lambda self, page=page: self.page(page))


if __name__ == "__main__":
    require("virsh", "qemu-img", *TABLE.needs)
    add_pages()
    try:
        main()
    finally:
        print(", ".join(f"{kind}: {number}" for kind, number in sorted(COUNT.items())), file=sys.stderr)
