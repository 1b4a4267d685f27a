#!/usr/bin/env python3
"""The floors of docs/architecture.md: who may include whom, which libraries stay behind which interface, header guards."""

from __future__ import annotations

import re
import sys

from lintlib import Finding, Sample, Tree, main

# Folder -> the folders of the project it may include, itself included. The longest matching prefix counts. What protoc
# generates from proto/ is included as virt_reclaim/agent/v1/... and counts as proto.
FLOORS: dict[str, set[str]] = {
    "base": {"base"},
    "proto": {"base", "proto"},
    "xml-tools": {"base", "xml-tools"},
    "guest-config": {"base", "proto", "guest-config"},
    "guest-agent": {"base", "proto", "guest-config", "guest-agent"},
    "host/guard": {"base", "host/guard"},
    "host/punch": {"base", "host/guard", "host/punch"},
    "host/sync": {"base", "host/guard", "host/punch", "host/sync"},
    "host/guestfs": {"base", "proto", "guest-config", "host/guestfs"},  # a program of its own
    "host/freemap": {"base", "host/freemap"},
    "host/sparsify": {"base", "host/freemap", "host/guard", "host/punch", "host/sparsify"},
    "host/model": {"base", "xml-tools", "host/model"},
    "host/policy": {"base", "host/model", "host/policy"},
    "host/services": {"base", "proto", "xml-tools", "host/freemap", "host/guard", "host/punch", "host/sync", "host/model", "host/services"},
    "host/commands": {
        "base", "proto", "xml-tools", "host/freemap", "host/guard", "host/punch", "host/sync", "host/sparsify", "host/model",
        "host/policy", "host/services", "host/commands",
    },
    "host/cli": {
        "base", "proto", "xml-tools", "host/freemap", "host/guard", "host/punch", "host/sync", "host/sparsify", "host/model",
        "host/policy", "host/services", "host/commands", "host/cli",
    },
}
# May include anything of ours, and nothing of ours may include them.
ABOVE_ALL = {"tests", "bench"}

# Library header -> where it may be seen (tests and benchmarks besides). An outside world has one door each.
DOORS: dict[str, tuple[str, ...]] = {
    "libvirt/": ("host/services/",),
    "grpcpp/": ("host/services/", "guest-agent/"),
    "virt_reclaim/agent/v1/": ("host/services/", "host/guestfs/", "guest-agent/", "guest-config/"),
    "guestfs.h": ("host/guestfs/",),
    "libnbd.h": ("host/sparsify/nbd_client.cc", "host/sync/nbd_source.cc"),
    "libxml/": ("xml-tools/",),
    "libmount/": ("guest-agent/",),
    "blkid/": ("guest-agent/", "host/freemap/signatures.cc", "host/sync/device_signature.cc"),
    "ext2fs/": ("host/freemap/ext_",),
    "seccomp.h": ("host/freemap/sandbox.cc",),
    "toml++/": ("host/policy/toml_reader.cc",),
    "CLI/": ("host/cli/options.cc",),  # seconds of compile time per file that includes it
}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def longest_prefix(path: str, folders: set[str] | dict[str, set[str]]) -> str | None:
    fitting = [f for f in folders if path.startswith(f + "/")]
    return max(fitting, key=len, default=None)


def check_include(path: str, number: int, quote: str, header: str, tree: Tree) -> list[Finding]:
    found = []
    top = path.split("/")[0]
    for prefix, doors in DOORS.items():
        if header.startswith(prefix) and top not in ABOVE_ALL and not path.startswith(doors):
            found.append(Finding(path, number, f"<{header}> may only be included in {', '.join(doors)}"))
    generated = header.startswith("virt_reclaim/")
    if quote == '"' and "/" not in header and tree.has(f"{path.rpartition('/')[0]}/{header}"):
        found.append(Finding(path, number, f"'{header}' must be included by its path from the top of the tree"))
    target = "proto" if generated else longest_prefix(header, FLOORS)
    if target is None:
        if header.split("/")[0] == "host":
            return [*found, Finding(path, number, f"'{header}' is on no floor: add its folder to FLOORS")]
        target = header.split("/")[0] if header.split("/")[0] in ABOVE_ALL else None
    if target is None or top in ABOVE_ALL:
        return found
    floor = longest_prefix(path, FLOORS)
    if floor is None:
        return [*found, Finding(path, 0, "lies on no floor: add its folder to FLOORS")]
    if target not in FLOORS[floor]:
        found.append(Finding(path, number, f"{floor} must not include {target} ('{header}')"))
    return found


def expected_guard(path: str) -> str:
    return "VIRT_RECLAIM_" + re.sub(r"[^A-Z0-9]", "_", path.removesuffix(".h").upper()) + "_H_"


def check_guard(path: str, text: str) -> list[Finding]:
    guard = expected_guard(path)
    if re.search(rf"^#ifndef {guard}\n#define {guard}$", text, re.M) and re.search(rf"^#endif\s+// {guard}$", text, re.M):
        return []
    return [Finding(path, 0, f"header guard must be {guard}, closed by '#endif  // {guard}'")]


def check(tree: Tree) -> list[Finding]:
    findings = []
    for path in tree.code("base", "proto", "guest-config", "xml-tools", "guest-agent", "host", "tests", "bench"):
        text = tree.read(path)
        for number, line in enumerate(text.splitlines(), start=1):
            if match := INCLUDE.match(line):
                findings += check_include(path, number, match[1], match[2], tree)
        if path.endswith(".h"):
            findings += check_guard(path, text)
    return findings


def header(path: str, include: str = "") -> str:
    guard = expected_guard(path)
    return f"#ifndef {guard}\n#define {guard}\n{include}\n#endif  // {guard}\n"


SAMPLES = [
    Sample("good", {"base/a.h": header("base/a.h"), "host/model/b.cc": '#include "base/a.h"\n#include <vector>\n'}, None),
    Sample("good guest-agent", {"guest-agent/a.cc": '#include "proto/link/b.h"\n#include <grpcpp/grpcpp.h>\n'}, None),
    Sample("good test", {"tests/unit/a.cc": '#include "host/cli/b.h"\n#include <libvirt/libvirt.h>\n'}, None),
    Sample("base looks up", {"base/a.cc": '#include "proto/link/b.h"\n'}, "base must not include proto"),
    Sample("link looks up", {"proto/link/a.cc": '#include "host/model/b.h"\n'}, "proto must not include host/model"),
    Sample("xml-tools looks aside", {"xml-tools/a.cc": '#include "proto/link/b.h"\n'}, "xml-tools must not include proto"),
    Sample("agent includes host", {"guest-agent/a.cc": '#include "host/model/b.h"\n'}, "must not include host/model"),
    Sample("configuration looks up", {"guest-config/a.cc": '#include "guest-agent/b.h"\n'}, "must not include guest-agent"),
    Sample("services read images themselves", {"host/services/a.cc": "#include <guestfs.h>\n"}, "may only be included in host/guestfs"),
    Sample("agent includes xml", {"guest-agent/a.cc": '#include "xml-tools/b.h"\n'}, "must not include xml-tools"),
    Sample("model not pure", {"host/model/a.cc": '#include "host/services/b.h"\n'}, "host/model must not include"),
    Sample("guard looks up", {"host/guard/a.cc": '#include "host/model/b.h"\n'}, "host/guard must not include host/model"),
    Sample("punch looks up", {"host/punch/a.cc": '#include "host/services/b.h"\n'}, "host/punch must not include host/services"),
    Sample("sparsify looks up", {"host/sparsify/a.cc": '#include "host/services/b.h"\n'}, "host/sparsify must not include"),
    Sample("libnbd leaks", {"host/sparsify/sparsify.cc": "#include <libnbd.h>\n"}, "may only be included in host/sparsify/nbd_client.cc, host/sync/nbd_source.cc"),
    Sample("good punch", {"host/punch/a.cc": '#include "host/guard/b.h"\n'}, None),
    Sample("services look up", {"host/services/a.cc": '#include "host/commands/b.h"\n'}, "host/services must not include"),
    Sample("commands print", {"host/commands/a.cc": '#include "host/cli/b.h"\n'}, "host/commands must not include host/cli"),
    Sample("code includes tests", {"base/a.cc": '#include "tests/fakes/b.h"\n'}, "base must not include tests"),
    Sample("new folder", {"host/new/a.cc": '#include "base/b.h"\n'}, "lies on no floor"),
    Sample("libvirt leaks", {"host/commands/a.cc": "#include <libvirt/libvirt.h>\n"}, "may only be included in host/services"),
    Sample("contract leaks", {"host/model/a.cc": '#include "virt_reclaim/agent/v1/agent.pb.h"\n'}, "host/model must not include proto"),
    Sample("freemap looks aside", {"host/freemap/a.cc": '#include "host/model/b.h"\n'}, "host/freemap must not include"),
    Sample("ext2fs leaks", {"host/services/a.cc": "#include <ext2fs/ext2fs.h>\n"}, "may only be included in host/freemap"),
    Sample("blkid leaks", {"host/freemap/scan.cc": "#include <blkid/blkid.h>\n"}, "may only be included in guest-agent"),
    Sample("parser leaks", {"host/cli/main.cc": "#include <CLI/CLI.hpp>\n"}, "may only be included in host/cli/options.cc"),
    Sample("policy looks up", {"host/policy/a.cc": '#include "host/services/b.h"\n'}, "host/policy must not include"),
    Sample("TOML leaks", {"host/policy/policy.cc": "#include <toml++/toml.h>\n"}, "may only be included in host/policy/toml_reader.cc"),
    Sample("relative include", {"base/a.cc": '#include "b.h"\n', "base/b.h": header("base/b.h")}, "by its path from the top"),
    Sample("wrong guard", {"base/a.h": "#ifndef A_H\n#define A_H\n#endif  // A_H\n"}, "header guard must be VIRT_RECLAIM_BASE_A_H_"),
    Sample("pragma once", {"guest-agent/b.h": "#pragma once\n"}, "header guard must be VIRT_RECLAIM_GUEST_AGENT_B_H_"),
]

if __name__ == "__main__":
    sys.exit(main(check, SAMPLES, __doc__ or ""))
