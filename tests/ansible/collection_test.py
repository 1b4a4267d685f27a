"""The collection as its users' tools see it: ansible-test's sanity tests that need no download, of the others what Debian has packages for, by
ansible-test's own settings, ansible-doc, ansible-lint, yamllint, a build that installs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import ansiblelib
from vrtest import main

# The others want a virtual environment filled from PyPI. In place of those: pep8, pylint, validate-modules, yamllint and ansible-doc below, and
# modules_test.py.
SANITY = (
    "action-plugin-docs", "changelog", "compile", "empty-init", "ignores", "line-endings", "no-assert", "no-get-exception",
    "no-illegal-filenames", "no-main-display", "no-smart-quotes", "pslint", "replace-urlopen", "shebang", "shellcheck", "symlinks",
    "use-argspec-type-path", "use-compat-six",
)
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
# Where Ansible's own settings of the tests are, below its Python modules.
SETTINGS = Path("ansible_test/_util/controller/sanity")
VALIDATE = SETTINGS / "validate-modules" / "validate.py"
MOST_COLUMNS = "160"  # as ansible-test has it


class Collection(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        place = cls.enterClassContext(tempfile.TemporaryDirectory(prefix="vr-ansible-"))
        cls.place = Path(place)
        cls.collections = ansiblelib.collections_path(cls.place, copied=True)
        cls.root = cls.collections / "ansible_collections" / "virt_reclaim" / "fleet"
        cls.environment = {
            **os.environ, "ANSIBLE_COLLECTIONS_PATH": str(cls.collections), "ANSIBLE_NOCOLOR": "1", "NO_COLOR": "1", "HOME": place,
            "PYTHONDONTWRITEBYTECODE": "1",
            # ansible-test looks for the Python it is given there.
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin:" + os.environ.get("PATH", ""),
        }

    def run_in(self, directory: Path, *command: str | Path) -> str:
        done = subprocess.run(
            [str(word) for word in command], cwd=directory, env=self.environment, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL, timeout=180,
        )
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")
        return done.stdout

    def test_sanity(self) -> None:
        if not (Path(sys.prefix) / "bin" / "ansible-test").exists() and not Path("/usr/bin/ansible-test").exists():
            self.skipTest("no ansible-test")
        tests = [word for name in SANITY for word in ("--test", name)]
        self.run_in(self.root, "ansible-test", "sanity", "--color", "no", "--python", PYTHON, *tests)

    def own(self, path: Path) -> Path:
        import ansible_test

        return Path(ansible_test.__file__).parents[1] / path

    def sources(self) -> list[Path]:
        found = sorted(path.relative_to(self.root) for path in self.root.rglob("*.py"))
        self.assertGreaterEqual(len(found), 7)
        return found

    def pep8(self, *files: str | Path) -> list[str]:
        """As 'ansible-test sanity --test pep8' calls it."""
        ignored = self.own(SETTINGS / "pep8" / "current-ignore.txt").read_text().split()
        done = subprocess.run(
            ["pycodestyle", "--max-line-length", MOST_COLUMNS, "--config", "/dev/null", "--ignore", ",".join(ignored), *files],
            cwd=self.root, env=self.environment, capture_output=True, text=True, check=False, timeout=60,
        )
        self.assertEqual(done.stderr, "")
        return done.stdout.splitlines()

    def test_pep8(self) -> None:
        self.assertEqual(self.pep8(*self.sources()), [])
        bad = self.place / "bad.py"
        bad.write_text(f"x=1\n# {'x ' * int(MOST_COLUMNS)}x\n")
        self.assertEqual([line.split()[1] for line in self.pep8(bad)], ["E225", "E501"])

    def pylint(self, *files: str | Path) -> list[str]:
        """As 'ansible-test sanity --test pylint' calls it, with its settings for a collection and its plugins."""
        plugins = self.own(SETTINGS / "pylint" / "plugins")
        names = sorted(path.stem for path in plugins.glob("[!_]*.py"))
        environment = {
            **self.environment, "PYLINTHOME": str(self.place / "pylint"), "PYTHONPATH": f"{plugins}:{self.collections}",
            "ANSIBLE_TEST_MODULES_PATH": f"{self.root}/plugins/modules/", "ANSIBLE_TEST_MODULE_UTILS_PATH": f"{self.root}/plugins/module_utils/",
        }
        done = subprocess.run(
            ["pylint", "--jobs", "1", "--reports", "n", "--max-line-length", MOST_COLUMNS, "--max-complexity", "20",
             "--rcfile", self.own(SETTINGS / "pylint" / "config" / "collection.cfg"), "--output-format", "parseable", "--score", "n",
             "--load-plugins", ",".join([*names, "pylint.extensions.mccabe"]), *files,
             "--collection-name", "virt_reclaim.fleet"],
            cwd=self.root, env=environment, capture_output=True, text=True, check=False, timeout=180,
        )
        # From 32 on it could not begin.
        self.assertLess(done.returncode, 32, done.stdout + done.stderr)
        return [line for line in done.stdout.splitlines() if not line.startswith("*****")]

    def test_pylint(self) -> None:
        self.assertEqual(self.pylint(*self.sources()), [])
        bad = self.root / "plugins" / "modules" / "bad.py"
        bad.write_text("import sys\nprint('%s %s' % (1,))\nsys.exit(undefined)\n")
        self.addCleanup(bad.unlink)
        said = "\n".join(self.pylint(bad.relative_to(self.root)))
        for name in ("undefined-variable", "too-few-format-args", "ansible-bad-function"):
            self.assertIn(name, said)

    def test_validate_modules(self) -> None:
        """Run as it is, without the environment that ansible-test would make for it."""
        program = self.own(VALIDATE)
        try:
            import voluptuous  # noqa: F401
        except ImportError:
            self.skipTest("no voluptuous")
        done = subprocess.run(
            [sys.executable, program, "--collection", "ansible_collections/virt_reclaim/fleet", "--format", "plain",
             *[path.relative_to(self.root) for path in sorted(self.root.glob("plugins/modules/*.py"))]],
            cwd=self.root, env={**self.environment, "PYTHONPATH": f"{self.collections}:{program.parent}"},
            capture_output=True, text=True, check=False, timeout=180,
        )
        findings = [line for line in done.stdout.splitlines() if line.strip()]
        # As in tests/sanity/ignore-*.txt of the collection.
        self.assertEqual([line for line in findings if "missing-gplv3-license" not in line], [], done.stderr)
        self.assertEqual(len(findings), len(list(self.root.glob("plugins/modules/*.py"))), done.stdout + done.stderr)

    def test_ansible_doc(self) -> None:
        for path in sorted(self.root.glob("plugins/modules/*.py")):
            text = self.run_in(self.place, "ansible-doc", "-t", "module", f"virt_reclaim.fleet.{path.stem}")
            self.assertIn("state_dir", text)  # of the fragment
        for role in ("host", "agent"):
            self.assertIn("OPTIONS", self.run_in(self.place, "ansible-doc", "-t", "role", f"virt_reclaim.fleet.{role}"))

    def test_lint(self) -> None:
        self.run_in(self.root, "yamllint", "--strict", ".")
        self.run_in(self.root, "ansible-lint", "--offline", "--nocolor", "--strict")

    def test_builds_and_installs(self) -> None:
        self.run_in(self.place, "ansible-galaxy", "collection", "build", self.root, "--output-path", self.place)
        (archive,) = self.place.glob("virt_reclaim-fleet-*.tar.gz")
        self.run_in(self.place, "ansible-galaxy", "collection", "install", archive, "-p", self.place / "installed", "--offline")
        installed = self.place / "installed" / "ansible_collections" / "virt_reclaim" / "fleet"
        for path in ("playbooks/migrate.yml", "roles/host/tasks/main.yml", "plugins/module_utils/program.py"):
            self.assertTrue((installed / path).exists(), path)


if __name__ == "__main__":
    ansiblelib.become_ansibles_python()
    ansiblelib.require("ansible-doc", "ansible-galaxy", "ansible-lint", "yamllint", "pycodestyle", "pylint")
    sys.dont_write_bytecode = True
    main()
