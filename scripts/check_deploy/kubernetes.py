"""deploy/kubernetes: every folder by itself, and every combination as `kubectl kustomize` renders it."""

import os
import shutil

import yaml

import render
from common import KUBERNETES, WORK, documents, expect

FOLDER = WORK / "kustomize"


def check(renderers):
    check_files()
    roots = [KUBERNETES / "base", *sorted((KUBERNETES / "overlays").iterdir()), KUBERNETES / "cronjob"]
    components = sorted((KUBERNETES / "components").iterdir())
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    render.check_validator(FOLDER)
    count = 0
    for renderer in renderers:
        for root in roots:
            # Without the service there is nothing to scrape.
            for added in [None] if root.name == "cronjob" else [None, *components]:
                where = f"{root.relative_to(KUBERNETES)}" + (f" with {added.name}" if added else "")
                rendered = render.manifests(where, [renderer / "kubectl/kubectl", "kustomize", combination(count, root, added)])
                if renderer == renderers[-1]:
                    render.check_all(where, rendered, FOLDER)
                count += 1
    return f"{count} combinations rendered and valid for Kubernetes {' and '.join(render.VERSIONS)}" if count else "NOT RENDERED"


def combination(number, root, component):
    folder = FOLDER / str(number)
    folder.mkdir()
    kustomization = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    kustomization["resources"] = [os.path.relpath(root.resolve(), folder.resolve())]
    if component:
        kustomization["components"] = [os.path.relpath(component.resolve(), folder.resolve())]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return folder


def check_files():
    """No file is forgotten, and what must be the same twice is."""
    for path in sorted(KUBERNETES.rglob("kustomization.yaml")):
        [document] = documents(path)
        listed = document.get("resources", []) + document.get("components", [])
        listed += [patch["path"] for patch in document.get("patches", []) if "path" in patch]
        present = {other.name for other in path.parent.glob("*.yaml")} - {path.name}
        expect(present <= set(listed), f"{path} leaves out {sorted(present - set(listed))}")
    for same in ("serviceaccount.yaml", "config.yaml"):
        one, other = KUBERNETES / "base" / same, KUBERNETES / "cronjob" / same
        expect(one.read_text() == other.read_text(), f"{one} and {other} differ")
    [secret] = documents(KUBERNETES / "secret.example.yaml")
    expect(set(secret["stringData"]) == {"database_url", "client_secret"}, "secret.example.yaml: other keys")
