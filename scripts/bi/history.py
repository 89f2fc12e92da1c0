"""A known history, fetched by the program itself, and what it must have become.

    history.py SIM_URL TRUTH -- COMMAND…

Moves the stand-in for Microsoft from day to day, runs COMMAND (`m365-ledger once …`) on each, and writes to TRUTH what the
stand-in served: the figures that are known today, those that were known before, and how often they were corrected.
"""

import json
import subprocess
import sys
import urllib.request
from datetime import date, datetime, timedelta, timezone

PERIODS = {"D7": 7, "D30": 30, "D90": 90, "D180": 180}
COLUMNS = ["office_365", "exchange", "onedrive", "sharepoint", "skype_for_business", "yammer", "teams"]
# How many days before the newest refresh the program runs. The first outage is longer than Microsoft's 180 days and leaves
# a hole; at the end it runs day by day.
RUNS = [300, 30, *range(9, -1, -1)]


def ask(sim: str, method: str, lever: str):
    request = urllib.request.Request(f"{sim}/_sim/{lever}", method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def current(bodies: dict, until: date) -> dict:
    """Of each day the newest refresh, and of that the longest period, as `day -> figures`."""
    days = {}
    for refresh, _, rows in sorted((*key, rows) for key, rows in bodies.items() if key[0] <= until):
        days.update(rows)
    return days


def main() -> None:
    sim, truth, separator, *command = sys.argv[1:]
    assert separator == "--" and command, __doc__
    newest = datetime.now(timezone.utc).date() - timedelta(days=2)
    tenants = [tenant["id"] for tenant in ask(sim, "GET", "state")["tenants"]]
    bodies = {tenant: {} for tenant in tenants}

    def fetch(refresh: date) -> None:
        for tenant in tenants:
            for period, length in PERIODS.items():
                rows = ask(sim, "GET", f"rows?tenant={tenant}&period={period}")
                bodies[tenant][refresh, length] = {day: dict(zip(COLUMNS, figures)) for day, figures in rows}
        subprocess.run(command, check=True)

    for before in RUNS:
        refresh = newest - timedelta(days=before)
        ask(sim, "POST", f"refresh?date={refresh}")
        fetch(refresh)
    # The newest refresh once more, with other figures for the first tenant.
    ask(sim, "POST", f"reissue?tenant={tenants[0]}")
    fetch(newest)

    then = newest - timedelta(days=5)
    with open(truth, "w", encoding="utf-8") as file:
        json.dump(
            {
                "newest": str(newest),
                "then": str(then),
                "now": {tenant: current(bodies[tenant], newest) for tenant in tenants},
                "known_then": {tenant: current(bodies[tenant], then) for tenant in tenants},
            },
            file,
        )


main()
