#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: the virt-reclaim authors. Apache License 2.0
"""virt-reclaim trim, for Ansible."""

from __future__ import absolute_import, division, print_function

DOCUMENTATION = r"""
module: trim
short_description: Let running guests trim their filesystems, and measure what the host got back
description:
  - Through virt-reclaim-agent in the guest, or through qemu-guest-agent where that is all there is.
  - Changed is what the host measured. A trim after which the images occupy what they did before has changed nothing, whatever
    the guest says it trimmed; only where the host cannot measure, the guest's word is taken.
version_added: "0.1.0"
author: The virt-reclaim authors (@virt-reclaim)
extends_documentation_fragment: virt_reclaim.fleet.program
attributes:
  check_mode:
    description: Shows which domains would be trimmed. They count as changed from an estimate of 16 MiB on, or when there is none.
    support: full
  diff_mode:
    description: Shows the allocation of each disk before and after.
    support: full
options:
  domains:
    description: Names, UUIDs or patterns such as C(web-*). None means all running domains that have an agent.
    type: list
    elements: str
  minimum:
    description: Leave free extents shorter than this.
    type: str
  gentle:
    description: Pause so long that others do not notice.
    type: bool
  max_rate:
    description: Trim at most so much a second, as the guest counts.
    type: str
  chunk:
    description: Trim in pieces of about this size.
    type: str
  pause:
    description: Between two pieces.
    type: str
  mount_points:
    description: Only these filesystems of the guest.
    type: list
    elements: str
  way:
    description: Through which agent.
    type: str
    choices: [auto, agent, qemu-agent]
  storage:
    description: Only domains with an image below this path.
    type: path
  threshold:
    description: Only domains with so much reclaimable by estimate, or a percentage of their capacity.
    type: str
  min_freed:
    description: Only domains whose guests freed so much since their last trim.
    type: str
  per_storage:
    description: At most so many domains at once on each storage.
    type: int
  window:
    description: Trim only at this time of day of the host (C(22:00-05:00)).
    type: str
  max_duration:
    description: Of all trims on this host.
    type: str
  timeout:
    description: For one domain.
    type: str
  nothing_freed:
    description: What to do when guests trimmed and the host got nothing back although it should have.
    type: str
    choices: [warn, fail, ignore]
    default: warn
  full:
    description: Whether I(domains) is returned. In a fleet of many domains the sums alone are enough.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Trim what is worth it, at night
  virt_reclaim.fleet.trim:
    threshold: 5%
    window: 22:00-05:00
    gentle: true
"""

RETURN = r"""
rc:
  description: The program's exit status.
  returned: always
  type: int
status:
  description: Its name, such as C(done), C(some-failed), C(nothing-freed) or C(refused).
  returned: always
  type: str
domains:
  description: What the program says of each domain, as in C(trim) or C(trim-plan) of docs/json.md.
  returned: with I(full)
  type: list
  elements: dict
freed_bytes:
  description: What the host got back, measured; negative when images grew meanwhile.
  returned: when not in check mode
  type: int
trimmed_bytes:
  description: What the guests say they trimmed.
  returned: when not in check mode
  type: int
"""

from typing import Any, Optional  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible_collections.virt_reclaim.fleet.plugins.module_utils.program import (  # noqa: E402
    COMMON_SPEC,
    WORTH_BYTES,
    amounts_diff,
    finish,
    run,
    words_of,
)

OPTIONS = (
    "minimum", "gentle", "max_rate", "chunk", "pause", "mount_points", "way", "storage", "threshold", "min_freed",
    "per_storage", "window", "max_duration", "timeout",
)

SPEC: dict[str, dict[str, Any]] = {
    **COMMON_SPEC,
    "domains": {"type": "list", "elements": "str"},
    "minimum": {"type": "str"},
    "gentle": {"type": "bool"},
    "max_rate": {"type": "str"},
    "chunk": {"type": "str"},
    "pause": {"type": "str"},
    "mount_points": {"type": "list", "elements": "str"},
    "way": {"type": "str", "choices": ["auto", "agent", "qemu-agent"]},
    "storage": {"type": "path"},
    "threshold": {"type": "str"},
    "min_freed": {"type": "str"},
    "per_storage": {"type": "int"},
    "window": {"type": "str"},
    "max_duration": {"type": "str"},
    "timeout": {"type": "str"},
    "nothing_freed": {"type": "str", "choices": ["warn", "fail", "ignore"], "default": "warn"},
    "full": {"type": "bool", "default": True},
}


def would_change(planned: dict[str, Any]) -> bool:
    expected = planned["expected_bytes"]
    return planned["action"] == "trim" and (expected is None or expected >= WORTH_BYTES)


def did_change(trimmed: dict[str, Any]) -> bool:
    if trimmed["freed_bytes"] is None:
        return trimmed["trimmed_bytes"] > 0
    return trimmed["freed_bytes"] > 0


def allocations(domains: list[dict[str, Any]], field: str) -> dict[str, Optional[int]]:
    return {f"{each['name']}/{disk['target']}": disk[field] for each in domains for disk in each.get("disks", [])}


def shortened(module: AnsibleModule, result: dict[str, Any]) -> dict[str, Any]:
    return result if module.params["full"] else {key: value for key, value in result.items() if key != "domains"}


def main() -> None:
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    words = words_of(module.params, OPTIONS)
    names = module.params["domains"] or []
    if module.check_mode:
        reply = run(module, "trim", ["--dry-run", *words], names)
        # A domain that is skipped and was not named is no failure.
        entries = [
            {"status": "failed" if "error" in each else "skipped" if each["action"] == "skip" else "done", **each}
            for each in reply.domains
        ]
        lines = [f"{each['name']}: about {each['expected_bytes']} bytes\n" for each in reply.domains if would_change(each)]
        result: dict[str, Any] = {
            "changed": any(map(would_change, reply.domains)),
            "domains": reply.domains,
            "diff": {"before": "", "after": "".join(lines), "after_header": "expected to come free"},
        }
        finish(module, reply, entries, shortened(module, result))
    reply = run(module, "trim", words, names)
    result = {
        "changed": any(map(did_change, reply.domains)),
        "domains": reply.domains,
        "freed_bytes": reply.total["freed_bytes"],
        "trimmed_bytes": reply.total["trimmed_bytes"],
        "diff": amounts_diff(
            allocations(reply.domains, "allocation_before_bytes"), allocations(reply.domains, "allocation_after_bytes")
        ),
    }
    finish(module, reply, reply.domains, shortened(module, result), nothing_freed=module.params["nothing_freed"])


if __name__ == "__main__":
    main()
