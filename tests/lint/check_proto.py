#!/usr/bin/env python3
"""The contract between host and agent only grows: every call, field and value that ever was is still there, with its number
and type, or reserved. proto/contract.txt is the list of them; what is new is added to it (this check prints the lines)."""

from __future__ import annotations

import re
import sys

from lintlib import Finding, Sample, Tree, main

PROTO = "proto/virt_reclaim/agent/v1/agent.proto"
LIST = "proto/contract.txt"
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
STATEMENT = re.compile(r"\s*(?:(?P<open>[^{};]*)\{|(?P<close>\})|(?P<say>[^{};]*);)", re.S)
FIELD = re.compile(r"(?P<type>(?:(?:repeated|optional) )?(?:map<[^>]*>|[\w.]+)) (?P<name>\w+) = (?P<number>\d+)(?: \[.*\])?")
VALUE = re.compile(r"(?P<name>\w+) = (?P<number>-?\d+)(?: \[.*\])?")
RESERVED = re.compile(r"(\d+)(?: to (\d+|max))?")


class Contract:
    """What a .proto file says, as lines; and what it reserves."""

    def __init__(self, text: str) -> None:
        self.lines: list[str] = []
        self._reserved: list[tuple[str, int, float]] = []
        self._reserved_names: set[str] = set()
        scope: list[tuple[str, str]] = []  # kind, name
        for match in STATEMENT.finditer(COMMENT.sub("", text)):
            words = " ".join((match["open"] or match["say"] or "").split())
            if match["close"]:
                scope.pop()
            elif match["open"] is not None:
                kind, _, name = words.partition(" ")
                # A oneof is no scope of its own, and neither are the braces of a call's options.
                scope.append((kind, name if kind in ("message", "enum", "service") else ""))
                if kind == "rpc":
                    self._say(scope[:-1], words)
            elif words and scope:
                self._say(scope, words)

    def keeps(self, line: str) -> bool:
        """Whether the line is here, or its name and its number are reserved."""
        if line in self.lines:
            return True
        match = re.fullmatch(r"([\w.]+)\.(\w+) = (-?\d+).*", line)
        if not match or f"{match[1]}.{match[2]}" not in self._reserved_names:
            return False
        return any(where == match[1] and low <= int(match[3]) <= high for where, low, high in self._reserved)

    def _say(self, scope: list[tuple[str, str]], words: str) -> None:
        where = ".".join(name for _, name in scope if name)
        kind = next(kind for kind, name in reversed(scope) if name)
        if words.startswith("rpc "):
            self.lines.append(f"{where}: {words}")
        elif words.startswith("reserved "):
            self._reserved_names |= {f"{where}.{name}" for name in re.findall(r'"(\w+)"', words)}
            for low, high in RESERVED.findall(re.sub(r'"\w+"', "", words)):
                self._reserved.append((where, int(low), float("inf") if high == "max" else int(high or low)))
        elif kind == "enum" and (match := VALUE.fullmatch(words)):
            self.lines.append(f"{where}.{match['name']} = {match['number']}")
        elif kind == "message" and (match := FIELD.fullmatch(words)):
            self.lines.append(f"{where}.{match['name']} = {match['number']} {match['type']}")
        elif not words.startswith("option "):
            self.lines.append(f"{where}: cannot be read: {words}")


def check(tree: Tree) -> list[Finding]:
    if not tree.has(PROTO):
        return []
    if not tree.has(LIST):
        return [Finding(LIST, 0, "is missing")]
    contract = Contract(tree.read(PROTO))
    listed = [line for line in tree.read(LIST).splitlines() if line and not line.startswith("#")]
    found = [Finding(PROTO, 0, f"'{line}' was part of the contract: keep it, or reserve its name and number")
             for line in listed if not contract.keeps(line)]
    found += [Finding(LIST, 0, f"lacks the line '{line}'") for line in contract.lines if line not in listed]
    return found + [Finding(LIST, 0, f"has '{line}' twice") for line in sorted(set(listed)) if listed.count(line) > 1]


SERVICE = "service Agent {\n  // Says it.\n  rpc Do(A) returns (stream A);\n}\n"
MESSAGE = "message A {\n  string a = 1;  // b = 9;\n  oneof x {\n    B b = 2;\n  }\n  repeated uint64 c = 3 [packed = true];\n}\n"
ENUM = "enum E {\n  E_UNSPECIFIED = 0;\n  E_ONE = 1;\n}\n"
GOOD = 'syntax = "proto3";\npackage p;\n' + SERVICE + MESSAGE + ENUM
LINES = (
    "# What it is.\nAgent: rpc Do(A) returns (stream A)\nA.a = 1 string\nA.b = 2 B\nA.c = 3 repeated uint64\n"
    "E.E_UNSPECIFIED = 0\nE.E_ONE = 1\n"
)


def sample(name: str, old: str, new: str, expect: str | None, lines: str = LINES) -> Sample:
    return Sample(name, {PROTO: GOOD.replace(old, new), LIST: lines}, expect)


SAMPLES = [
    sample("good", "", "", None),
    Sample("no list", {PROTO: GOOD}, "is missing"),
    sample("renumbered", "string a = 1", "string a = 7", "'A.a = 1 string' was part"),
    sample("renamed", "string a = 1", "string z = 1", "'A.a = 1 string' was part"),
    sample("another type", "string a = 1", "bytes a = 1", "'A.a = 1 string' was part"),
    sample("another label", "repeated uint64 c", "uint64 c", "'A.c = 3 repeated uint64' was part"),
    sample("in a oneof", "B b = 2", "B b = 4", "'A.b = 2 B' was part"),
    sample("value renumbered", "E_ONE = 1", "E_ONE = 2", "'E.E_ONE = 1' was part"),
    sample("call gone", "  rpc Do(A) returns (stream A);\n", "", "'Agent: rpc Do"),
    sample("call changed", "(stream A)", "(A)", "'Agent: rpc Do"),
    sample("removed", "  string a = 1;", "", "'A.a = 1 string' was part"),
    sample("number reserved alone", "  string a = 1;", "  reserved 1;", "'A.a = 1 string' was part"),
    sample("reserved", "  string a = 1;", '  reserved 1 to 1;\n  reserved "a";', None),
    sample("reserved elsewhere", "  string a = 1;", "}\nmessage B {\n  reserved 1;\n  reserved \"a\";\n}\nmessage C {\n", "'A.a = 1 string' was part"),
    sample("not listed", "", "", "lacks the line 'E.E_ONE = 1'", LINES.replace("E.E_ONE = 1\n", "")),
    sample("listed twice", "", "", "twice", LINES + "A.a = 1 string\n"),
    sample("not read", "string a = 1", "strange a 1", "cannot be read"),
]

if __name__ == "__main__":
    sys.exit(main(check, SAMPLES, __doc__ or ""))
