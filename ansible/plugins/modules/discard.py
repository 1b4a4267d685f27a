#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: the virt-reclaim authors. Apache License 2.0
"""virt-reclaim migrate, for Ansible."""

from __future__ import absolute_import, division, print_function

DOCUMENTATION = r"""
module: discard
short_description: Let the discards of guests reach the host
description:
  - Makes the smallest change of a domain's definition that lets discards of the guest free space in its images, or takes it back.
  - It is C(virt-reclaim migrate), with the checks, the journal, the power cycle and the rollback of that.
version_added: "0.1.0"
author: The virt-reclaim authors (@virt-reclaim)
extends_documentation_fragment: virt_reclaim.fleet.program
attributes:
  check_mode:
    description: Plans, and changes nothing.
    support: full
  diff_mode:
    description: Shows the change of each definition, without passwords.
    support: full
options:
  state:
    description:
      - C(planned) only looks and never reports a change. Writing I(save) does not count as one.
      - C(applied) makes the change where it is not made yet, and ends what an interrupted call has begun.
      - C(verified) looks whether migrated guests came back as they were.
      - C(rolled_back) puts the old definition back.
    type: str
    choices: [planned, applied, verified, rolled_back]
    default: applied
  domains:
    description: Names, UUIDs or patterns such as C(web-*). For C(planned) and C(verified) none means all.
    type: list
    elements: str
  all:
    description: All domains, for C(applied) and C(rolled_back).
    type: bool
  plan:
    description: A plan on the host that I(save) has written. Just that change is made, and what is not as it was then is left alone.
    type: path
  save:
    description: For C(planned), the file on the host to write the plan to. Not written in check mode.
    type: path
  disks:
    description: Only these disks (C(vda)).
    type: list
    elements: str
  machine:
    description: C(auto) raises the machine type only as far as a disk needs it; C(keep); C(latest); or a name of the same family.
    type: str
  bus:
    description: Whether disks move to virtio-scsi.
    type: str
    choices: [keep, auto, virtio-scsi]
  channel:
    description: C(add) also adds the agent's channel, so that one power cycle does for both.
    type: str
    choices: [keep, add]
  detect_zeroes:
    description: Whether QEMU takes written zeroes for a discard.
    type: str
    choices: [keep, "off", "on", unmap]
  fix_guest:
    description:
      - Let the agent prepare the guest for a bus change.
      - With C(rolled_back), let it put the guest's files back.
    type: bool
  allow_thick:
    description: Also images that occupy all of their capacity.
    type: bool
  assume:
    description: Take what is not known of a guest for good. Never for a bus change.
    type: bool
  power_cycle:
    description:
      - C(never) leaves the change to the next power cycle.
      - C(shutdown) shuts the guest down cleanly, starts it, looks whether it came back as it was, and rolls back when not.
      - C(when-off) changes only domains that are off.
    type: str
    choices: [never, shutdown, when-off]
    default: never
  shutdown_timeout:
    description: For a guest to shut down.
    type: str
  verify_timeout:
    description: For a guest to come back.
    type: str
  batch:
    description: How many domains of this host at once, or a percentage.
    type: str
  max_failures:
    description: Begin no further batch on this host after more failures than this.
    type: int
  pause:
    description: Between batches.
    type: str
  window:
    description: Begin batches only at this time of day of the host (C(22:00-05:00)).
    type: str
  full:
    description: Whether I(domains) is returned. In a fleet of many domains the names alone are enough.
    type: bool
    default: true
seealso:
  - module: virt_reclaim.fleet.report_info
"""

EXAMPLES = r"""
- name: Plan
  virt_reclaim.fleet.discard:
    state: planned
    save: /var/lib/virt-reclaim/fleet-plan.json
  register: planned

- name: Make just that change, with a power cycle of guests that run
  virt_reclaim.fleet.discard:
    plan: /var/lib/virt-reclaim/fleet-plan.json
    power_cycle: shutdown

- name: Put the old definition of one domain back
  virt_reclaim.fleet.discard:
    state: rolled_back
    domains: [web]
    power_cycle: shutdown
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
  description: What the program says of each domain, as in C(migrate-plan) or C(migrate-apply) of docs/json.md.
  returned: with I(full)
  type: list
  elements: dict
to_change:
  description: With C(planned) and in check mode, names of the domains that would be changed; those with blockers are not among them.
  returned: when nothing was to be changed
  type: list
  elements: str
changed_domains:
  description: Names of the domains that this call changed, also when it failed afterwards.
  returned: when something was to be changed
  type: list
  elements: str
not_begun:
  description: Names of the domains that were left for another time because I(window) was closed. By itself that is no failure.
  returned: when something was to be changed
  type: list
  elements: str
blocked:
  description: With C(planned) and in check mode, the blockers of each domain that has some.
  returned: when nothing was to be changed
  type: dict
"""

from collections.abc import Iterable  # noqa: E402
from typing import Any, NoReturn, Optional  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible_collections.virt_reclaim.fleet.plugins.module_utils.program import (  # noqa: E402
    COMMON_SPEC,
    DONE,
    Reply,
    STATUS_NAMES,
    finish,
    run,
    words_of,
)

CHANGE = ("machine", "bus", "channel", "detect_zeroes", "disks", "fix_guest", "allow_thick", "assume")
POWER = ("all", "power_cycle", "shutdown_timeout", "verify_timeout")
BATCHES = ("batch", "max_failures", "pause", "window")
# Steps of a migration that leave nothing to roll back.
BACK = ("undone", "rolled-back")
UP = ("running", "paused")

SPEC: dict[str, dict[str, Any]] = {
    **COMMON_SPEC,
    "state": {"type": "str", "choices": ["planned", "applied", "verified", "rolled_back"], "default": "applied"},
    "domains": {"type": "list", "elements": "str"},
    "all": {"type": "bool"},
    "plan": {"type": "path"},
    "save": {"type": "path"},
    "disks": {"type": "list", "elements": "str"},
    "machine": {"type": "str"},
    "bus": {"type": "str", "choices": ["keep", "auto", "virtio-scsi"]},
    "channel": {"type": "str", "choices": ["keep", "add"]},
    "detect_zeroes": {"type": "str", "choices": ["keep", "off", "on", "unmap"]},
    "fix_guest": {"type": "bool"},
    "allow_thick": {"type": "bool"},
    "assume": {"type": "bool"},
    "power_cycle": {"type": "str", "choices": ["never", "shutdown", "when-off"], "default": "never"},
    "shutdown_timeout": {"type": "str"},
    "verify_timeout": {"type": "str"},
    "batch": {"type": "str"},
    "max_failures": {"type": "int"},
    "pause": {"type": "str"},
    "window": {"type": "str"},
    "full": {"type": "bool", "default": True},
}


class Discard:
    """One call of the module."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._params = module.params
        self._names: list[str] = self._params["domains"] or []

    def planned(self) -> NoReturn:
        words = [*self._diff_words(), *words_of(self._params, CHANGE)]
        if not self._module.check_mode:
            words += words_of(self._params, ("save",))
        plan = run(self._module, "migrate plan", words, self._names)
        self._exit_with_plan(plan, would_change=False)

    def applied(self) -> NoReturn:
        if self._module.check_mode:
            self._exit_with_plan(self._dry_run(), would_change=True)
        diffs = diffs_of(self._dry_run()) if self._diff_words() else []
        before = self._places()
        reply = run(self._module, "migrate apply", self._apply_words(), self._names)
        changed = [
            each["name"] for each in reply.domains
            if each["changes"] or each["migration"] and place_of(each) != before.get(each["uuid"])
        ]
        diffs = [diff for diff in diffs if diff["before_header"] in changed]
        self._exit(reply, changed, diffs)

    def verified(self) -> NoReturn:
        # It goes on with a migration that was interrupted; looking at one that is over changes nothing.
        if self._module.check_mode:
            places = run(self._module, "migrate status", words_of(self._params, ("plan",)), self._names)
            unfinished = [each["name"] for each in places.domains if each["migration"] and not settled(each)]
            self._exit_with_places(places, unfinished, [])
        self._follow_up("migrate verify", words_of(self._params, ("plan", "verify_timeout")))

    def rolled_back(self) -> NoReturn:
        if self._module.check_mode:
            places = run(self._module, "migrate status", words_of(self._params, ("plan",)), self._names)
            back = [each for each in places.domains if each["migration"] and each["migration"]["step"] not in BACK]
            diffs = [step_diff(each["name"], each["migration"]["step"], "rolled-back") for each in back]
            self._exit_with_places(places, [each["name"] for each in back], diffs)
        self._follow_up("migrate rollback", words_of(self._params, (*POWER, "plan", "fix_guest")))

    def _follow_up(self, verb: str, words: Iterable[str]) -> NoReturn:
        before = self._places()
        reply = run(self._module, verb, words, self._names)
        changed, diffs = [], []
        for each in reply.domains:
            if each["migration"] and place_of(each) != before.get(each["uuid"]):
                changed.append(each["name"])
                old = before.get(each["uuid"], ("none", ""))
                diffs.append(step_diff(each["name"], old[0], each["migration"]["step"]))
        self._exit(reply, changed, diffs)

    def _apply_words(self) -> list[str]:
        return words_of(self._params, (*CHANGE, *POWER, *BATCHES, "plan"))

    def _dry_run(self) -> Reply:
        return run(self._module, "migrate apply", ["--dry-run", *self._diff_words(), *self._apply_words()], self._names)

    def _diff_words(self) -> list[str]:
        return ["--diff"] if self._module._diff else []  # pylint: disable=protected-access

    def _places(self) -> dict[str, tuple[str, str]]:
        """Where the migration of each domain stands, by UUID. That some have failed is no failure of ours."""
        status = run(self._module, "migrate status", words_of(self._params, ("plan",)), self._names)
        return {each["uuid"]: place_of(each) for each in status.domains if each["migration"]}

    def _exit_with_plan(self, plan: Reply, *, would_change: bool) -> NoReturn:
        places = {each["uuid"]: each for each in self._status_of_all()}
        to_change = [each["name"] for each in plan.domains if self._would_change(each, places.get(each["uuid"]))]
        entries = [{"status": "failed" if "error" in each else "done", **each} for each in plan.domains]
        if plan.rc != DONE:
            entries = [{**each, "status": "failed"} if each["blockers"] else each for each in entries]
        result = {
            "changed": would_change and bool(to_change),
            "domains": plan.domains,
            "to_change": to_change,
            "blocked": {each["name"]: each["blockers"] for each in plan.domains if each["blockers"]},
            "diff": diffs_of(plan),
        }
        finish(self._module, plan, entries, self._shortened(result))

    def _exit_with_places(self, places: Reply, to_change: list[str], diffs: list[dict[str, str]]) -> NoReturn:
        result = {"changed": bool(to_change), "domains": places.domains, "to_change": to_change, "blocked": {}, "diff": diffs}
        self._module.exit_json(rc=DONE, status=STATUS_NAMES[DONE], **self._shortened(result))

    def _shortened(self, result: dict[str, Any]) -> dict[str, Any]:
        return result if self._params["full"] else {key: value for key, value in result.items() if key != "domains"}

    def _status_of_all(self) -> list[dict[str, Any]]:
        return run(self._module, "migrate status", words_of(self._params, ("plan",)), self._names).domains

    def _would_change(self, planned: dict[str, Any], place: Optional[dict[str, Any]]) -> bool:
        if planned["blockers"] or "error" in planned:
            return False
        if self._params["power_cycle"] == "when-off" and planned["state"] in UP:
            return False
        if planned["changes"]:
            return True
        if not place or not place["migration"]:
            return False
        # Begun by a call that was interrupted, or waiting for the power cycle that is allowed now.
        return not settled(place) or planned["power_cycle_pending"] and self._params["power_cycle"] == "shutdown"

    def _exit(self, reply: Reply, changed: list[str], diffs: list[dict[str, str]]) -> NoReturn:
        result = {"changed": bool(changed), "domains": reply.domains, "changed_domains": changed, "diff": diffs}
        late = [each["name"] for each in reply.domains if each.get("reasons") == ["outside-window"]]
        result["not_begun"] = late
        if late and all(each["status"] == "done" or each["name"] in late for each in reply.domains):
            # The night was over; the next call goes on.
            self._module.warn(f"not begun outside of the window: {len(late)} domains")
            self._module.exit_json(rc=reply.rc, status=STATUS_NAMES.get(reply.rc, "error"), **self._shortened(result))
        # A guest whose discards do not arrive after all is a failure of a migration.
        finish(self._module, reply, reply.domains, self._shortened(result), nothing_freed="fail")


def settled(domain: dict[str, Any]) -> bool:
    return domain["migration"]["over"] or domain["migration"]["step"] == "defined"


def place_of(domain: dict[str, Any]) -> tuple[str, str]:
    return domain["migration"]["step"], domain["migration"]["since"]


def step_diff(name: str, before: str, after: str) -> dict[str, str]:
    return {"before_header": name, "after_header": name, "before": f"migration: {before}\n", "after": f"migration: {after}\n"}


def diffs_of(plan: Reply) -> list[dict[str, str]]:
    return [
        {"before_header": each["name"], "after_header": each["name"], "prepared": each["diff"]}
        for each in plan.domains if each.get("diff") and not each["blockers"]
    ]


def main() -> None:
    module = AnsibleModule(
        argument_spec=SPEC,
        mutually_exclusive=[("all", "domains")],
        required_if=[
            ("state", "applied", ("all", "domains", "plan"), True),
            ("state", "rolled_back", ("all", "domains", "plan"), True),
        ],
        supports_check_mode=True,
    )
    getattr(Discard(module), module.params["state"])()


if __name__ == "__main__":
    main()
