"""docker-compose.yml, .env.example and what provisions Grafana, against the files they name."""

import re
from pathlib import Path

import yaml

from common import check_settings, documents, expect

PROFILES = {
    "ledger": {"db", "m365-ledger"},
    "demo": {"demo-db", "graph-sim", "demo"},
    "bi": {"reader", "grafana"},
    "monitoring": {"prometheus"},
}


def check():
    text = Path("docker-compose.yml").read_text()
    services = yaml.safe_load(text)["services"]
    secrets = yaml.safe_load(text)["secrets"]
    for profile, wanted in PROFILES.items():
        found = {name for name, service in services.items() if profile in service.get("profiles", [])}
        expect(found == wanted, f"docker-compose.yml: profile {profile} is {sorted(found)}")
    expect(set(services) == set().union(*PROFILES.values()), "docker-compose.yml: a service in no profile")
    for name, service in services.items():
        check_service(name, service, secrets)
    for name, secret in secrets.items():
        path = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", secret["file"])
        expect(Path(path).exists() or path.startswith("./secrets/"), f"docker-compose.yml: secret {name}: there is no {path}")
        if path.startswith("./secrets/"):
            expect(path.removeprefix("./") in text, f"docker-compose.yml: its head does not say how to make {path}")
    check_environment(text)
    check_grafana(services["grafana"])
    return f"{len(services)} services in {len(PROFILES)} profiles"


def check_service(name, service, secrets):
    where = f"docker-compose.yml: {name}"
    expect(service.get("security_opt") == ["no-new-privileges:true"] or name.endswith("db"), f"{where}: new privileges")
    expect("logging" in service and "restart" in service, f"{where}: logging or restart")
    if "m365-ledger" in service["image"]:
        expect(service["user"] == "65532:65532" and service["read_only"] and service["cap_drop"] == ["ALL"], f"{where}: not hardened")
        expect("mem_limit" in service, f"{where}: no limit of memory")
    if service.get("command") == ["run"]:
        expect(service["stop_grace_period"] == "30s", f"{where}: too short a grace")
    expect(set(service.get("secrets", [])) <= set(secrets), f"{where}: unknown secret")
    environment = service.get("environment", {})
    check_settings(where, environment)
    for key, value in environment.items():
        expect(not re.search("PASSWORD$|SECRET$|URL$", key) or "127.0.0.1" in value, f"{where}: {key} is no file")
        if str(value).startswith("/run/secrets/"):
            expect(value.removeprefix("/run/secrets/") in service["secrets"], f"{where}: {key} names a secret it is not given")
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        expect(not source.startswith(".") or Path(source).exists(), f"{where}: there is no {source}")


def check_environment(compose):
    """What the compose file takes from the environment is in .env.example, and the other way round."""
    used = set(re.findall(r"\$\{(\w+)", compose))
    sample = set(re.findall(r"^#? ?(\w+)=", Path(".env.example").read_text(), re.M)) - {"COMPOSE_PROFILES"}
    expect(sample <= used, f".env.example has {sorted(sample - used)}, which nothing reads")
    # The demo's own image is nobody's business.
    expect(used - sample <= {"M365_LEDGER_DEMO_IMAGE"}, f".env.example leaves out {sorted(used - sample)}")


def check_grafana(service):
    """What Grafana is provisioned with exists inside the container, and is given what it asks for."""
    mounts = dict(volume.split(":")[:2] for volume in service["volumes"])
    inside = {target: Path(source) for source, target in mounts.items()}
    sources, folders = [], []
    for target, path in inside.items():
        for file in sorted(path.glob("*.yaml")) if path.is_dir() else [path]:
            if target.startswith("/etc/grafana/provisioning/datasources/"):
                sources += documents(file)[0]["datasources"]
                check_variables(file, service)
            elif target.startswith("/etc/grafana/provisioning/dashboards"):
                folders += [provider["options"]["path"] for provider in documents(file)[0]["providers"]]
    expect({source["type"] for source in sources} == {"prometheus", "grafana-postgresql-datasource"}, "Grafana: its data sources")
    boards = [target for target in inside if target.endswith(".json")]
    expect(len(boards) >= 2, "Grafana is given no dashboards")
    for board in boards:
        expect(str(Path(board).parent) in folders, f"Grafana: no provider looks where {board} is")
    home = service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    expect(home in boards, f"Grafana: its first page {home} is no dashboard")


def check_variables(file, service):
    text = re.sub(r"#.*", "", file.read_text())
    for name in re.findall(r"\$(M365_\w+)", text):
        expect(name in service["environment"], f"{file}: Grafana is not given {name}")
    for secret in re.findall(r"\$__file\{/run/secrets/(\w+)\}", text):
        expect(secret in service["secrets"], f"{file}: Grafana is not given the secret {secret}")
