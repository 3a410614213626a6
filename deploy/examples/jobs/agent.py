"""An agent that does jobs, without any SDK: it asks its sidecar for the next one and tells it what came of it.

The sidecar is `sideguard proxy -c proxy.yaml` with `control` and `worker: {pools: [crm]}` in it. What this agent calls while
it has a job is known as that job's; when the job is taken away from it, those calls are refused (403, code `fenced`)."""

import json
import os
import sys
import time
import urllib.error
import urllib.request

JOBS = os.environ.get("SIDEGUARD_JOBS_URL", "http://127.0.0.1:4750/jobs")
# Questions to the sidecar itself need no proxy.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(method, path, body=None):
    """Status and JSON of an answer; 0 when the sidecar is away."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(JOBS + path, data=data, method=method, headers=headers)
    try:
        with OPENER.open(request, timeout=90) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")
    except OSError as error:
        print(f"no sidecar at {JOBS}: {error}", file=sys.stderr)
        return 0, None


def tell(job, what, body):
    """Tells how a job ended until that is heard; says whether it counts."""
    while True:
        status, _ = ask("POST", f"/{job['id']}/{what}", body)
        if status not in (0, 503):
            return status == 204
        time.sleep(1)


def enrich(job):
    """The work itself: a second for each step, with a word on how far it is."""
    customer = job["input"].get("customer", 1)
    steps = int(job["input"].get("steps", 3))
    for step in range(steps):
        time.sleep(1)
        status, _ = ask("POST", f"/{job['id']}/progress", {"step": step + 1, "of": steps})
        if status == 409:
            raise RuntimeError("the job was taken away")
    return {"customer": customer, "name": f"Customer {customer}", "steps": steps}


def main():
    while True:
        status, job = ask("GET", "/next?wait=30")
        if status != 200:
            time.sleep(0 if status == 204 else 1)
            continue
        print(f"{job['id']}: {job['topic']}, try {job['attempt']}", flush=True)
        try:
            counts = tell(job, "result", enrich(job))
        except Exception as error:
            counts = tell(job, "failure", {"message": str(error), "retry": True})
        print(f"{job['id']}: {'told' if counts else 'was no longer ours'}", flush=True)


if __name__ == "__main__":
    main()
