"""An ordinary agent for the tour of a fleet. It reads customers, one every second, or deletes one; it knows nothing of
Sideguard."""

import argparse
import json
import time
import urllib.error
import urllib.request

TOOLS = "http://tools.example/customers"


def call(method, number):
    request = urllib.request.Request(f"{TOOLS}/{number}", method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            print(method, number, answer.status, flush=True)
    except urllib.error.HTTPError as error:
        told = json.load(error)
        print(method, number, error.code, told.get("code", ""), told.get("reason", ""), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delete", metavar="NUMBER", help="deletes a customer instead")
    parser.add_argument("--seconds", type=int, default=30, help="how long to read")
    arguments = parser.parse_args()
    if arguments.delete:
        call("DELETE", arguments.delete)
        return
    for second in range(arguments.seconds):
        call("GET", 1 + second % 9)
        time.sleep(1)


if __name__ == "__main__":
    main()
