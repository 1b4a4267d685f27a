#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: the virt-reclaim authors. Apache License 2.0
"""virt-reclaim sparsify, for Ansible."""

from __future__ import absolute_import, division, print_function

DOCUMENTATION = r"""
module: sparsify
short_description: Give back what stopped guests have free inside
description:
  - In place, for domains that are off and for image files. What is in use is refused.
version_added: "0.1.0"
author: The virt-reclaim authors (@virt-reclaim)
extends_documentation_fragment: virt_reclaim.fleet.program
attributes:
  check_mode:
    description: Reads the images, and gives nothing back.
    support: full
  diff_mode:
    description: Shows the allocation of each disk before and after; in check mode, what is expected.
    support: full
options:
  targets:
    description: Domains, or image files; what has a C(/) is a file.
    type: list
    elements: str
  all_off:
    description: All domains that are off.
    type: bool
  storage:
    description: Only domains with an image below this path.
    type: path
  format:
    description: Of image files.
    type: str
    choices: [raw, qcow2]
  threshold:
    description: Do nothing where less than this would come free.
    type: str
  engine:
    description: Whether libguestfs may help with filesystems that the program does not know.
    type: str
    choices: [auto, native, libguestfs]
  replay:
    description: Let the appliance replay journals.
    type: bool
  strict:
    description: Only filesystems whose free maps have checksums.
    type: bool
  keep_swap:
    description: Leave swap areas as they are.
    type: bool
  allow_thick:
    description: Also images that occupy all of their capacity.
    type: bool
  with_bitmaps:
    description: Also qcow2 images with persistent bitmaps.
    type: bool
  no_libvirt:
    description: There is no libvirt on the host.
    type: bool
  nothing_freed:
    description: What to do when space was given back and the host got nothing.
    type: str
    choices: [warn, fail, ignore]
    default: warn
"""

EXAMPLES = r"""
- name: All guests that are off
  virt_reclaim.fleet.sparsify:
    all_off: true
    threshold: 64M
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
targets:
  description: What the program says of each, as in C(sparsify) of docs/json.md.
  returned: always
  type: list
  elements: dict
total:
  description: The sums.
  returned: always
  type: dict
"""

from typing import Any, Optional  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible_collections.virt_reclaim.fleet.plugins.module_utils.program import (  # noqa: E402
    COMMON_SPEC,
    amounts_diff,
    finish,
    run,
    words_of,
)

OPTIONS = (
    "all_off", "storage", "format", "threshold", "engine", "replay", "strict", "keep_swap", "allow_thick", "with_bitmaps",
    "no_libvirt",
)

SPEC: dict[str, dict[str, Any]] = {
    **COMMON_SPEC,
    "targets": {"type": "list", "elements": "str"},
    "all_off": {"type": "bool"},
    "storage": {"type": "path"},
    "format": {"type": "str", "choices": ["raw", "qcow2"]},
    "threshold": {"type": "str"},
    "engine": {"type": "str", "choices": ["auto", "native", "libguestfs"]},
    "replay": {"type": "bool"},
    "strict": {"type": "bool"},
    "keep_swap": {"type": "bool"},
    "allow_thick": {"type": "bool"},
    "with_bitmaps": {"type": "bool"},
    "no_libvirt": {"type": "bool"},
    "nothing_freed": {"type": "str", "choices": ["warn", "fail", "ignore"], "default": "warn"},
}


def amounts(targets: list[dict[str, Any]], *, after: bool, expected: bool) -> dict[str, Optional[int]]:
    found: dict[str, Optional[int]] = {}
    for target in targets:
        for disk in target["disks"]:
            before = disk.get("allocation_before_bytes")
            amount = disk.get("allocation_after_bytes") if after else before
            if after and expected and before is not None:
                amount = before - (disk.get("reclaimable_bytes") or 0)
            found[f"{target['name']}/{disk['target']}"] = amount
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec=SPEC, required_one_of=[("targets", "all_off")], supports_check_mode=True
    )
    dry = module.check_mode
    words = ["--dry-run"] if dry else []
    reply = run(module, "sparsify", words + words_of(module.params, OPTIONS), module.params["targets"] or [])
    targets = reply.document["targets"]
    # Below the threshold, or refused: nothing would be done with it.
    done = [each for each in targets if each["status"] == "done"]
    field = "reclaimable_bytes" if dry else "given_back_bytes"
    result = {
        "changed": any((disk.get(field) or 0) > 0 for each in (done if dry else targets) for disk in each["disks"]),
        "targets": targets,
        "total": reply.total,
        "diff": amounts_diff(amounts(done, after=False, expected=dry), amounts(done, after=True, expected=dry)),
    }
    finish(module, reply, targets, result, nothing_freed=module.params["nothing_freed"])


if __name__ == "__main__":
    main()
