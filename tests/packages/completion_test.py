#!/usr/bin/env python3
"""What each shell really completes: an interactive bash, zsh and fish read the program's own script, and a key is pressed."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

SKIPPED = 77
PROGRAM = Path(os.environ.get("VIRT_RECLAIM_BUILD_DIR", ".")) / "host" / "cli" / "virt-reclaim"
SECONDS = 30.0
# Stands in for libvirt; the last name is one that a careless script would run.
VIRSH = "#!/bin/sh\necho \"$*\" >>calls\nprintf '%s\\n' web-1 web-2 'my vm' '$(touch ran)' ''\n"
BASH_START = """PS1=; PS2=; bind 'set show-all-if-ambiguous on'; bind 'set bell-style none'; bind 'set page-completions off'
bind 'set completion-query-items 0'; bind 'set enable-bracketed-paste off'; . ./script; stty -echo; echo rea''dy
"""
ZSH_START = """PS1= PS2= RPS1=; unsetopt zle_bracketed_paste beep prompt_cr prompt_sp; LISTMAX=1000; autoload -U compinit; fpath=($PWD $fpath)
compinit -u -D; echo rea''dy
"""


class Terminal:
    """A shell with a terminal, in a directory of its own."""

    def __init__(self, command: list[str], directory: Path) -> None:
        path = f"{directory / 'bin'}:/usr/bin:/bin"
        environment = {
            "PATH": path, "TERM": "dumb", "HOME": str(directory), "ZDOTDIR": str(directory), "COLUMNS": "200", "LC_ALL": "C.UTF-8"
        }
        self.child, self.fd = pty.fork()
        if self.child == 0:
            os.chdir(directory)
            os.execve(command[0], command, environment)

    def write(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def read_until(self, pattern: str) -> str:
        text = ""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    text += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:
                    break
            if re.search(pattern, text):
                return text
        raise AssertionError(f"no {pattern!r} in {text!r}")

    def read_quiet(self, quiet: float = 1.0) -> str:
        """Until nothing has come for a while."""
        text = ""
        while select.select([self.fd], [], [], quiet)[0]:
            try:
                text += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:
                break
        return text

    def close(self) -> None:
        os.close(self.fd)
        os.waitpid(self.child, 0)


class Shell(unittest.TestCase):
    shell = ""

    def setUp(self) -> None:
        if not shutil.which(self.shell):
            self.skipTest(f"'{self.shell}' is not installed")
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        programs = self.directory / "bin"
        programs.mkdir()
        (programs / "virsh").write_text(VIRSH)
        (programs / "virsh").chmod(0o755)
        (self.directory / "images").mkdir()
        (self.directory / "images" / "a.qcow2").touch()
        script = subprocess.run([PROGRAM, "completion", self.shell], capture_output=True, text=True, check=True).stdout
        (self.directory / "script").write_text(script)
        (self.directory / "_virt-reclaim").write_text(script)

    def tearDown(self) -> None:
        self.assertFalse((self.directory / "ran").exists(), "the name of a domain was run")


class Bash(Shell):
    shell = "bash"

    def complete(self, line: str) -> tuple[list[str], str]:
        """What is offered for the line, and the line as one key leaves it."""
        terminal = Terminal(["/bin/bash", "--norc", "--noprofile", "-i"], self.directory)
        self.addCleanup(terminal.close)
        terminal.write(BASH_START)
        terminal.read_until("ready")
        terminal.read_quiet(0.3)
        # The line is shown by a key of its own, which runs nothing of it.
        terminal.write("show() { printf '<%s>\\n' \"$READLINE_LINE\"; READLINE_LINE=; }; bind -x '\"\\C-g\": show'\n")
        terminal.read_quiet(0.3)
        terminal.write(line + "\t\x07")
        shown = terminal.read_until(r"<[^<]*>\r?\n")
        before, _, left = shown.rpartition("<")
        return before.replace(line, " ").split(), left.split(">")[0]

    def offered(self, line: str) -> list[str]:
        return self.complete(line)[0]

    def test_verbs_and_their_second_words(self) -> None:
        offered = self.offered("virt-reclaim ")
        for word in ("report", "df", "trim", "migrate", "agent", "sparsify", "virt-sparsify", "punch", "sync", "completion"):
            self.assertIn(word, offered)
        self.assertEqual(self.complete("virt-reclaim mig")[1], "virt-reclaim migrate ")
        for word in ("plan", "apply", "verify", "rollback", "status"):
            self.assertIn(word, self.offered("virt-reclaim migrate "))

    def test_options_of_the_verb_and_of_all(self) -> None:
        offered = self.offered("virt-reclaim trim --")
        for option in ("--gentle", "--window", "--json", "--connect", "--help"):
            self.assertIn(option, offered)
        self.assertNotIn("--bus", offered)
        self.assertEqual(self.complete("virt-reclaim --json df --exa")[1], "virt-reclaim --json df --exact ")
        self.assertEqual(self.complete("virt-reclaim trim --chunk 1G --gen")[1], "virt-reclaim trim --chunk 1G --gentle ")

    def test_words_of_an_option(self) -> None:
        for line in ("virt-reclaim migrate plan --bus ", "virt-reclaim migrate plan --bus="):
            self.assertLessEqual({"keep", "auto", "virtio-scsi"}, set(self.offered(line)), line)
        self.assertEqual(self.complete("virt-reclaim migrate plan --bus=v")[1], "virt-reclaim migrate plan --bus=virtio-scsi ")
        self.assertEqual(self.offered("virt-reclaim trim --chunk "), [])

    def test_domains(self) -> None:
        self.assertEqual(self.complete("virt-reclaim trim my")[1], "virt-reclaim trim my\\ vm ")
        offered = self.offered("virt-reclaim -c qemu:///session trim web")
        self.assertLessEqual({"web-1", "web-2"}, set(offered))
        self.assertIn("--connect qemu:///session list", (self.directory / "calls").read_text())

    def test_a_name_is_not_run(self) -> None:
        self.assertIn("touch", self.complete("virt-reclaim trim \\$")[1] + str(self.offered("virt-reclaim trim ")))

    def test_another_machine_is_not_asked(self) -> None:
        self.assertEqual(self.offered("virt-reclaim -c qemu+ssh://host/system trim "), [])
        self.assertFalse((self.directory / "calls").exists())

    def test_files(self) -> None:
        self.assertEqual(self.complete("virt-reclaim punch images/a")[1], "virt-reclaim punch images/a.qcow2 ")
        self.assertEqual(self.complete("virt-reclaim sparsify ./ima")[1], "virt-reclaim sparsify ./images/")
        self.assertEqual(self.complete("virt-reclaim trim --storage=ima")[1], "virt-reclaim trim --storage=images/")


class Zsh(Shell):
    shell = "zsh"

    def listed(self, line: str) -> str:
        terminal = Terminal([shutil.which("zsh") or "zsh", "-f", "-i"], self.directory)
        self.addCleanup(terminal.close)
        terminal.write(ZSH_START)
        terminal.read_until("ready")
        terminal.read_quiet(0.5)
        terminal.write(line + "\x04")  # Ctrl-D: list, and leave the line alone
        return terminal.read_quiet()

    def test_lists(self) -> None:
        for line, words in (
            ("virt-reclaim ", ("report", "migrate", "virt-sparsify")),
            ("virt-reclaim migrate ", ("plan", "rollback")),
            ("virt-reclaim --json trim --", ("--gentle", "--max-rate", "--connect")),
            ("virt-reclaim migrate plan --bus=", ("keep", "virtio-scsi")),
            ("virt-reclaim trim ", ("web-1", "my\\ vm")),
            ("virt-reclaim punch images/", ("a.qcow2",)),
            ("virt-reclaim completion ", ("bash", "fish")),
        ):
            listed = self.listed(line)
            for word in words:
                self.assertIn(word, listed.replace(line, ""), line)


class Fish(Shell):
    shell = "fish"

    def offered(self, line: str) -> list[str]:
        done = subprocess.run(
            [shutil.which("fish") or "fish", "--no-config", "-c", 'source ./script; complete -C "$argv[1]"', line],
            cwd=self.directory, env={"PATH": f"{self.directory / 'bin'}:/usr/bin:/bin", "HOME": str(self.directory)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False,
        )
        self.assertEqual(done.stderr, "")
        return [text.split("\t")[0] for text in done.stdout.splitlines()]

    def test_lists(self) -> None:
        self.assertIn("report", self.offered("virt-reclaim "))
        self.assertNotIn("plan", self.offered("virt-reclaim "))
        self.assertLessEqual({"plan", "rollback"}, set(self.offered("virt-reclaim -c test:///default migrate ")))
        self.assertIn("--gentle", self.offered("virt-reclaim trim --ge"))
        self.assertEqual(sorted(self.offered("virt-reclaim migrate plan --bus ")), ["auto", "keep", "virtio-scsi"])
        self.assertEqual(self.offered("virt-reclaim df my"), ["my vm"])
        self.assertEqual(self.offered("virt-reclaim punch images/"), ["images/a.qcow2"])
        self.assertEqual(self.offered("virt-reclaim completion "), ["bash", "fish", "zsh"])


if __name__ == "__main__":
    if not os.access(PROGRAM, os.X_OK):
        print(f"SKIP: no '{PROGRAM}'", file=sys.stderr)
        sys.exit(SKIPPED)
    del Shell
    unittest.main(verbosity=2)
