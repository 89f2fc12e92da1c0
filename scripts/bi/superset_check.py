"""Whether Superset shows what Microsoft served: `bi/superset` imported, asked by its API, and compared with the truth.

    superset_check.py TRUTH READER_URL     with SUPERSET_URL and SUPERSET_PASSWORD in the environment
"""

import io
import json
import os
import re
import sys
import zipfile
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import urlsplit

import requests

SOURCES = Path(__file__).parents[2] / "bi" / "superset"
PRODUCTS = ["office_365", "exchange", "onedrive", "sharepoint", "skype_for_business", "yammer", "teams"]


def archive(uri: str) -> bytes:
    """The folder as the file that Superset imports, with the address of this database."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for source in sorted(SOURCES.rglob("*.yaml")):
            text = source.read_text(encoding="utf-8")
            if source.parent.name == "databases":
                text, changed = re.subn(r"(?m)^sqlalchemy_uri: .*$", f"sqlalchemy_uri: {uri}", text)
                assert changed == 1, source
            packed.writestr(f"superset/{source.relative_to(SOURCES)}", text)
    return file.getvalue()


class Superset:
    def __init__(self, url: str, password: str):
        self.url, self.session = url, requests.Session()
        login = {"username": "admin", "password": password, "provider": "db", "refresh": False}
        token = self.ask("POST", "security/login", json=login)["access_token"]
        self.session.headers["Authorization"] = f"Bearer {token}"

    def answer(self, method: str, path: str, **more) -> requests.Response:
        return self.session.request(method, f"{self.url}/api/v1/{path}", timeout=120, **more)

    def ask(self, method: str, path: str, **more) -> dict:
        answer = self.answer(method, path, **more)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text[:2000]}"
        return answer.json()

    def ids(self, kind: str, name: str) -> dict:
        found = self.ask("GET", f"{kind}/", params={"q": "(page_size:100)"})["result"]
        return {one[name]: one["id"] for one in found}

    def chart(self, dataset: int, **query) -> list:
        """The rows that a chart with this query is drawn from."""
        query = {"row_limit": 50000, "orderby": [], "metrics": [], "filters": [], **query}
        form = {"datasource": {"id": dataset, "type": "table"}, "queries": [query], "result_format": "json"}
        return self.ask("POST", "chart/data", json=form)["result"][0]["data"]

    def sql(self, database: int, sql: str):
        """The rows SQL Lab shows, or its error as text."""
        answer = self.answer("POST", "sqllab/execute/", json={"database_id": database, "sql": sql, "runAsync": False})
        return answer.json()["data"] if answer.ok else answer.text


def day(value) -> str:
    """Superset gives dates as milliseconds, SQL Lab as text."""
    return value[:10] if isinstance(value, str) else str(datetime.fromtimestamp(value / 1000, timezone.utc).date())


def axis(column: str, grain: str) -> dict:
    return {"timeGrain": grain, "columnType": "BASE_AXIS", "expressionType": "SQL", "sqlExpression": column, "label": column}


def figures(truth: dict) -> dict:
    """`(tenant, day, product) -> figure`, blanks included."""
    return {
        (tenant, on, product): figure
        for tenant, days in truth.items()
        for on, row in days.items()
        for product, figure in row.items()
    }


def wide(rows: list) -> dict:
    return {(row["tenant_id"], day(row["report_date"]), product): row[product] for row in rows for product in PRODUCTS}


def mean(values: list):
    held = [value for value in values if value is not None]
    return sum(held) / len(held) if held else None


def same(found: dict, expected: dict, what: str, tolerance: float = 0) -> None:
    assert found.keys() == expected.keys(), f"{what}: {sorted(found.keys() ^ expected.keys())[:5]}"
    for key, value in expected.items():
        is_same = found[key] == value if value is None or found[key] is None else abs(found[key] - value) <= tolerance
        assert is_same, f"{what}, {key}: {found[key]}, not {value}"
    print(f"superset: {what}: {len(expected)} figures are what was served")


def daily(superset: Superset, datasets: dict, now: dict) -> None:
    rows = superset.chart(datasets["active_users_daily"], columns=["tenant_id", "report_date", *PRODUCTS])
    same(wide(rows), now, "active_users_daily")
    rows = superset.chart(
        datasets["active_users_daily_long"],
        columns=[axis("report_date", "P1D"), "tenant_id", "product"],
        metrics=["average_day"],
    )
    found = {(row["tenant_id"], day(row["report_date"]), row["product"]): row["average_day"] for row in rows}
    same(found, now, "active_users_daily_long by day")


def no_sum(superset: Superset, datasets: dict, now: dict) -> None:
    """The shipped metric over months is the average day, with tenants added up, and empty over products."""
    rows = superset.chart(datasets["active_users_daily_long"], columns=["tenant_id", "product"], metrics=["average_day"])
    by_product = {}
    for (tenant, _, product), figure in now.items():
        by_product.setdefault((tenant, product), []).append(figure)
    expected = {key: mean(values) for key, values in by_product.items()}
    same({(row["tenant_id"], row["product"]): row["average_day"] for row in rows}, expected, "the average day", 1e-6)
    over_products = superset.chart(datasets["active_users_daily_long"], columns=[], metrics=["average_day", "best_day"])
    assert over_products == [{"average_day": None, "best_day": None}], over_products
    print("superset: no metric adds days or products up")


def weekly(superset: Superset, datasets: dict, now: dict) -> None:
    rows = superset.chart(
        datasets["active_users_weekly"],
        columns=[axis("week_start", "P1W"), "tenant_id", "product"],
        metrics=["average_day"],
    )
    weeks = {}
    for (tenant, on, product), figure in now.items():
        monday = date.fromisoformat(on) - timedelta(days=date.fromisoformat(on).weekday())
        weeks.setdefault((tenant, str(monday), product), []).append(figure)
    found = {(row["tenant_id"], day(row["week_start"]), row["product"]): row["average_day"] for row in rows}
    # The view rounds to two places.
    same(found, {key: mean(values) for key, values in weeks.items()}, "weekly averages", 0.0050001)


def as_of(superset: Superset, datasets: dict, database: int, then: str, known: dict, now: dict) -> None:
    rows = superset.chart(
        datasets["active_users_as_of"],
        columns=["tenant_id", "report_date", *PRODUCTS],
        filters=[{"col": "as_of", "op": "==", "val": then}],
    )
    same(wide(rows), known, f"as of {then}, as a dataset")
    same(wide(superset.sql(database, f"SELECT * FROM m365_v1.active_users_as_of('{then}')")), known, "as of, in SQL Lab")
    assert any(now[key] != figure for key, figure in known.items()), "nothing was corrected since: this shows nothing"


def refused(superset: Superset, database: int, sql: str, reason: str) -> None:
    error = superset.sql(database, sql)
    assert isinstance(error, str) and re.search(reason, error), f"{sql}: {error}"


def closed(superset: Superset, database: int) -> None:
    refused(superset, database, "SELECT count(*) FROM m365_store.snapshot", "permission denied for schema m365_store")
    writes = ["DELETE FROM m365_v1.tenants", "CREATE TABLE public.mine (n int)", "CREATE TABLE m365_v1.mine (n int)"]
    for write in writes:
        refused(superset, database, write, "DML|mutat|not allowed")
    # Whoever may change the connection can lift Superset's own lock. That of the database stays.
    superset.ask("PUT", f"database/{database}", json={"allow_dml": True})
    for write in writes:
        refused(superset, database, write, "permission denied|read-only transaction")
        # A reader may lift its default, and still has no right to write.
        refused(superset, database, f"SET default_transaction_read_only = off; COMMIT; {write}", "permission denied")
    print(f"superset: {len(writes)} writes and the private schema are refused by Superset and by PostgreSQL")


def main() -> None:
    truth = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    reader = urlsplit(sys.argv[2])
    now, known = figures(truth["now"]), figures(truth["known_then"])
    superset = Superset(os.environ["SUPERSET_URL"], os.environ["SUPERSET_PASSWORD"])
    hidden = f"postgresql+psycopg2://{reader.username}:XXXXXXXXXX@{reader.hostname}:{reader.port}{reader.path}"
    superset.ask(
        "POST",
        "dashboard/import/",
        files={"formData": ("m365-ledger.zip", archive(hidden), "application/zip")},
        data={"overwrite": "true", "passwords": json.dumps({"databases/m365_ledger.yaml": reader.password})},
    )
    database = superset.ids("database", "database_name")["m365-ledger"]
    datasets, charts = superset.ids("dataset", "table_name"), superset.ids("chart", "slice_name")
    assert len(superset.ids("dashboard", "dashboard_title")) == 1
    print(f"superset: bi/superset imported: {len(datasets)} datasets, {len(charts)} charts, 1 dashboard")

    daily(superset, datasets, now)
    no_sum(superset, datasets, now)
    weekly(superset, datasets, now)
    as_of(superset, datasets, database, truth["then"], known, now)
    closed(superset, database)


main()
