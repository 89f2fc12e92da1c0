"""The Helm chart: its values, and what it renders from those of its folder ci/."""

import json
import re
import shutil
from pathlib import Path

import jsonschema
import yaml

import render
from common import CHART, RULES, WORK, check_settings, documents, expect, faults

FOLDER = WORK / "helm"
# Mistakes that must not get as far as a cluster.
REFUSED = {
    "an unknown value": {"replica": 2},
    "a number as text": {"replicas": "two"},
    "half a digest": {"image": {"repository": "x", "digest": "sha256:1234"}},
    "a setting without its section": {"settings": {"ID": "x"}},
    "a secret in plain sight": {"settings": {"TENANT__CLIENT_SECRET": "x"}},
    "a certificate that is nowhere": {"auth": "certificate"},
    "a password in plain sight": {"settings": {"DATABASE__URL": "postgres://a:b@c/d"}},
}


def check(renderers):
    values = documents(CHART / "values.yaml")[0]
    schema = json.loads((CHART / "values.schema.json").read_text())
    try:
        jsonschema.Draft7Validator.check_schema(schema)
        jsonschema.validate(values, schema)
    except jsonschema.ValidationError as error:
        faults.append(f"{CHART}/values.yaml: {error.message}")
    expect(set(values) | {"global"} == set(schema["properties"]), f"{CHART}: values and schema differ")
    version = re.search(r'^version = "(.*)"', Path("Cargo.toml").read_text(), re.M).group(1)
    expect(documents(CHART / "Chart.yaml")[0]["appVersion"] == version, f"{CHART}: appVersion is not {version}")
    expect(f"\nARG VERSION={version}\n" in Path("Dockerfile").read_text(), f"Dockerfile: its VERSION is not {version}")
    check_settings(CHART, [f"M365_LEDGER__{name}" for name in values["settings"]])
    paths = check_templates(values)
    rendered = check_rendered(renderers)
    return f"{paths} values used, {rendered}"


def check_templates(values):
    """Every value that a template uses has a default, and every default is used."""
    text = "\n".join(path.read_text() for path in sorted(CHART.rglob("templates/*")))
    paths = set(re.findall(r"\.Values((?:\.[A-Za-z_]+)+)", text))
    for path in paths:
        at = values
        for part in path.strip(".").split("."):
            expect(isinstance(at, dict) and part in at, f"{CHART}: a template uses .Values{path}, which has no default")
            at = at.get(part, {}) if isinstance(at, dict) else {}
    for name in values:
        expect(any(path.startswith(f".{name}") for path in paths), f"{CHART}: no template uses {name}")
    return len(paths)


def check_rendered(renderers):
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    samples = [None, *sorted((CHART / "ci").glob("*-values.yaml"))]
    expect(len(samples) > 2, f"{CHART}/ci holds no values")
    for sample in samples:
        where = f"helm with {sample.stem if sample else 'defaults'}"
        chosen = ["--values", sample] if sample else []
        outcomes = []
        for renderer in renderers:
            helm = renderer / "helm/helm"
            code, output, error = render.run([helm, "lint", "--strict", "--quiet", CHART, *chosen])
            expect(code == 0, f"{where}: helm lint: {output}{error}")
            outcomes.append(render.manifests(where, [helm, "template", "release", CHART, "--namespace", "somewhere", *chosen]))
        if outcomes:
            expect(all(outcome == outcomes[0] for outcome in outcomes), f"{where}: the versions of Helm differ")
            render.check_all(where, outcomes[0], FOLDER)
            chosen = documents(sample)[0] if sample else {}
            check_monitoring(where, chosen, outcomes[0])
            check_sign_in(where, chosen, outcomes[0])
    for what, values in REFUSED.items():
        path = FOLDER / "refused.yaml"
        path.write_text(yaml.safe_dump(values))
        for renderer in renderers:
            code, _, error = render.run([renderer / "helm/helm", "template", "release", CHART, "--values", path])
            expect(code != 0 and "schema" in error, f"helm takes {what}: {error}")
    return f"{len(samples)} samples rendered, {len(REFUSED)} mistakes refused" if renderers else "NOT RENDERED"


def check_monitoring(where, values, rendered):
    wanted = values.get("prometheusRule", {}).get("enabled", False)
    rules = [document for document in rendered if document["kind"] == "PrometheusRule"]
    expect(len(rules) == int(wanted), f"{where}: {len(rules)} PrometheusRules")
    for rule in rules:
        expect(rule["spec"] == documents(RULES)[0], f"{where}: the alert rules are not those of {RULES}")


def check_sign_in(where, values, rendered):
    """What signs in is there, and nothing else that could."""
    by_kind = {document["kind"]: document for document in rendered}
    template = by_kind["Deployment"]["spec"]["template"]
    environment = {entry["name"] for entry in template["spec"]["containers"][0]["env"]}
    pages = {"M365_LEDGER__HTTP__PASSWORD_FILE", "M365_LEDGER__HTTP__TOKEN_FILE"}
    protected = values.get("protectPages", False)
    expect(environment & pages == (pages if protected else set()), f"{where}: the pages are open or closed against its values")
    scraped = [document["spec"]["endpoints"][0] for document in rendered if document["kind"] == "ServiceMonitor"]
    expect(all(protected == ("authorization" in endpoint) for endpoint in scraped), f"{where}: the monitor's token")
    environment = {name.removeprefix("M365_LEDGER__TENANT__") for name in environment - pages}
    wanted = {
        "client-secret": {"CLIENT_SECRET_FILE"},
        "certificate": {"CERTIFICATE_FILE", "CERTIFICATE_KEY_FILE"},
        "workload-identity": set(),
    }[values.get("auth", "client-secret")]
    expect(environment == wanted | {"AUTH", "DATABASE_URL_FILE"}, f"{where}: it signs in with {sorted(environment)}")
    federated = values.get("auth") == "workload-identity"
    label = template["metadata"]["labels"].get("azure.workload.identity/use") == "true"
    annotation = by_kind["ServiceAccount"]["metadata"].get("annotations", {}).get("azure.workload.identity/client-id")
    expect(label == federated == bool(annotation), f"{where}: label {label}, annotation {annotation}")
