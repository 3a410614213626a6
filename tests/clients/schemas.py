"""Checks Kubernetes objects against the published schemas, strictly: a field that does not exist is an error.

usage: schemas.py VERSION[,VERSION...] FILE...

A file is one object as JSON, or has one under `pod`. Prints one line for each error and exits 1 when there are any. A file with
`"schema": "unknown"` holds fields that nobody knows, and must be refused.
"""

import functools
import json
import sys

import kubernetes_validate
from kubernetes_validate import utils

# Each version's definitions are megabytes, and read anew for each object otherwise.
utils.schema_contents = functools.lru_cache(maxsize=None)(utils.schema_contents)


def check(path, document, version):
    """The error of one object in one version, if there is any."""
    pod = {"apiVersion": "v1", "kind": "Pod", **document.get("pod", document)}
    must_fail = document.get("schema") == "unknown"
    try:
        kubernetes_validate.validate(pod, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        if must_fail:
            return None
        where = ".".join(str(part) for part in error.path)
        return f"{path}: {version}: {where}: {error.message}"
    return f"{path}: {version}: was expected to be refused" if must_fail else None


def main():
    versions, paths = sys.argv[1].split(","), sys.argv[2:]
    errors, checked = 0, 0
    for path in paths:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
        if "refusal" in document or "untouched" in document:
            continue
        for version in versions:
            error = check(path, document, version)
            checked += 1
            if error:
                errors += 1
                print(error)
    print(f"checked {checked}")
    return 1 if errors or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
