"""The metrics, alert rules and dashboard, by Prometheus' own tools: nothing to lint, every alert tested, every query of the
dashboard runs and finds what the program prints. The program is not started: its output is that of the golden tests."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path

from metricslib import (
    DASHBOARD, PROMETHEUS, ROOT, documented_labels, golden, metric_names, need, query_labels, run, sample_labels, used_names
)

BEGIN, STEP, COUNT = 1_700_000_000, 300, 24  # of the samples that the queries are run on


class Names(unittest.TestCase):
    def test_the_source_can_be_read(self) -> None:
        self.assertGreater(len(metric_names()), 20)
        self.assertEqual(used_names(golden("metrics-after-trim")) - metric_names(), set())

    def test_document_rules_and_dashboard_know_the_same_metrics(self) -> None:
        described = used_names((ROOT / "docs/metrics.md").read_text())
        self.assertEqual(metric_names() - described, set(), "not described")
        rules = (PROMETHEUS / "virt-reclaim.rules.yml").read_text()
        tests = (PROMETHEUS / "virt-reclaim.rules.test.yml").read_text()
        for where, used in (("document", described), ("rules", used_names(rules)), ("their tests", used_names(tests)),
                            ("dashboard", used_names(DASHBOARD.read_text()))):
            self.assertEqual(used - metric_names(), set(), f"{where}: no such metric")

    def test_every_alert_is_tested_both_ways(self) -> None:
        alerts = re.findall(r"- alert: (\w+)", (PROMETHEUS / "virt-reclaim.rules.yml").read_text())
        tests = (PROMETHEUS / "virt-reclaim.rules.test.yml").read_text()
        self.assertEqual(len(alerts), len(set(alerts)))
        for alert in alerts:
            self.assertRegex(tests, rf"alertname: {alert}, exp_alerts: \[\]", "silent")
            self.assertRegex(tests, rf"alertname: {alert}\n\s+exp_alerts:\n\s+- exp_labels", "fires")


class Labels(unittest.TestCase):
    """A query that groups by a label nobody has finds something, and shows nothing."""

    # Of whoever scrapes.
    PROMETHEUS_OWN = {"instance", "job"}

    def check(self, where: str, expression: str, named: set[str]) -> None:
        labels = documented_labels()
        known = self.PROMETHEUS_OWN.union(*(labels[name] for name in used_names(expression)))
        self.assertEqual(named - known, set(), f"{where}: no such label in '{expression}'")

    def test_the_document_knows_them_all(self) -> None:
        documented = documented_labels()
        self.assertEqual(set(documented), metric_names())
        for name, labels in sample_labels(golden("metrics-after-trim")).items():
            self.assertEqual(labels, documented[name], name)

    def test_the_dashboard_has_no_others(self) -> None:
        board = json.loads(DASHBOARD.read_text())
        for panel in board["panels"]:
            for target in panel["targets"]:
                legend = set(re.findall(r"\{\{\s*(\w+)\s*\}\}", target.get("legendFormat", "")))
                self.check(panel["title"], target["expr"], query_labels(target["expr"]) | legend)
        variables = [variable["query"] for variable in board["templating"]["list"] if variable["type"] == "query"]
        self.assertTrue(variables)
        for query in variables:
            asked = re.fullmatch(r"label_values\((virt_reclaim_\w+), (\w+)\)", query)
            assert asked is not None, query
            self.check("variable", query, {asked[2]})

    def test_the_rules_have_no_others(self) -> None:
        alerts = (PROMETHEUS / "virt-reclaim.rules.yml").read_text().split("- alert: ")[1:]
        for alert in alerts:
            name, expression = alert.split("\n", 1)[0], re.split(r"\n\s+(?:for|labels|annotations):", alert)[0]
            if used_names(expression):
                told = set(re.findall(r"\$labels\.(\w+)", alert))
                self.check(name, expression, query_labels(expression) | told)

    def test_a_wrong_one_would_be_seen(self) -> None:
        self.assertEqual(query_labels('sum by (a, b) (x{c=~"1", d!="2"}) / on(e) group_left(f) y'), set("abcdef"))
        with self.assertRaises(AssertionError):
            self.check("sample", "virt_reclaim_disk_info", {"pool"})


class Promtool(unittest.TestCase):
    def test_metrics_are_clean(self) -> None:
        for name in ("metrics", "metrics-after-trim"):
            checked = run("promtool", "check", "metrics", text=golden(name))
            self.assertEqual((checked.returncode, checked.stdout + checked.stderr), (0, ""), name)

    def test_rules(self) -> None:
        rules = str(PROMETHEUS / "virt-reclaim.rules.yml")
        self.assertEqual(run("promtool", "check", "rules", rules).returncode, 0)
        tested = run("promtool", "test", "rules", str(PROMETHEUS / "virt-reclaim.rules.test.yml"))
        self.assertEqual(tested.returncode, 0, tested.stdout + tested.stderr)


def samples() -> str:
    """The golden ones, and one of each metric that the golden world has none of: nothing there is remembered for two days."""
    text = golden("metrics-after-trim")
    for name in sorted(metric_names() - set(sample_labels(text))):
        labels = ",".join(f'{label}="x"' for label in sorted(documented_labels()[name]))
        text += f"# HELP {name} Made up.\n# TYPE {name} gauge\n{name}{{{labels}}} 1\n"
    return text


def open_metrics() -> str:
    """The samples at every step, as `promtool tsdb create-blocks-from openmetrics` reads them."""
    text = ""
    for block in re.split(r"(?=^# HELP )", samples(), flags=re.M):
        lines = block.splitlines()
        text += "".join(line + "\n" for line in lines if line.startswith("#"))
        for sample in (line for line in lines if line and not line.startswith("#")):
            name, value = sample.rsplit(" ", 1)
            name = re.sub(r"^(\w+)\{", r'\1{instance="hv1",', name) if "{" in name else name + '{instance="hv1"}'
            text += "".join(f"{name} {value} {BEGIN + i * STEP}\n" for i in range(COUNT))
    return text + "# EOF\n"


def queries() -> list[tuple[str, str]]:
    """(title, expression) of all panels, variables filled in."""
    found = []
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            found.append((panel["title"], target["expr"].replace("$instance", ".*")))
    return found


class Dashboard(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        place = Path(directory.name)
        (place / "in.om").write_text(open_metrics())
        (place / "prometheus.yml").write_text("scrape_configs: []\n")
        made = run("promtool", "tsdb", "create-blocks-from", "openmetrics", str(place / "in.om"), str(place / "data"))
        if made.returncode != 0:
            raise AssertionError(made.stdout + made.stderr)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            cls.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with (place / "log").open("wb") as log:
            cls.server = subprocess.Popen(
                ["prometheus", f"--config.file={place}/prometheus.yml", f"--storage.tsdb.path={place}/data",
                 "--storage.tsdb.retention.time=100y", f"--web.listen-address={cls.url[7:]}"],
                stdout=log, stderr=log,
            )
        cls.addClassCleanup(cls.server.wait)
        cls.addClassCleanup(cls.server.kill)
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{cls.url}/-/ready", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                if cls.server.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((place / "log").read_text()) from None
                time.sleep(0.1)

    def test_is_a_dashboard(self) -> None:
        board = json.loads(DASHBOARD.read_text())
        self.assertEqual(board["uid"], "virt-reclaim")
        ids = [panel["id"] for panel in board["panels"]]
        self.assertEqual(len(ids), len(set(ids)))
        for panel in board["panels"]:
            place = panel["gridPos"]
            self.assertLessEqual(place["x"] + place["w"], 24, panel["title"])
            self.assertTrue(panel["targets"], panel["title"])
            self.assertEqual(panel["datasource"]["uid"], "${datasource}", panel["title"])

    def test_every_query_runs_and_finds_something(self) -> None:
        end = str(BEGIN + (COUNT - 1) * STEP)
        for title, expression in queries():
            with self.subTest(title):
                asked = run("promtool", "query", "instant", f"--time={end}", self.url, expression)
                self.assertEqual(asked.returncode, 0, asked.stdout + asked.stderr)
                self.assertNotEqual(asked.stdout.strip(), "")

    def test_a_query_of_nothing_would_be_seen(self) -> None:
        asked = run("promtool", "query", "instant", f"--time={BEGIN}", self.url, "sum(virt_reclaim_no_such)")
        self.assertEqual(asked.stdout.strip(), "")
        self.assertNotEqual(run("promtool", "query", "instant", self.url, "sum(").returncode, 0)


if __name__ == "__main__":
    need("promtool", "prometheus")
    unittest.main(verbosity=2)
