"""Runs the tools that render manifests, and looks at what a cluster would be handed."""

import subprocess

import yaml

from common import WORK, check_settings, expect

# The oldest that the chart admits, and the newest that the validator knows.
VERSIONS = ("1.25", "1.37")
# What Kubernetes itself does not know: not validated.
FOREIGN = ("monitoring.coreos.com/",)


def run(command):
    """Exit code, what was printed, and what went wrong."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def manifests(where, command):
    """What the command renders, as documents."""
    code, output, error = run(command)
    expect(code == 0, f"{where}: {error.strip()}")
    return [document for document in yaml.safe_load_all(output) if document]


def check_all(where, rendered, folder):
    """Strictly valid, restricted, and consistent in itself."""
    native = [document for document in rendered if not document["apiVersion"].startswith(FOREIGN)]
    expect(native, f"{where}: nothing is rendered")
    path = folder / f"{where.replace('/', '-').replace(' ', '-')}.yaml"
    path.write_text(yaml.safe_dump_all(native))
    for version in VERSIONS:
        code, said = validated(version, path)
        expect(code == 0, f"{where}, Kubernetes {version}: {said}")
    workloads = [(document, pod_template(document)) for document in native if pod_template(document)]
    expect(len(workloads) == 1, f"{where}: {len(workloads)} workloads")
    for document, template in workloads:
        check_restricted(where, template["spec"])
        check_workload(where, document, template, rendered)


def validated(version, path):
    """0 where every document of the file is strictly valid, and what the validator said."""
    code, output, error = run([WORK / "bin/kubernetes-validate", "--quiet", "--strict", "-k", version, path])
    return code, (output + error).strip()


def check_validator(folder):
    """A validator that lets a misspelt field pass would prove nothing."""
    path = folder / "misspelt.yaml"
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"prots": [{"port": 1}]}}
    path.write_text(yaml.safe_dump(service))
    for version in VERSIONS:
        expect(validated(version, path)[0] != 0, f"kubernetes-validate takes a misspelt field for Kubernetes {version}")


def pod_template(document):
    job = document.get("spec", {}).get("jobTemplate", document)
    return job.get("spec", {}).get("template")


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


def check_workload(where, workload, template, rendered):
    """What names something else names what is there."""
    labels = template["metadata"]["labels"]
    names = {(document["kind"], document["metadata"]["name"]) for document in rendered}
    pod = template["spec"]
    [container] = pod["containers"]
    expect(("ServiceAccount", pod["serviceAccountName"]) in names, f"{where}: no ServiceAccount {pod['serviceAccountName']}")
    expect(":" in container["image"], f"{where}: the image {container['image']} has no version")
    for source in container.get("envFrom", []):
        expect(("ConfigMap", source["configMapRef"]["name"]) in names, f"{where}: no ConfigMap {source}")
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
    expect(volumes == mounts, f"{where}: volumes {sorted(volumes)} and mounts {sorted(mounts)}")
    for volume in pod.get("volumes", []):
        if "configMap" in volume:
            expect(("ConfigMap", volume["configMap"]["name"]) in names, f"{where}: no ConfigMap {volume}")
    check_settings(where, [entry["name"] for entry in container.get("env", [])])
    for document in rendered:
        spec = document.get("spec", {})
        if document["kind"] == "ConfigMap":
            check_settings(where, document["data"])
        selector = {
            "Deployment": lambda: spec["selector"]["matchLabels"],
            "Service": lambda: spec["selector"],
            "NetworkPolicy": lambda: spec["podSelector"]["matchLabels"],
            "PodDisruptionBudget": lambda: spec["selector"]["matchLabels"],
        }.get(document["kind"])
        if selector:
            expect(selector().items() <= labels.items(), f"{where}: {document['kind']} does not select the pods")
        if document["kind"] == "ServiceMonitor":
            services = [other for other in rendered if other["kind"] == "Service"]
            wanted = spec["selector"]["matchLabels"].items()
            expect(any(wanted <= other["metadata"]["labels"].items() for other in services), f"{where}: ServiceMonitor selects no Service")
            ports = {port["name"] for other in services for port in other["spec"]["ports"]}
            expect({endpoint["port"] for endpoint in spec["endpoints"]} <= ports, f"{where}: ServiceMonitor's port")
    if workload["kind"] == "CronJob":
        expect(workload["spec"]["concurrencyPolicy"] == "Forbid", f"{where}: concurrencyPolicy")
        expect(workload["spec"].get("startingDeadlineSeconds"), f"{where}: startingDeadlineSeconds")
    if workload["kind"] == "Deployment":
        probes = {kind: container[kind]["httpGet"]["path"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
        expect(set(probes.values()) == {"/startupz", "/livez", "/readyz"}, f"{where}: probes {probes}")
        many = workload["spec"]["replicas"] > 1
        budgets = any(document["kind"] == "PodDisruptionBudget" for document in rendered)
        expect(budgets == many, f"{where}: a PodDisruptionBudget is for two replicas and more")
