"""commands.toml, and what it says of a command."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doclib import OURS, options

# Of a row: what else it must have, besides 'match' and 'why'.
CLASSES = {"ends": {"status", "says"}, "asked": set(), "elsewhere": {"test"}}
FILE = Path(__file__).with_name("commands.toml")


@dataclass(frozen=True)
class Row:
    match: tuple[str, ...]
    kind: str
    why: str
    status: tuple[int, ...] = (0,)
    says: str = ""
    test: str = ""

    def fits(self, text: str) -> bool:
        return any(fnmatch.fnmatchcase(text.split("\n", 1)[0], pattern) for pattern in self.match)


@dataclass(frozen=True)
class Program:
    """How a program that is not ours tells what it takes; or, where no test machine has it, what its documentation says."""

    name: str
    help: tuple[str, ...] = ()  # {1}, {2}: its first words
    verbs: int = 0
    check: tuple[str, ...] = ()  # behind a command's own words: then it judges them, and does nothing
    declared: tuple[str, ...] = ()
    source: str = ""


class Table:
    def __init__(self, text: str) -> None:
        data: dict[str, Any] = tomllib.loads(text)
        if unknown := set(data) - {"row", "program", "needs", "runs"}:
            raise ValueError(f"unknown: {unknown}")
        self.needs: list[str] = data.get("needs", [])
        self.runs: list[str] = data.get("runs", [])
        self.rows = [_row(each) for each in data.get("row", [])]
        self.programs = {name: _program(name, each) for name, each in data.get("program", {}).items()}

    def row(self, text: str) -> Row | None:
        return next((row for row in self.rows if row.fits(text)), None)


def _row(each: dict[str, Any]) -> Row:
    kind, match = each.get("class", ""), each.get("match", [])
    keys = {"match", "class", "why"}
    if kind not in CLASSES or not match or not each.get("why") or set(each) != keys | CLASSES[kind]:
        raise ValueError(f"a row needs match, why, a class of {', '.join(CLASSES)}, and what goes with that: {each}")
    rest = {key: each[key] for key in CLASSES[kind]}
    if "status" in rest:
        rest["status"] = tuple(rest["status"] if isinstance(rest["status"], list) else [rest["status"]])
    return Row(tuple([match] if isinstance(match, str) else match), kind, each["why"], **rest)


def _program(name: str, each: dict[str, Any]) -> Program:
    if sum(key in each for key in ("help", "check", "declared")) != 1 or ("declared" in each) != bool(each.get("source")):
        raise ValueError(f"program '{name}' needs 'help', 'check', or 'declared' and its 'source'")
    words = {key: tuple(each.get(key, ())) for key in ("help", "check", "declared")}
    return Program(name, **words, verbs=each.get("verbs", 0), source=each.get("source", ""))


class Asker:
    """Asks programs for their help, each once."""

    def __init__(self, table: Table, root: Path, environment: dict[str, str]) -> None:
        self._table = table
        self._root = root
        self._environment = environment
        self._known: dict[tuple[str, ...], str] = {}

    def _help(self, *words: str) -> str:
        if words not in self._known:
            done = self._run(*words)
            self._known[words] = done.stdout + done.stderr
        return self._known[words]

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, env=self._environment, cwd=self._root, capture_output=True, text=True, check=False, timeout=60,
            stdin=subprocess.DEVNULL,
        )

    def complaint(self, words: list[str]) -> str:
        """Of one simple command; empty when program, verb and options exist, and files of ours that it names."""
        name = words[0]
        if lost := [file for word in words for file in _our_files(word) if not (self._root / file).is_file()]:
            return f"there is no '{lost[0]}'"
        plain = _plain(words)
        if name in OURS:
            return self._of_ours(words, plain)
        program = self._table.programs.get(name)
        if name.startswith("scripts/"):
            if not (self._root / name).is_file():
                return f"there is no '{name}'"
            program = program or Program(name, (f"./{name}", "--help"))
        if program is None:
            return f"'{name}' is not in {FILE.name}"
        if program.source:
            wanted = [*plain[: program.verbs], *options(words)]
            return next((f"'{word}' is not declared for '{name}'" for word in wanted if word not in program.declared), "")
        if not name.startswith("scripts/") and not shutil.which(name, path=self._environment["PATH"]):
            return f"'{name}' is not installed"
        if program.check:
            done = self._run(*words, *program.check)
            return f"it says {done.stdout}{done.stderr}" if done.returncode != 0 else ""
        if len(plain) < program.verbs:
            return f"'{name}' has no verb"
        text = self._help(*(re.sub(r"\{(\d)\}", lambda place: plain[int(place[1]) - 1], word) for word in program.help))
        return _first_unknown([*plain[: program.verbs], *options(words)], text)

    def _of_ours(self, words: list[str], plain: list[str]) -> str:
        general = self._help(words[0], "--help")
        if words[0] != "virt-reclaim" or not plain:
            # A program of few verbs: one help for all.
            verbs = plain[:1] if words[0] == "virt-reclaim-agent" else []
            return _first_unknown([*verbs, *options(words)], general)
        # The option --connect and its like may come first, and take a word.
        verb = next((word for word in plain if re.search(rf"^  {re.escape(word)}(\s|$)", general, re.M) or word in ("df", "agent")), "")
        if not verb:
            return f"'{words[0]}' has no verb '{plain[0]}'"
        text = self._help("virt-reclaim", verb, "--help")
        following = plain[plain.index(verb) + 1 :]
        seconds = set(re.findall(rf"virt-reclaim {verb} ([a-z]+)\b", text)) if verb in ("migrate", "config", "agent") else set()
        if seconds and following[:1] and following[0] not in seconds:
            return f"'{verb}' has no verb '{following[0]}'"
        return _first_unknown(options(words), text + general)


def _our_files(word: str) -> list[str]:
    """Where the sources have the unit, playbook or test that is meant."""
    if unit := re.fullmatch(r"(virt-reclaim[\w-]*@?)[\w-]*\.(service|socket|timer)", word):
        return [f"packaging/systemd/{unit[1]}.{unit[2]}"]
    if playbook := re.fullmatch(r"virt_reclaim\.fleet\.([a-z]+)", word):
        return [f"ansible/playbooks/{playbook[1]}.yml"]
    return [word] if re.fullmatch(r"tests/[\w/]+\.py", word) else []


def _plain(words: list[str]) -> list[str]:
    return [word for word in words[1:] if not word.startswith("-")]


def _first_unknown(wanted: list[str], text: str) -> str:
    for word in wanted:
        if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text):
            return f"its help does not know '{word}'"
    return ""
