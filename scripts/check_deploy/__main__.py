"""What deploy/ and the documentation say must fit the program and each other. Called by check-deploy.sh, which has
installed what is imported and run.

    check_deploy check RENDERERS…    says what is wrong; RENDERERS are folders that hold helm/helm and kubectl/kubectl,
                                     and without one nothing is rendered
    check_deploy write               renews the copies of deploy/prometheus/rules.yml
"""

import sys
from pathlib import Path

import chart
import compose
import documentation
import kubernetes
import monitoring
from common import faults


def main():
    if sys.argv[1] == "write":
        monitoring.write_copies()
        return
    renderers = [Path(folder).resolve() for folder in sys.argv[2:]]
    checks = {
        "monitoring": monitoring.check,
        "documentation": documentation.check,
        "compose": compose.check,
        "kubernetes": lambda: kubernetes.check(renderers),
        "chart": lambda: chart.check(renderers),
    }
    for name, check in checks.items():
        before = len(faults)
        result = check()
        print(f"{name}: {result if len(faults) == before else 'FAULTS'}")
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    sys.exit(bool(faults))


main()
