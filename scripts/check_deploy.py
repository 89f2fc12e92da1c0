"""What deploy/ says must fit the program and itself. Called by check-deploy.sh, which has installed what is imported.

    check_deploy.py check    says what is wrong
    check_deploy.py write    renews the copies of deploy/prometheus/rules.yml
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import yaml

DEPLOY = Path("deploy")
KUBERNETES = DEPLOY / "kubernetes"
CHART = DEPLOY / "helm/m365-ledger"
RULES = DEPLOY / "prometheus/rules.yml"
RULE_COPY = CHART / "files/rules.yml"
RULE_RESOURCE = KUBERNETES / "components/monitoring/prometheusrule.yaml"
# What Kubernetes itself does not know: looked at here only.
FOREIGN = ("monitoring.coreos.com/", "kustomize.config.k8s.io/")
KUBERNETES_VERSION = "1.31.0"

faults = []


def expect(condition, text):
    if not condition:
        faults.append(text)


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


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


def check_monitoring():
    metrics = exported_metrics()
    classes, human = error_classes()
    groups = documents(RULES)[0]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    runbook = Path("docs/runbook.md").read_text()
    headings = {heading.strip("` ").lower() for heading in re.findall(r"^#+ (.*)$", runbook, re.M)}
    tested = Path("deploy/prometheus/rules_test.yml").read_text()

    for rule in rules:
        name = rule["alert"]
        expect(name.lower() in headings, f"docs/runbook.md has no section on {name}")
        expect(rule["annotations"]["runbook_url"].endswith(f"#{name.lower()}"), f"{name}: its link goes elsewhere")
        expect(rule["labels"]["severity"] in ("page", "page-in-hours", "ticket"), f"{name}: which severity is that?")
        cases = re.findall(rf"alertname: {name}\n\s+exp_alerts:( \[\])?", tested)
        expect("" in cases and " []" in cases, f"{name} is not tested both ways")
        for listed in re.findall(r'error_class=~"([^"]*)"', rule["expr"]):
            expect(set(listed.split("|")) == human, f"{name}: the classes that need a person are {sorted(human)}")

    for board in [*DEPLOY.glob("grafana/*.json")]:
        text = board.read_text()
        panels = json.loads(text)["panels"]
        ids = [panel["id"] for panel in panels]
        expect(len(ids) == len(set(ids)), f"{board}: two panels have one id")
        expect(all(panel["targets"] for panel in panels), f"{board}: a panel shows nothing")
        used = set(re.findall(r"\bm365_ledger_[a-z0-9_]+", text))
        expect(used <= metrics, f"{board} names metrics that are not exported: {sorted(used - metrics)}")
    for path in (RULES, Path("deploy/prometheus/rules_test.yml"), Path("docs/operations.md"), Path("docs/runbook.md")):
        used = set(re.findall(r"\bm365_ledger_[a-z0-9_]+", path.read_text()))
        # A login of that name.
        used -= {"m365_ledger_owner", "m365_ledger_writer"}
        expect(used <= metrics, f"{path} names metrics that are not exported: {sorted(used - metrics)}")

    trouble = Path("docs/troubleshooting.md").read_text()
    for name in classes:
        expect(f"### `{name}`" in trouble, f"docs/troubleshooting.md has no section on {name}")
        expect(f"#{name})" in runbook, f"docs/runbook.md does not lead to {name}")
    expect(RULE_COPY.read_text() == RULES.read_text(), f"{RULE_COPY} is out of date: scripts/check-deploy.sh write")
    expect(RULE_RESOURCE.read_text() == rule_resource(), f"{RULE_RESOURCE} is out of date: scripts/check-deploy.sh write")
    return f"{len(rules)} alerts, {len(metrics)} series known"


def rule_resource():
    head = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "m365-ledger", "labels": {"app.kubernetes.io/name": "m365-ledger"}},
        "spec": documents(RULES)[0],
    }
    text = yaml.safe_dump(head, sort_keys=False, width=1000, allow_unicode=True)
    return "# Made from deploy/prometheus/rules.yml by scripts/check-deploy.sh write.\n" + text


def check_restricted(where, pod):
    """The restricted Pod Security Standard, and a little more."""
    context = pod.get("securityContext", {})
    expect(context.get("runAsNonRoot") is True, f"{where}: runAsNonRoot")
    expect(context.get("seccompProfile", {}).get("type") == "RuntimeDefault", f"{where}: seccompProfile")
    expect(pod.get("automountServiceAccountToken") is False, f"{where}: automountServiceAccountToken")
    expect(pod.get("terminationGracePeriodSeconds", 0) >= 30, f"{where}: too short a grace")
    for forbidden in ("hostNetwork", "hostPID", "hostIPC"):
        expect(not pod.get(forbidden), f"{where}: {forbidden}")
    for volume in pod.get("volumes", []):
        kinds = set(volume) - {"name"}
        expect(kinds <= {"secret", "configMap", "emptyDir", "projected"}, f"{where}: volume of kind {kinds}")
    for container in pod["containers"]:
        own = container.get("securityContext", {})
        expect(own.get("allowPrivilegeEscalation") is False, f"{where}: allowPrivilegeEscalation")
        expect(own.get("readOnlyRootFilesystem") is True, f"{where}: readOnlyRootFilesystem")
        expect(own.get("capabilities") == {"drop": ["ALL"]}, f"{where}: capabilities")
        expect("memory" in container["resources"]["limits"], f"{where}: no limit of memory")


def check_kubernetes():
    files = []
    for path in sorted(KUBERNETES.rglob("*.yaml")):
        for document in documents(path):
            api = document["apiVersion"]
            if path.name == "kustomization.yaml":
                listed = document.get("resources", []) + document.get("components", [])
                for entry in listed:
                    expect((path.parent / entry).exists(), f"{path}: there is no {entry}")
                present = {other.name for other in path.parent.glob("*.yaml")} - {path.name}
                expect(present <= set(listed), f"{path} leaves out {sorted(present - set(listed))}")
            elif not api.startswith(FOREIGN):
                files.append(path)
            template = document.get("spec", {}).get("jobTemplate", document).get("spec", {}).get("template")
            if template:
                check_restricted(path, template["spec"])
                for container in template["spec"]["containers"]:
                    check_settings(path, [entry["name"] for entry in container["env"]])
            if document["kind"] == "ConfigMap":
                check_settings(path, document["data"])
            if document["kind"] == "CronJob":
                expect(document["spec"]["concurrencyPolicy"] == "Forbid", f"{path}: concurrencyPolicy")
                expect(document["spec"].get("startingDeadlineSeconds"), f"{path}: startingDeadlineSeconds")
    for same in ("serviceaccount.yaml", "config.yaml"):
        one, other = KUBERNETES / "base" / same, KUBERNETES / "cronjob" / same
        expect(one.read_text() == other.read_text(), f"{one} and {other} differ")
    tool = Path(sys.executable).parent / "kubernetes-validate"
    command = [tool, "--strict", "--version", KUBERNETES_VERSION, *sorted(set(files))]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    expect(ran.returncode == 0, f"kubernetes-validate:\n{ran.stdout}{ran.stderr}")
    return f"{len(set(files))} manifests valid for Kubernetes {KUBERNETES_VERSION}"


def check_settings(where, names):
    known = Path("config/default.toml").read_text()
    for name in names:
        if name.startswith("M365_LEDGER__"):
            key = name.split("__")[-1].lower()
            expect(re.search(rf"^#? ?{key} =", known, re.M), f"{where}: {name} is no setting")


def check_chart():
    values = documents(CHART / "values.yaml")[0]
    schema = json.loads((CHART / "values.schema.json").read_text())
    try:
        jsonschema.Draft7Validator.check_schema(schema)
        jsonschema.validate(values, schema)
    except jsonschema.ValidationError as error:
        faults.append(f"{CHART}/values.yaml: {error.message}")
    expect(set(values) <= set(schema["properties"]), f"{CHART}: values without a schema")
    version = re.search(r'^version = "(.*)"', Path("Cargo.toml").read_text(), re.M).group(1)
    expect(documents(CHART / "Chart.yaml")[0]["appVersion"] == version, f"{CHART}: appVersion is not {version}")
    check_settings(CHART, [f"M365_LEDGER__{name}" for name in values["settings"]])

    templates = {path: path.read_text() for path in sorted(CHART.rglob("templates/*"))}
    text = "\n".join(templates.values())
    paths = set(re.findall(r"\.Values((?:\.[A-Za-z]+)+)", text))
    for path in paths:
        at = values
        for part in path.strip(".").split("."):
            expect(isinstance(at, dict) and part in at, f"{CHART}: a template uses .Values{path}, which has no default")
            at = at.get(part, {}) if isinstance(at, dict) else {}
    for name in values:
        expect(any(path.startswith(f".{name}") for path in paths), f"{CHART}: no template uses {name}")
    defined = set(re.findall(r'define "([^"]+)"', text))
    for name in set(re.findall(r'include "([^"]+)"', text)):
        expect(name in defined, f"{CHART}: {name} is not defined")
    for path, content in templates.items():
        depth = 0
        for word in re.findall(r"{{-?\s*(if|range|with|define|end)\b", content):
            depth += -1 if word == "end" else 1
        expect(depth == 0 and content.count("{{") == content.count("}}"), f"{path}: a block is not closed")
    return f"{len(paths)} values used, all declared"


def main():
    if sys.argv[1:] == ["write"]:
        RULE_COPY.write_text(RULES.read_text())
        RULE_RESOURCE.write_text(rule_resource())
        return
    for check in (check_monitoring, check_kubernetes, check_chart):
        before = len(faults)
        result = check()
        print(f"{check.__name__.removeprefix('check_')}: {result if len(faults) == before else 'FAULTS'}")
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    sys.exit(bool(faults))


main()
