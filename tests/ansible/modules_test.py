"""The modules against a program that gives answers we wrote: 'changed', check mode, diff, failures; and that they offer what
the real program and their own documentation offer."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

import ansiblelib
from vrtest import host_program_path, main

MODULES = ("discard", "punch", "report_info", "sparsify", "trim")
PACKAGE = "ansible_collections.virt_reclaim.fleet.plugins"
MIB = 1 << 20

# $dir/NAME.json is the answer and $dir/NAME.rc its status; NAME is 'trim', 'trim-dry', 'migrate-apply', ...
FAKE = """#!/bin/sh
dir=$(dirname "$0")
echo "$@" >>"$dir/calls"
name=$1
case $1 in migrate) name=$1-$2 ;; esac
case " $* " in *" --dry-run "*) name=$name-dry ;; esac
echo 'libvirt says something' >&2
cat "$dir/$name.json"
exit "$(cat "$dir/$name.rc")"
"""


def explained(code: str) -> list[dict[str, str]]:
    return [{"code": code, "text": f"the sentence of {code}", "detail": ""}]


def domain(name: str = "web", **fields: Any) -> dict[str, Any]:
    return {"name": name, "uuid": f"uuid-of-{name}", "state": "shut-off", **fields}


def planned(name: str = "web", *, changes: int = 1, **fields: Any) -> dict[str, Any]:
    return domain(
        name,
        **{
            "blockers": [], "changes": [{"target": "vda", "what": "discard"}] * changes, "power_cycle_pending": False,
            **({"diff": f"-{name}\n+{name} unmap\n"} if changes else {}), **fields,
        },
    )


def migrated(name: str = "web", step: str = "", *, since: str = "t1", changes: int = 0, status: str = "done", **fields: Any) -> dict[str, Any]:
    place = {"step": step, "since": since, "over": step in ("done", "undone", "rolled-back"), "detail": ""} if step else None
    return domain(name, status=status, changes=[{"what": "discard"}] * changes, migration=place, reasons_explained=[], **fields)


def trimmed(name: str = "web", freed: int | None = 0, *, guest: int = 0, **fields: Any) -> dict[str, Any]:
    disk = {"target": "vda", "allocation_before_bytes": 10 * MIB, "allocation_after_bytes": 10 * MIB - (freed or 0)}
    return domain(
        name, status=fields.pop("status", "done"), trimmed_bytes=guest, freed_bytes=freed, reasons_explained=[],
        disks=[{**disk, "reasons_explained": fields.pop("disk_reasons", [])}], **fields,
    )


class ModuleTest(unittest.TestCase):
    def setUp(self) -> None:
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.program = self.directory / "virt-reclaim"
        self.program.write_text(FAKE)
        self.program.chmod(0o755)
        self.answers("migrate-status", [])

    def answer(self, name: str, document: dict[str, Any] | str, rc: int = 0) -> None:
        text = document if isinstance(document, str) else json.dumps({"schema_version": 1, "message_type": name, **document})
        (self.directory / f"{name}.json").write_text(text)
        (self.directory / f"{name}.rc").write_text(str(rc))

    def answers(self, name: str, domains: list[dict[str, Any]], rc: int = 0, **more: Any) -> None:
        self.answer(name, {"domains": domains, **more}, rc)

    def call(self, module: str, *, check: bool = False, diff: bool = False, **arguments: Any) -> dict[str, Any]:
        arguments = {"program": str(self.program), **arguments, "_ansible_check_mode": check, "_ansible_diff": diff}
        done = subprocess.run(
            [sys.executable, "-m", f"{PACKAGE}.modules.{module}"], input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            env={**os.environ, "PYTHONPATH": str(COLLECTIONS)}, capture_output=True, text=True, check=False, timeout=60,
        )
        self.assertTrue(done.stdout.strip(), done.stderr)
        return json.loads(done.stdout)

    def calls(self) -> list[str]:
        path = self.directory / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def assert_changed(self, result: dict[str, Any], changed: bool) -> None:
        self.assertEqual((result.get("failed", False), result["changed"]), (False, changed), result)


class AnyModule(ModuleTest):
    def test_words_of_the_program(self) -> None:
        self.answers("trim", [], total={"freed_bytes": 0, "trimmed_bytes": 0})
        self.call(
            "trim", connect="qemu:///x", state_dir="/s", run_dir="/r", domains=["a b", "c*"], gentle=True, minimum="1M",
            mount_points=["/", "/srv"], per_storage=2,
        )
        words = "--minimum=1M --gentle --mount-point=/ --mount-point=/srv --per-storage=2"
        self.assertEqual(self.calls(), [f"trim --json --connect=qemu:///x --state-dir=/s --run-dir=/r {words} a b c*"])

    def test_a_name_is_no_option(self) -> None:
        result = self.call("trim", domains=["--gentle"])
        self.assertTrue(result["failed"])
        self.assertEqual(self.calls(), [])

    def test_nothing_could_begin(self) -> None:
        self.answer("report", {"message_type": "error", "error": "no domain 'x'", "exit_status": 1}, 1)
        result = self.call("report_info")
        self.assertEqual((result["failed"], result["msg"], result["rc"]), (True, "no domain 'x'", 1))

    def test_no_json_and_another_version(self) -> None:
        self.answer("report", "", 127)
        self.assertEqual(self.call("report_info")["msg"], "libvirt says something")
        self.answers("report", [], schema_version=2)
        self.assertIn("version 2", self.call("report_info")["msg"])

    def test_a_program_that_is_not_there(self) -> None:
        result = self.call("report_info", program=str(self.directory / "nothing"))
        self.assertTrue(result["failed"])


class Discard(ModuleTest):
    def test_planned_changes_nothing(self) -> None:
        blocked = planned("old", blockers=["managed"], blockers_explained=explained("managed"))
        self.answers("migrate-plan", [planned(), planned("done", changes=0), blocked])
        result = self.call("discard", state="planned", save="/p", diff=True)
        self.assert_changed(result, False)
        self.assertEqual((result["to_change"], result["blocked"]), (["web"], {"old": ["managed"]}))
        self.assertEqual([each["before_header"] for each in result["diff"]], ["web"])
        self.assertIn("--save=/p", self.calls()[0])
        short = self.call("discard", state="planned", full=False)
        self.assertEqual((short["to_change"], "domains" in short), (["web"], False))

    def test_check_mode_applies_and_saves_nothing(self) -> None:
        self.answers("migrate-apply-dry", [planned(), planned("done", changes=0)])
        self.assert_changed(self.call("discard", all=True, check=True), True)
        self.answers("migrate-apply-dry", [planned(changes=0)])
        self.assert_changed(self.call("discard", all=True, check=True), False)
        self.answers("migrate-plan", [planned()])
        self.call("discard", state="planned", save="/p", check=True)
        self.assertFalse([call for call in self.calls() if "--save" in call])
        self.assertFalse([call for call in self.calls() if "apply" in call and "--dry-run" not in call])

    def test_check_mode_knows_what_waits(self) -> None:
        self.answers("migrate-apply-dry", [planned(changes=0, power_cycle_pending=True, state="running")])
        self.answers("migrate-status", [migrated(step="defined")])
        self.assert_changed(self.call("discard", all=True, check=True), False)
        self.assert_changed(self.call("discard", all=True, check=True, power_cycle="shutdown"), True)
        self.answers("migrate-status", [migrated(step="starting", status="failed")], 1)
        self.assert_changed(self.call("discard", all=True, check=True), True)
        self.answers("migrate-apply-dry", [planned(state="running")])
        self.assert_changed(self.call("discard", all=True, check=True, power_cycle="when-off"), False)

    def test_applied(self) -> None:
        self.answers("migrate-apply-dry", [planned(), planned("done", changes=0)])
        self.answers("migrate-apply", [migrated(step="defined", changes=1), migrated("done")])
        result = self.call("discard", all=True, diff=True)
        self.assert_changed(result, True)
        self.assertEqual(result["changed_domains"], ["web"])
        self.assertEqual([each["prepared"] for each in result["diff"]], ["-web\n+web unmap\n"])

    def test_applied_once_more(self) -> None:
        for steps, changed in ((("defined", "defined"), False), (("defined", "done"), True), (("starting", "done"), True)):
            with self.subTest(steps=steps):
                self.answers("migrate-status", [migrated(step=steps[0])])
                self.answers("migrate-apply", [migrated(step=steps[1])])
                self.assert_changed(self.call("discard", all=True), changed)

    def test_some_failed(self) -> None:
        failed = migrated("db", status="failed", error="no space left on device")
        self.answers("migrate-apply", [migrated(step="done", changes=1), failed], 3)
        result = self.call("discard", all=True)
        self.assertEqual((result["failed"], result["changed"], result["rc"]), (True, True, 3))
        self.assertEqual(result["msg"], "some-failed: db: no space left on device")
        self.assertEqual(result["changed_domains"], ["web"])

    def test_a_closed_window_is_no_failure(self) -> None:
        late = migrated("db", status="skipped", reasons=["outside-window"])
        self.answers("migrate-apply", [migrated(step="done", changes=1), late], 3)
        result = self.call("discard", all=True, window="22:00-05:00")
        self.assert_changed(result, True)
        self.assertEqual((result["not_begun"], result["changed_domains"]), (["db"], ["web"]))
        self.answers("migrate-apply", [migrated(status="failed", error="x"), late], 3)
        self.assertTrue(self.call("discard", all=True, window="22:00-05:00")["failed"])

    def test_discards_that_do_not_arrive_fail(self) -> None:
        bad = {**migrated(step="done", changes=1), "reasons_explained": explained("discard-not-proved")}
        self.answers("migrate-apply", [bad], 4)
        result = self.call("discard", all=True)
        self.assertEqual(result["msg"], "nothing-freed: web: the sentence of discard-not-proved")

    def test_rolled_back(self) -> None:
        self.answers("migrate-status", [migrated(step="done"), migrated("db", "rolled-back", status="failed")], 1)
        check = self.call("discard", state="rolled_back", all=True, check=True)
        self.assert_changed(check, True)
        self.assertEqual(check["to_change"], ["web"])
        self.answers("migrate-rollback", [migrated(step="rolled-back", since="t2"), migrated("db", "rolled-back")])
        result = self.call("discard", state="rolled_back", all=True)
        self.assert_changed(result, True)
        self.assertEqual(result["changed_domains"], ["web"])
        self.assertEqual(result["diff"][0]["after"], "migration: rolled-back\n")
        self.answers("migrate-status", [migrated(step="rolled-back", since="t2"), migrated("db", "rolled-back")], 1)
        self.assert_changed(self.call("discard", state="rolled_back", all=True), False)
        self.assert_changed(self.call("discard", state="rolled_back", all=True, check=True), False)

    def test_verified(self) -> None:
        self.answers("migrate-status", [migrated(step="done")])
        self.answers("migrate-verify", [migrated(step="done")])
        self.assert_changed(self.call("discard", state="verified"), False)
        self.assert_changed(self.call("discard", state="verified", check=True), False)

    def test_says_where(self) -> None:
        for state in ("applied", "rolled_back"):
            self.assertTrue(self.call("discard", state=state)["failed"])
        self.assertEqual(self.calls(), [])


class Trim(ModuleTest):
    def test_changed_is_what_the_host_measured(self) -> None:
        for freed, guest, changed in ((5 * MIB, 5 * MIB, True), (0, 5 * MIB, False), (None, 5 * MIB, True), (None, 0, False), (-MIB, MIB, False)):
            with self.subTest(freed=freed, guest=guest):
                self.answers("trim", [trimmed(freed=freed, guest=guest)], total={"freed_bytes": freed or 0, "trimmed_bytes": guest})
                self.assert_changed(self.call("trim"), changed)
        self.answers("trim", [trimmed(freed=MIB)], total={"freed_bytes": MIB, "trimmed_bytes": MIB})
        diff = self.call("trim", diff=True)["diff"]
        self.assertEqual(diff["before"], f"web/vda: {10 * MIB} bytes allocated\n")
        self.assertEqual(diff["after"], f"web/vda: {9 * MIB} bytes allocated\n")

    def test_nothing_freed(self) -> None:
        domains = [trimmed(guest=100 * MIB, disk_reasons=explained("discard-ignored"))]
        self.answers("trim", domains, 4, total={"freed_bytes": 0, "trimmed_bytes": 100 * MIB})
        warned = self.call("trim")
        self.assert_changed(warned, False)
        self.assertIn("discard-ignored", warned["warnings"][0])
        failed = self.call("trim", nothing_freed="fail")
        self.assertEqual((failed["failed"], failed["msg"]), (True, "nothing-freed: web: the sentence of discard-ignored"))
        self.assertNotIn("warnings", self.call("trim", nothing_freed="ignore"))

    def test_check_mode(self) -> None:
        for expected, action, changed in ((100 * MIB, "trim", True), (MIB, "trim", False), (None, "trim", True), (None, "skip", False)):
            with self.subTest(expected=expected, action=action):
                self.answers("trim-dry", [domain(action=action, expected_bytes=expected, reasons_explained=[])])
                self.assert_changed(self.call("trim", check=True), changed)
        self.assertTrue(all("--dry-run" in call for call in self.calls()))

    def test_refused(self) -> None:
        off = {**trimmed(status="skipped"), "reasons_explained": explained("not-running")}
        self.answers("trim", [off], 5, total={"freed_bytes": 0, "trimmed_bytes": 0})
        self.assertEqual(self.call("trim", domains=["web"])["msg"], "refused: web: the sentence of not-running")


class SparsifyAndPunch(ModuleTest):
    def test_sparsify(self) -> None:
        for given, changed in ((MIB, True), (0, False)):
            disk = {
                "target": "vda", "allocation_before_bytes": 9 * MIB, "allocation_after_bytes": 9 * MIB - given,
                "reclaimable_bytes": given, "given_back_bytes": given,
            }
            target = {"name": "web", "status": "done", "reasons_explained": [], "disks": [disk]}
            self.answer("sparsify", {"targets": [target], "total": {}})
            self.assert_changed(self.call("sparsify", targets=["web"]), changed)
            del disk["given_back_bytes"], disk["allocation_after_bytes"]
            self.answer("sparsify-dry", {"targets": [target], "total": {}})
            result = self.call("sparsify", all_off=True, check=True, diff=True)
            self.assert_changed(result, changed)
            self.assertEqual(bool(result["diff"]["after"]), changed)

    def test_punch(self) -> None:
        for punched, changed in ((MIB, True), (0, False)):
            file = {"path": "/b/x", "status": "done", "reasons_explained": [], "zero_bytes": punched, "punched_bytes": punched}
            total = {"zero_bytes": punched, "punched_bytes": punched}
            self.answer("punch", {"files": [file], "total": total})
            result = self.call("punch", paths=["/b"], recursive=True, diff=True)
            self.assert_changed(result, changed)
            self.assertEqual(result["diff"]["after"], f"/b/x: {MIB} bytes punched\n" if changed else "")
            self.answer("punch-dry", {"files": [{**file, "punched_bytes": 0}], "total": {**total, "punched_bytes": 0}})
            result = self.call("punch", paths=["/b"], recursive=True, check=True)
            self.assert_changed(result, changed)
            self.assertEqual(len(result["files"]), 1 if changed else 0)


class ReportInfo(ModuleTest):
    def setUp(self) -> None:
        super().setUp()
        row = importlib.import_module(f"{PACKAGE}.modules.report_info").ROW
        self.good = domain(status="done", agent=None, last_trim=None, disks=[{name: None for name in row}])
        self.bad = domain("db", status="failed", error="gone", agent=None, last_trim=None, disks=[])

    def test_rows(self) -> None:
        self.answers("report", [self.good], total={"disks": 1})
        result = self.call("report_info", full=False)
        self.assert_changed(result, False)
        self.assertEqual((len(result["disks"]), result["disks"][0]["domain"]), (1, "web"))
        self.assertNotIn("domains", result)

    def test_some_could_not_be_examined(self) -> None:
        self.answers("report", [self.good, self.bad], 3, total={})
        result = self.call("report_info")
        self.assert_changed(result, False)
        self.assertEqual((result["not_examined"], result["rc"]), (["db"], 3))
        self.assertIn("db: gone", result["warnings"][0])

    def test_check_is_for_the_play_to_judge(self) -> None:
        self.answers("report", [self.good], 2, total={}, check={"level": "CRITICAL", "text": "", "performance_data": ""})
        result = self.call("report_info", warning="10%", critical="20%")
        self.assert_changed(result, False)
        self.assertEqual(result["check"]["level"], "CRITICAL")
        self.assertIn("--check=10%,20%", self.calls()[0])


ROLE_PLAY = """\
- hosts: localhost
  connection: local
  gather_facts: false
  roles:
    - role: virt_reclaim.fleet.host
      vars:
        virt_reclaim_host_packages: []
        virt_reclaim_host_config_dir: "{{ place }}/e t c"
        virt_reclaim_host_state_dir: "{{ place }}/state"
"""


class PolicyOfTheRole(unittest.TestCase):
    """The role host with the program itself: a policy that contradicts another file is not put in its place."""

    def setUp(self) -> None:
        if not host_program_path():
            self.skipTest("virt-reclaim is not built")
        self.place = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.place / "play.yml").write_text(ROLE_PLAY)
        self.drop_ins = self.place / "e t c" / "conf.d"
        self.policy = self.drop_ins / "50-ansible.toml"
        (self.place / "tmp").mkdir()

    def play(self, policy: str) -> subprocess.CompletedProcess[str]:
        variables = {
            "place": str(self.place), "virt_reclaim_host_policy": policy, "virt_reclaim_host_program": str(host_program_path()),
        }
        environment = {
            **os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_HOME": str(self.place / "home"),
            "TMPDIR": str(self.place / "tmp"), "ANSIBLE_LOCALHOST_WARNING": "0",
        }
        done = subprocess.run(
            ["ansible-playbook", self.place / "play.yml", "-e", json.dumps(variables)], env=environment, cwd=self.place,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=90,
        )
        self.assertEqual(list((self.place / "tmp").glob("tmp.*")), [], "what the check made is gone")
        return done

    def test_the_whole_counts(self) -> None:
        policy = "[[backups]]\ndirectory = '/srv/backup'\n"
        # Nothing else is there yet; then once more over itself, beside others.
        done = self.play(policy)
        self.assertEqual((done.returncode, self.policy.read_text()), (0, policy), done.stdout + done.stderr)
        (self.drop_ins / "10-out.toml").symlink_to("/dev/null")
        (self.drop_ins / "20-here.toml").symlink_to("../here")
        (self.drop_ins.parent / "here").write_text("[defaults]\ngentle = true\n")
        new = policy + "live = true\n"
        done = self.play(new)
        self.assertEqual((done.returncode, self.policy.read_text()), (0, new), done.stdout + done.stderr)
        (self.drop_ins.parent / "config.toml").write_text("[[backups]]\ndirectory = '/srv/other/'\n")
        done = self.play("[[backups]]\ndirectory = '/srv/other'\n")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("is there already", done.stdout)
        self.assertEqual(self.policy.read_text(), new)


class OneTruth(unittest.TestCase):
    """validate-modules compares none of this."""

    # Options of the modules that are not the program's; of the program that modules do not offer, and why.
    OWN = {"state", "domains", "targets", "paths", "warning", "critical", "full", "nothing_freed", "program"}

    def test_documentation_is_the_argument_spec(self) -> None:
        import yaml

        fragment = importlib.import_module(f"{PACKAGE}.doc_fragments.program").ModuleDocFragment.DOCUMENTATION
        for name in MODULES:
            module = importlib.import_module(f"{PACKAGE}.modules.{name}")
            documented = {**yaml.safe_load(fragment)["options"], **yaml.safe_load(module.DOCUMENTATION)["options"]}
            self.assertEqual(set(documented), set(module.SPEC), name)
            for option, spec in module.SPEC.items():
                self.assertTrue(documented[option].get("description"), f"{name}: {option}")
                for key in ("type", "elements", "choices", "default", "required", "aliases"):
                    self.assertEqual(documented[option].get(key), spec.get(key), f"{name}: {option}: {key}")
            yaml.safe_load(module.RETURN)
            yaml.safe_load(module.EXAMPLES)

    def test_options_of_the_roles_are_their_defaults(self) -> None:
        import yaml

        types = {"str": str, "path": str, "bool": bool, "list": list}
        # Made of the others.
        computed = {"virt_reclaim_host_policy_check"}
        for role in ("host", "agent"):
            place = ansiblelib.COLLECTION / "roles" / role
            specs = yaml.safe_load((place / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
            defaults = yaml.safe_load((place / "defaults" / "main.yml").read_text())
            self.assertEqual(set(specs), set(defaults), role)
            for option, spec in specs.items():
                self.assertTrue(spec.get("description"), option)
                self.assertIsInstance(defaults[option], types[spec["type"]], option)
                if option not in computed:
                    self.assertEqual(spec["default"], defaults[option], option)
            used = "".join(path.read_text() for path in (place / "tasks").glob("*.yml"))
            self.assertEqual([option for option in specs if option not in used and option not in computed], [], role)

    def test_options_are_the_programs(self) -> None:
        program = host_program_path()
        if not program:
            self.skipTest("virt-reclaim is not built")
        verbs = {"discard": "migrate apply", "punch": "punch", "report_info": "report", "sparsify": "sparsify", "trim": "trim"}
        whole = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
        for name, verb in verbs.items():
            text = whole + subprocess.run([program, *verb.split(), "--help"], capture_output=True, text=True, check=True).stdout
            module = importlib.import_module(f"{PACKAGE}.modules.{name}")
            for option, spec in module.SPEC.items():
                if option in self.OWN:
                    continue
                word = "--" + (option.removesuffix("s") if spec["type"] == "list" else option).replace("_", "-")
                self.assertRegex(text, rf"(?<![\w-]){word}(?![\w-])", f"{name}: {option}")
            for choice in [choice for option, spec in module.SPEC.items() if option not in self.OWN for choice in spec.get("choices", [])]:
                self.assertIn(choice, text, name)

    def test_statuses_are_the_programs(self) -> None:
        names = importlib.import_module(f"{PACKAGE}.module_utils.program").STATUS_NAMES
        document = (ansiblelib.ROOT / "docs" / "exit-status.md").read_text()
        for status in names:
            self.assertIn(f"\n| {status} |", document)


if __name__ == "__main__":
    ansiblelib.become_ansibles_python()
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    with tempfile.TemporaryDirectory(prefix="vr-ansible-") as place:
        COLLECTIONS = ansiblelib.collections_path(Path(place))
        sys.path.insert(0, str(COLLECTIONS))
        main()
