"""Alert rules, dashboards and the runbook against the metrics and error classes of the program."""

import json
import re
from pathlib import Path

import yaml

from common import CHART, DEPLOY, KUBERNETES, RULES, documents, expect

RULE_COPY = CHART / "files/rules.yml"
RULE_RESOURCE = KUBERNETES / "components/monitoring/prometheusrule.yaml"


def exported_metrics():
    """The names the program exports, and the series a histogram makes of its name."""
    # The program's code, without its tests, which also name what must not be there.
    sources = [path.read_text().split("#[cfg(test)]\nmod tests")[0] for path in Path("src/telemetry").glob("*.rs")]
    names = set(re.findall(r'"(m365_ledger_[a-z0-9_]+)"', "\n".join(sources)))
    expect(len(names) > 15, f"only {len(names)} metrics found in src/telemetry: has the code moved?")
    histograms = {name for name in names if name.endswith("_duration_seconds")}
    return names | {name + suffix for name in histograms for suffix in ("_bucket", "_sum", "_count")}


def error_classes():
    """Every error class, and those that need a person."""
    source = Path("src/outcome.rs").read_text()
    names = dict(re.findall(r'Self::(\w+) => "(\w+)"', source.split("impl ErrorClass")[1].split("pub const fn retry")[0]))
    human = re.search(r"((?:\s*\|?\s*Self::\w+)+)\s*=>\s*Retry::NeedsHuman", source).group(1)
    return set(names.values()), {names[name] for name in re.findall(r"Self::(\w+)", human)}


def check():
    metrics = exported_metrics()
    rules = [rule for group in documents(RULES)[0]["groups"] for rule in group["rules"]]
    classes, human = error_classes()
    check_rules(rules, human)
    check_names(metrics)
    check_classes(classes)
    expect(RULE_COPY.read_text() == RULES.read_text(), f"{RULE_COPY} is out of date: scripts/check-deploy.sh write")
    expect(RULE_RESOURCE.read_text() == rule_resource(), f"{RULE_RESOURCE} is out of date: scripts/check-deploy.sh write")
    return f"{len(rules)} alerts, {len(metrics)} series, {len(classes)} error classes"


def check_rules(rules, human):
    """Each alert is documented, tested both ways, and leads to its section of the runbook."""
    runbook = Path("docs/runbook.md").read_text()
    headings = {heading.strip("` ").lower() for heading in re.findall(r"^#+ (.*)$", runbook, re.M)}
    table = Path("docs/operations.md").read_text()
    tested = Path("deploy/prometheus/rules_test.yml").read_text()
    for rule in rules:
        name = rule["alert"]
        expect(name.lower() in headings, f"docs/runbook.md has no section on {name}")
        severity = rule["labels"]["severity"]
        expect(severity in ("page", "page-in-hours", "ticket"), f"{name}: which severity is {severity}?")
        expect(re.search(rf"^\| `{name}` \|.*\| {severity} \|$", table, re.M), f"docs/operations.md does not list {name} as {severity}")
        expect(f"### {name}\n\n*{severity}.*" in runbook, f"docs/runbook.md does not call {name} a {severity}")
        expect(rule["annotations"]["runbook_url"].endswith(f"#{name.lower()}"), f"{name}: its link goes elsewhere")
        cases = re.findall(rf"alertname: {name}\n\s+exp_alerts:( \[\])?", tested)
        expect("" in cases and " []" in cases, f"{name} is not tested both ways")
        for listed in re.findall(r'error_class=~"([^"]*)"', rule["expr"]):
            expect(set(listed.split("|")) == human, f"{name}: the classes that need a person are {sorted(human)}")
    known = {rule["alert"].lower() for rule in rules}
    for heading in headings:
        expect(not heading.startswith("m365ledger") or heading in known, f"docs/runbook.md: there is no alert {heading}")


def check_names(metrics):
    """Whatever names a metric names one that is exported; and every metric is documented."""
    for board in DEPLOY.glob("grafana/*.json"):
        text = board.read_text()
        panels = json.loads(text)["panels"]
        ids = [panel["id"] for panel in panels]
        expect(len(ids) == len(set(ids)), f"{board}: two panels have one id")
        expect(all(panel["targets"] for panel in panels), f"{board}: a panel shows nothing")
        expect_exported(board, text, metrics)
    for path in (RULES, Path("deploy/prometheus/rules_test.yml"), *Path("docs").glob("*.md"), Path("README.md")):
        expect_exported(path, path.read_text(), metrics)
    table = Path("docs/operations.md").read_text()
    for name in metrics:
        base = re.sub("_(bucket|sum|count)$", "", name)
        expect(f"| `{base}` " in table, f"docs/operations.md does not explain {base}")


def expect_exported(path, text, metrics):
    # Not a metric: logins, a database and a schema may be called so.
    used = set(re.findall(r"\bm365_ledger_[a-z0-9_]+", text)) - {"m365_ledger_owner", "m365_ledger_writer"}
    expect(used <= metrics, f"{path} names metrics that are not exported: {sorted(used - metrics)}")


def check_classes(classes):
    """Each error class has its section, and the runbook leads there."""
    trouble = Path("docs/troubleshooting.md").read_text()
    runbook = Path("docs/runbook.md").read_text()
    sections = set(re.findall(r"^### `(\w+)`$", trouble, re.M))
    expect(sections == classes, f"docs/troubleshooting.md: sections that differ from the error classes: {sorted(sections ^ classes)}")
    for name in classes:
        expect(f"#{name})" in runbook, f"docs/runbook.md does not lead to {name}")


def rule_resource():
    head = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "m365-ledger", "labels": {"app.kubernetes.io/name": "m365-ledger"}},
        "spec": documents(RULES)[0],
    }
    text = yaml.safe_dump(head, sort_keys=False, width=1000, allow_unicode=True)
    return "# Made from deploy/prometheus/rules.yml by scripts/check-deploy.sh write.\n" + text


def write_copies():
    RULE_COPY.write_text(RULES.read_text())
    RULE_RESOURCE.write_text(rule_resource())
