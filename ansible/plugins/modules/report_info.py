#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: the virt-reclaim authors. Apache License 2.0
"""virt-reclaim report, for Ansible."""

from __future__ import absolute_import, division, print_function

DOCUMENTATION = r"""
module: report_info
short_description: What each disk occupies, and what could come back
description:
  - Reads no disk contents and changes nothing.
version_added: "0.1.0"
author: The virt-reclaim authors (@virt-reclaim)
extends_documentation_fragment: virt_reclaim.fleet.program
attributes:
  check_mode:
    description: It changes nothing anyway.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
options:
  domains:
    description: Names, UUIDs or patterns such as C(web-*). None means all.
    type: list
    elements: str
  exact:
    description: Compare where each guest is free with what its images occupy.
    type: bool
  warning:
    description: With I(critical), thresholds as for a monitoring plugin, such as C(20%) or C(50G).
    type: str
  critical:
    description: See I(warning).
    type: str
  full:
    description: Whether I(domains) is returned. Without it the result is about a tenth as large, which tells in a fleet.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: One line a disk
  virt_reclaim.fleet.report_info:
    full: false
  register: report

- name: Is too much lying around?
  virt_reclaim.fleet.report_info:
    warning: 20%
    critical: 40%
  register: report
  failed_when: report.check.level == 'CRITICAL'
"""

RETURN = r"""
rc:
  description: The program's exit status.
  returned: always
  type: int
status:
  description: Its name, such as C(done) or C(some-failed).
  returned: always
  type: str
total:
  description: Sums over what is known.
  returned: always
  type: dict
disks:
  description: One flat entry a disk, with the names of docs/json.md and the domain's name and state.
  returned: always
  type: list
  elements: dict
domains:
  description: What the program says of each domain, as in C(report) of docs/json.md.
  returned: with I(full)
  type: list
  elements: dict
not_examined:
  description: Names of the domains that could not be looked at.
  returned: always
  type: list
  elements: str
check:
  description: The C(level), C(text) and C(performance_data) of a monitoring plugin.
  returned: with I(warning) and I(critical)
  type: dict
"""

from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible_collections.virt_reclaim.fleet.plugins.module_utils.program import (  # noqa: E402
    COMMON_SPEC,
    DONE,
    SOME_FAILED,
    STATUS_NAMES,
    finish,
    named,
    run,
    words_of,
)

ROW = (
    "target", "bus", "device", "image", "format", "capacity_bytes", "allocation_bytes", "guest_used_bytes",
    "reclaimable_bytes", "grown_since_trim_bytes", "blockers",
)

SPEC: dict[str, dict[str, Any]] = {
    **COMMON_SPEC,
    "domains": {"type": "list", "elements": "str"},
    "exact": {"type": "bool"},
    "warning": {"type": "str"},
    "critical": {"type": "str"},
    "full": {"type": "bool", "default": True},
}


def rows(domains: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for domain in domains:
        trimmed = (domain["last_trim"] or {}).get("began")
        for disk in domain["disks"]:
            row = {"domain": domain["name"], "state": domain["state"], "agent": domain["agent"], "last_trim": trimmed}
            found.append({**row, **{name: disk[name] for name in ROW}})
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec=SPEC, required_together=[("warning", "critical")], supports_check_mode=True
    )
    params = module.params
    words = words_of(params, ("exact",))
    if params["warning"] is not None:
        words.append(f"--check={params['warning']},{params['critical']}")
    reply = run(module, "report", words, params["domains"] or [])
    failed = [each for each in reply.domains if each["status"] == "failed"]
    result = {
        "changed": False,
        "total": reply.total,
        "disks": rows(reply.domains),
        "not_examined": [each["name"] for each in failed],
    }
    if params["full"]:
        result["domains"] = reply.domains
    if "check" in reply.document:
        # Its exit status is that of a monitoring plugin, which the play may judge.
        status = STATUS_NAMES[SOME_FAILED if failed else DONE]
        module.exit_json(rc=reply.rc, status=status, check=reply.document["check"], **result)
    if reply.rc == SOME_FAILED:
        # What is known of the others is worth having.
        module.warn("not examined: " + named(failed, "name"))
        module.exit_json(rc=reply.rc, status=STATUS_NAMES[SOME_FAILED], **result)
    finish(module, reply, reply.domains, result)


if __name__ == "__main__":
    main()
