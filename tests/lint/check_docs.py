#!/usr/bin/env python3
"""What the documents promise is what the code has: reason codes, options, JSON keys, obstacles; links lead somewhere; no
path of a developer's machine; no source file that has outgrown a reader."""

from __future__ import annotations

import re
import sys
from pathlib import PurePosixPath
from posixpath import normpath

from lintlib import Finding, Sample, Tree, main

MAN = "docs/man/virt-reclaim.1.scd"
AGENT_MAN = "docs/man/virt-reclaim-agent.8.scd"
REASON_CC = "host/model/reason.cc"
REASONS = "docs/reason-codes.md"
JSON = "docs/json.md"
JSON_SOURCES = (
    "host/cli/json_output.cc",
    "host/cli/json_parts.cc",
    "host/cli/explain_output.cc",
    "host/cli/outcome_output.cc",
    "host/cli/metrics_output.cc",
    "host/cli/punch_program.cc",
    "host/cli/run_program.cc",
    "host/cli/agent_program.cc",
    "host/cli/config_program.cc",
)
EXITS = "docs/exit-status.md"
METRICS = "docs/metrics.md"
METRICS_CC = "host/model/metrics.cc"

MAX_LINES = 500
# File -> why it may be longer. None is today.
LONG_FILES: dict[str, str] = {}
# Written so that this file does not contain what it looks for.
FOREIGN_PATH = re.compile(r"(?<![\w.~-])/(work|farm)/[\w.]")
BINARY = (".png", ".gz", ".qcow2", ".img", ".ico", ".xz")


def missing(tree: Tree, document: str, wanted: set[str], pattern: str, what: str) -> list[Finding]:
    """A finding for each of `wanted` for which `pattern` (with %s) matches nothing in the document."""
    if not wanted:
        return []
    if not tree.has(document):
        return [Finding(document, 0, "is missing")]
    text = tree.read(document)
    return [
        Finding(document, 0, f"{what} '{name}' is not described")
        for name in sorted(wanted)
        if not re.search(pattern % re.escape(name), text, re.M)
    ]


def harvest(tree: Tree, path: str, pattern: str) -> set[str]:
    return set(re.findall(pattern, tree.read(path))) if tree.has(path) else set()


def reason_rows(tree: Tree) -> list[str]:
    """The table of reason.cc, as it has to stand in the document."""
    if not tree.has(REASON_CC):
        return []
    pattern = r'\{Reason::k\w+,\s*"([a-z0-9-]+)",\s*((?:"[^"]*"\s*)+)(?:,\s*InChain::k(\w+))?\}'
    rows = []
    for code, literals, in_chain in re.findall(pattern, tree.read(REASON_CC)):
        sentence = "".join(re.findall(r'"([^"]*)"', literals))
        rows.append(f"| [{code}](#{code}) | {in_chain.lower() or 'never'} | {sentence} |")
    return rows


def check_reason_table(tree: Tree) -> list[Finding]:
    wanted = reason_rows(tree)
    if not wanted or not tree.has(REASONS):
        return []
    there = re.findall(r"^\| \[[a-z0-9-]+\]\(#.*$", tree.read(REASONS), re.M)
    found = [Finding(REASONS, 0, f"the table of all codes lacks the row '{row}'") for row in wanted if row not in there]
    found += [Finding(REASONS, 0, f"the table of all codes has a row of its own: '{row}'") for row in there if row not in wanted]
    if not found and there != wanted:
        found.append(Finding(REASONS, 0, "the table of all codes is not in the order of reason.cc"))
    return found


def check_reasons(tree: Tree) -> list[Finding]:
    codes = harvest(tree, REASON_CC, r'\{Reason::k\w+,\s*"([a-z0-9-]+)"')
    if len(reason_rows(tree)) != len(codes):
        return [Finding(REASON_CC, 0, "this check cannot read the whole table")]
    found = missing(tree, REASONS, codes, r"^### %s$", "reason code") + check_reason_table(tree)
    found += missing(tree, MAN, codes, r"^\*%s\*$", "reason code")
    refusals: set[str] = set()
    for path in tree.code("xml-tools"):
        refusals |= harvest(tree, path, r'\bRefuse\(\s*disk,\s*"([a-z-]+)"')
        refusals |= harvest(tree, path, r'refusals\.push_back\(\{\s*"",\s*"([a-z-]+)"')
    return found + missing(tree, REASONS, refusals, r"^(?:### |\| `)%s(?:$|`)", "code of xml-tools")


def check_command_line(tree: Tree) -> list[Finding]:
    options = harvest(tree, "host/cli/help.cc", r"(?<![\w-])--([a-z][a-z-]+)")
    found = missing(tree, MAN, options, r"--%s(?![\w-])", "option")
    sections = harvest(tree, "host/cli/hints.cc", r"virt-reclaim\(1\), ([A-Z][A-Z ]+[A-Z])")
    found += missing(tree, MAN, sections, r"^# %s$", "section of a hint")
    statuses = harvest(tree, "host/model/outcome.h", r"\bk\w+ = (\d+),")
    found += missing(tree, EXITS, statuses, r"^\| %s \|", "exit status")
    return found + missing(tree, MAN, statuses, r"^\*%s\*$", "exit status")


def check_json(tree: Tree) -> list[Finding]:
    types: set[str] = set()
    keys: set[str] = set()
    for source in JSON_SOURCES:
        types |= harvest(tree, source, r'Document\("([a-z-]+)"\)')
        keys |= harvest(tree, source, r'\{"([a-z_]+)",') | harvest(tree, source, r'\["([a-z_]+)"\]')
    found = missing(tree, JSON, types, r"^## .*`%s`", "message type")
    return found + missing(tree, JSON, keys, r"`%s`", "key")


def check_metrics(tree: Tree) -> list[Finding]:
    names = harvest(tree, METRICS_CC, r'(?:Declare|each)\(\s*"([a-z_]+)"')
    return missing(tree, METRICS, names, r"^\| `virt_reclaim_%s` \|", "metric")


def check_obstacles(tree: Tree) -> list[Finding]:
    if not tree.has(AGENT_MAN):
        return []
    names = harvest(tree, "proto/virt_reclaim/agent/v1/agent.proto", r"\bTRIM_OBSTACLE_([A-Z_]+) =")
    obstacles = {name.lower().replace("_", "-") for name in names - {"UNSPECIFIED", "NONE"}}
    return missing(tree, AGENT_MAN, obstacles, r"(?<![\w-])%s(?![\w-])", "obstacle")


def anchors(text: str) -> set[str]:
    """As GitHub makes them from headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M):
        words = re.sub(r"[`*]", "", heading).lower().strip()
        found.add(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return found


def check_links(tree: Tree) -> list[Finding]:
    found = []
    for path in (f for f in tree.files if f.endswith(".md")):
        in_code = False
        for number, line in enumerate(tree.read(path).splitlines(), start=1):
            in_code ^= line.startswith("```")
            if in_code:
                continue
            targets = re.findall(r"\]\(([^)\s]+)\)", line) + re.findall(r'(?:src|href|srcset)="([^"]+)"', line)
            for target in targets:
                if re.match(r"[a-z+]+:", target):
                    continue
                file, _, anchor = target.partition("#")
                linked = normpath(str(PurePosixPath(path).parent / file)) if file else path
                if not tree.has(linked):
                    found.append(Finding(path, number, f"link to '{target}' leads nowhere"))
                elif anchor and linked.endswith(".md") and anchor not in anchors(tree.read(linked)):
                    found.append(Finding(path, number, f"link to '{target}': no such heading"))
    return found


def check_texts(tree: Tree) -> list[Finding]:
    found = []
    for path in tree.files:
        if path.endswith(BINARY) or (tree.root / path).is_symlink():
            continue
        lines = tree.read(path).splitlines()
        for number, line in enumerate(lines, start=1):
            if match := FOREIGN_PATH.search(line):
                found.append(Finding(path, number, f"a path of a developer's machine: '{match[0]}...'"))
        if path in LONG_FILES and len(lines) <= MAX_LINES:
            found.append(Finding(path, 0, "is short enough now: take it off LONG_FILES"))
        if path.endswith((".cc", ".h")) and len(lines) > MAX_LINES and path not in LONG_FILES:
            found.append(Finding(path, 0, f"{len(lines)} lines, more than {MAX_LINES}: split it, or list it with a reason"))
    return found


def check(tree: Tree) -> list[Finding]:
    checks = (check_reasons, check_command_line, check_json, check_metrics, check_obstacles, check_links, check_texts)
    return [finding for each in checks for finding in each(tree)]


REASON_TABLE = '{Reason::kPaused, "paused", "the domain is paused"},\n{Reason::kLong,\n "long-code", "x"\n "y", InChain::kRemark},\n'
ROWS = "| [paused](#paused) | never | the domain is paused |\n| [long-code](#long-code) | remark | xy |\n"
BOTH = "### paused\n\n### long-code\n" + ROWS
BOTH_MAN = "*paused*\n\tx\n\n*long-code*\n\tx\n"
HELP_CC = 'R"(  -n, --dry-run  stop\n --json\n)"'
OUTCOME_H = "  kDone = 0,\n  kInterrupted = 130,\n"
JSON_CC = 'Document("report"); x = {{"capacity_bytes", 1}}; json["disks"] = 2;'
PROTO = "  TRIM_OBSTACLE_UNSPECIFIED = 0;\n  TRIM_OBSTACLE_NONE = 1;\n  TRIM_OBSTACLE_DM_CRYPT = 9;\n"
PROTO_PATH = "proto/virt_reclaim/agent/v1/agent.proto"
STATUS_MAN = "*0*\n\tx\n\n*130*\n\tx\n"

SAMPLES = [
    Sample("reasons good", {REASON_CC: REASON_TABLE, REASONS: BOTH, MAN: BOTH_MAN}, None),
    Sample("reason not in md", {REASON_CC: REASON_TABLE, REASONS: "### paused\n" + ROWS, MAN: BOTH_MAN}, f"{REASONS}: reason code 'long-code'"),
    Sample("reason not in man", {REASON_CC: REASON_TABLE, REASONS: BOTH, MAN: "*paused*\n"}, f"{MAN}: reason code 'long-code'"),
    Sample("row missing", {REASON_CC: REASON_TABLE, REASONS: BOTH[:-40], MAN: BOTH_MAN}, "lacks the row '| [long-code]"),
    Sample("row too many", {REASON_CC: REASON_TABLE, REASONS: BOTH + "| [x](#paused) | never | x |\n", MAN: BOTH_MAN}, "a row of its own"),
    Sample("rows turned", {REASON_CC: REASON_TABLE, REASONS: "\n".join(reversed(BOTH.splitlines())), MAN: BOTH_MAN}, "not in the order"),
    Sample("table not read", {REASON_CC: '{Reason::kPaused, "paused", kSentence},\n', REASONS: BOTH, MAN: BOTH_MAN}, "cannot read"),
    Sample("no document", {REASON_CC: REASON_TABLE}, "is missing"),
    Sample("refusal", {"xml-tools/a.cc": 'Refuse(disk, "cdrom", "x")', REASONS: ""}, "code of xml-tools 'cdrom'"),
    Sample("refusal good", {"xml-tools/a.cc": 'Refuse(disk, "cdrom", "x")', REASONS: "| `cdrom` | x |\n"}, None),
    Sample("options good", {"host/cli/help.cc": HELP_CC, MAN: "*-n*, *--dry-run*\n*--json*\n"}, None),
    Sample("option", {"host/cli/help.cc": HELP_CC, MAN: "*--dry-runs*\n*--json*\n"}, "option 'dry-run'"),
    Sample("hint", {"host/cli/hints.cc": '"see virt-reclaim(1), AGENT CHANNEL"', MAN: "# AGENT\n"}, "'AGENT CHANNEL'"),
    Sample("status", {"host/model/outcome.h": OUTCOME_H, EXITS: "| 0 | x |\n", MAN: STATUS_MAN}, f"{EXITS}: exit status '130'"),
    Sample("json good", {"host/cli/json_output.cc": JSON_CC, JSON: "## `report`\n`capacity_bytes` `disks`\n"}, None),
    Sample("json key", {"host/cli/json_output.cc": JSON_CC, JSON: "## `report`\n`capacity_bytes`\n"}, "key 'disks'"),
    Sample("json type", {"host/cli/json_output.cc": JSON_CC, JSON: "`capacity_bytes` `disks`\n"}, "message type 'report'"),
    Sample("metric", {METRICS_CC: 'x.Declare(\n    "disk_bytes", "x"); each("up",', METRICS: "| `virt_reclaim_up` |\n"}, "metric 'disk_bytes'"),
    Sample("metrics good", {METRICS_CC: 'x.Declare("up", "x");', METRICS: "| `virt_reclaim_up` | | 1 |\n"}, None),
    Sample("obstacle", {PROTO_PATH: PROTO, AGENT_MAN: "crypt\n"}, "obstacle 'dm-crypt'"),
    Sample("obstacle good", {PROTO_PATH: PROTO, AGENT_MAN: "*dm-crypt*\n"}, None),
    Sample("agent's page not there", {PROTO_PATH: PROTO}, None),
    Sample("links good", {"a.md": "[x](docs/b.md#some-part) [y](https://x/y) [z](#me)\n# Me\n", "docs/b.md": "## `Some` part\n"}, None),
    Sample("dead link", {"docs/a.md": "[x](b.md)\n"}, "docs/a.md:1: link to 'b.md' leads nowhere"),
    Sample("dead anchor", {"a.md": "[x](#nowhere)\n"}, "no such heading"),
    Sample("dead image", {"a.md": '<img src="b.svg">\n'}, "link to 'b.svg'"),
    Sample("path", {"scripts/a": "x\ncd /" + "work/main\n"}, "scripts/a:2: a path of a developer's machine"),
    Sample("other path", {"base/a.h": "// /" + "farm/x\n"}, "a path of a developer's machine"),
    Sample("harmless path", {"a.md": "https://example.org/" + "work/x and net" + "work/y and /works/z\n"}, None),
    Sample("long", {"base/a.cc": "\n" * 501}, "501 lines"),
    Sample("stale exception", {next(iter(LONG_FILES), "x"): "\n"}, "is short enough now" if LONG_FILES else None),
    Sample("not too long", {"base/a.cc": "\n" * 500, "docs/long.md": "\n" * 900}, None),
]

if __name__ == "__main__":
    sys.exit(main(check, SAMPLES, __doc__ or ""))
