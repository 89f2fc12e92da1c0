"""What the checks share: where things are, and what was found wrong."""

import re
import sys
from pathlib import Path

import yaml

DEPLOY = Path("deploy")
KUBERNETES = DEPLOY / "kubernetes"
CHART = DEPLOY / "helm/m365-ledger"
RULES = DEPLOY / "prometheus/rules.yml"
# What is rendered lies beside the tools.
WORK = Path(sys.executable).parent.parent

faults = []


def expect(condition, text):
    if not condition:
        faults.append(text)


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def check_settings(where, names):
    """Environment variables of the program must be settings it knows."""
    known = Path("config/default.toml").read_text()
    for name in names:
        if name.startswith("M365_LEDGER__"):
            key = name.split("__")[-1].lower()
            expect(re.search(rf"^#? ?{key} =", known, re.M), f"{where}: {name} is no setting")
