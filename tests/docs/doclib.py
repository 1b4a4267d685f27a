"""What stands in the documents: commands in ```sh blocks, and our own programs wherever else they are written as code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OURS = ("virt-reclaim", "virt-reclaim-agent", "virt-reclaim-xml")
HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")
# How a command of a man page begins, whose blocks have no language.
OF_MANUALS = re.compile(rf"(?:{'|'.join(OURS)}|virsh|systemctl|journalctl|apt) ")
COMMENT = re.compile(r"(?:^|\s)#(?:\s.*)?$")
# Between commands; a redirection takes the word behind it along.
SEPARATORS = {";", "&", "|", "&&", "||", "(", ")"}


@dataclass(frozen=True)
class Command:
    page: str
    line: int
    text: str  # with its here-document, without comments

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text.splitlines()[0]}"


def pages(root: Path) -> list[str]:
    docs = [*(root / "docs").glob("*.md"), *(root / "docs" / "man").glob("*.scd")]
    return ["README.md", "CONTRIBUTING.md", "ansible/README.md", *sorted(str(path.relative_to(root)) for path in docs)]


def _blocks(page: str, text: str) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Language and numbered lines of each fenced block; what lies between two of them has the language '-'. Of a man page a block is 'sh'
    when it begins with a command."""
    manual = page.endswith(".scd")
    language, lines = "-", []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            yield "sh" if language == "text" and lines and manual and OF_MANUALS.match(lines[0][1]) else language, lines
            language, lines = (line.strip()[3:] or "text", []) if language == "-" else ("-", [])
        else:
            lines.append((number, line))
    yield language, lines


def commands(page: str, text: str) -> list[Command]:
    """One for each line of the ```sh blocks; a line that ends with '\\' goes on, and so does one with a here-document."""
    found = []
    for language, lines in _blocks(page, text):
        left = iter(lines if language == "sh" else [])
        for number, line in left:
            command = COMMENT.sub("", line).strip()
            while command.endswith("\\"):
                command = command[:-1].rstrip() + " " + COMMENT.sub("", next(left)[1]).strip()
            if here := HEREDOC.search(command):
                for _, more in left:
                    command += "\n" + more
                    if more.strip() == here[2]:
                        break
            if command:
                found.append(Command(page, number, command))
    return found


def mentions(page: str, text: str) -> list[Command]:
    """Our programs with a verb or an option: in `code` of a sentence, and behind the '$' of a block that shows output."""
    found = []
    quoted = r"\*([^*]+)\*" if page.endswith(".scd") else r"`([^`]+)`"
    for language, lines in _blocks(page, text):
        if language in ("sh", "json", "xml", "toml", "ini"):
            continue
        for number, line in lines:
            codes = re.findall(quoted, line) if language == "-" else re.findall(r"^\$ (.*)$", line)
            for code in codes:
                # What is meant to be filled in, or left out, is no word of a command line.
                code = re.sub(r"\.\.\.|…", "", code).replace("\\|", "|")
                if re.match(rf"(?:{'|'.join(OURS)}) \S", code):
                    found.append(Command(page, number, code.strip()))
    return found


def simple_commands(text: str) -> list[list[str]]:
    """The words of each command of a line, without redirections, assignments before it, and here-documents."""
    lexer = shlex.shlex(text.split("\n", 1)[0], posix=True, punctuation_chars=";&|()<>")
    lexer.whitespace_split = True
    lexer.commenters = ""
    found: list[list[str]] = [[]]
    words = list(lexer)
    skip = False
    for word, following in zip(words, [*words[1:], ""]):
        if skip:
            skip = False
        elif word in SEPARATORS:
            found.append([])
        elif set(word) <= set("<>&|") and word:
            skip = True
        elif not (word.isdigit() and following[:1] in ("<", ">")) and (found[-1] or not re.match(r"[A-Za-z_]\w*=", word)):
            found[-1].append(word)
    return [words for words in found if words]


def options(words: list[str]) -> list[str]:
    """'--bus=keep' is '--bus'; what stands behind '--', and a lone '-', is none."""
    words = words[: words.index("--")] if "--" in words else words
    return [word.partition("=")[0] for word in words[1:] if re.match(r"--?[A-Za-z]", word)]
