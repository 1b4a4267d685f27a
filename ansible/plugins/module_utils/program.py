"""Starts virt-reclaim and understands its answer; all modules are thin over this.

What was done, and whether it went well, is the program's word alone: its exit status and its one JSON document. Here is only what
Ansible wants of it besides: 'changed', the diff, one line for the failure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule

SCHEMA_VERSION = 1
DONE, ERROR, USAGE, SOME_FAILED, NOTHING_FREED, REFUSED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
# docs/exit-status.md
STATUS_NAMES = {
    DONE: "done", ERROR: "error", USAGE: "usage", SOME_FAILED: "some-failed", NOTHING_FREED: "nothing-freed",
    REFUSED: "refused", INTERRUPTED: "interrupted",
}
# An estimate below it is not worth a word: the program's own limit for exit status 4.
WORTH_BYTES = 16 << 20
# How many of those that failed are named in the message; all of them are in the result.
MAX_NAMED = 5

COMMON_SPEC: dict[str, dict[str, Any]] = {
    "program": {"type": "str", "default": "virt-reclaim"},
    "connect": {"type": "str"},
    "state_dir": {"type": "path"},
    "run_dir": {"type": "path"},
}


@dataclass(frozen=True)
class Reply:
    """One run of the program."""

    rc: int
    document: dict[str, Any]
    stderr: str

    @property
    def domains(self) -> list[dict[str, Any]]:
        return self.document.get("domains", [])

    @property
    def kind(self) -> str:
        return self.document.get("message_type", "")

    @property
    def total(self) -> dict[str, Any]:
        return self.document.get("total", {})


def words_of(params: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The program's options for those parameters that are set: 'max_rate: 5M' is '--max-rate=5M'; a list repeats its
    option, by its singular ('disks: [vda]' is '--disk=vda')."""
    words: list[str] = []
    for name in names:
        value = params[name]
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words += [option] if value else []
        elif isinstance(value, list):
            words += [f"{option.removesuffix('s')}={each}" for each in value]
        elif value is not None:
            words.append(f"{option}={value}")
    return words


def run(module: AnsibleModule, verb: str, words: Iterable[str] = (), names: Iterable[str] = ()) -> Reply:
    """names: of domains or files, whatever they look like. Ends the module where nothing could begin."""
    command = [module.params["program"], *verb.split(" "), "--json"]
    command += words_of(module.params, ("connect", "state_dir", "run_dir"))
    command += words
    names = list(names)
    for name in names:
        # The program would take it for an option.
        if name.startswith("-"):
            module.fail_json(msg=f"'{name}' begins with a '-': name a domain by its UUID, a file as './{name}'")
    command += names
    rc, stdout, stderr = module.run_command(command)
    try:
        document = json.loads(stdout)
    except ValueError:
        module.fail_json(msg=last_line(stderr) or f"'{command[0]}' exited with {rc} and gave no JSON", rc=rc, cmd=command)
    if document.get("message_type") == "error":
        module.fail_json(msg=document.get("error", ""), rc=rc, status=STATUS_NAMES.get(rc, "error"), cmd=command)
    if document.get("schema_version") != SCHEMA_VERSION:
        version = document.get("schema_version")
        module.fail_json(msg=f"the program writes version {version} of its JSON, not {SCHEMA_VERSION}", rc=rc, cmd=command)
    return Reply(rc, document, stderr)


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def why(entry: Mapping[str, Any]) -> str:
    """Of one domain or file that is not done: its error, else the sentence of its first reason."""
    if entry.get("error"):
        return str(entry["error"])
    explained = entry.get("reasons_explained") or entry.get("blockers_explained") or []
    for reason in explained:
        return f"{reason['text']} ({reason['detail']})" if reason.get("detail") else str(reason["text"])
    return str(entry.get("status", "failed"))


def finish(
    module: AnsibleModule, reply: Reply, entries: list[dict[str, Any]], result: dict[str, Any], *, key: str = "name",
    nothing_freed: str = "warn",
) -> NoReturn:
    """By the program's exit status; entries: what the answer says of each domain or file."""
    result = {"rc": reply.rc, "status": STATUS_NAMES.get(reply.rc, "error"), **result}
    if reply.rc == DONE:
        module.exit_json(**result)
    if reply.rc == NOTHING_FREED and nothing_freed != "fail":
        if nothing_freed == "warn":
            module.warn("done, but the host got nothing back: " + named(of_no_use(entries), key))
        module.exit_json(**result)
    bad = of_no_use(entries) if reply.rc == NOTHING_FREED else [each for each in entries if each.get("status") != "done"]
    # What was skipped because nobody asked for it comes last: it may be no part of the failure.
    bad.sort(key=lambda each: each.get("status") == "skipped")
    module.fail_json(msg=f"{result['status']}: {named(bad, key) or last_line(reply.stderr)}", **result)


def of_no_use(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that are done and say why the host got nothing, with the reasons of their disks as their own."""
    found = []
    for entry in entries:
        parts = [entry, *entry.get("disks", [])]
        explained = [reason for part in parts for reason in part.get("reasons_explained", [])]
        if entry.get("status") == "done" and explained:
            found.append({**entry, "reasons_explained": explained})
    return found


def named(entries: list[dict[str, Any]], key: str) -> str:
    shown = [f"{each.get(key, '?')}: {why(each)}" for each in entries[:MAX_NAMED]]
    if len(entries) > MAX_NAMED:
        shown.append(f"and {len(entries) - MAX_NAMED} more")
    return "; ".join(shown)


def amounts_diff(before: Mapping[str, int | None], after: Mapping[str, int | None]) -> dict[str, str]:
    """A diff of allocations, one line a disk; those that are not known are left out."""
    both = sorted(name for name in before if before[name] is not None and after.get(name) is not None)
    differing = [name for name in both if before[name] != after[name]]

    def lines(amounts: Mapping[str, int | None]) -> str:
        return "".join(f"{name}: {amounts[name]} bytes allocated\n" for name in differing)

    return {"before": lines(before), "after": lines(after)}
