#!/usr/bin/env python3
"""The tests of Python's `etcd3gw`, which speaks the JSON gateway, against one member of the given etcd.

Needs `pip install etcd3gw pytest oslotest` for the Python that runs this: the package carries its tests. The suite finds
the member on port 2379, and skips what needs one when nobody listens there: a run that skips anything of it fails here.

Usage: python_etcd3gw.py --etcd PATH --suite SITE-PACKAGES [-- WORDS FOR pytest]
"""

import subprocess
import sys

import members


def main():
    given = members.options(__doc__, "the folder that `etcd3gw` is installed in").parse_args()
    members.alone()
    command = [sys.executable, "-m", "pytest", "-rs", "etcd3gw/tests"] + given.rest
    with members.Members(given.etcd):
        run = subprocess.run(command, cwd=given.suite, stdout=subprocess.PIPE, text=True)
    print(run.stdout)
    if "etcd3 is not available" in run.stdout:
        raise SystemExit("the suite did not find the member; the run proved nothing")
    raise SystemExit(run.returncode)


if __name__ == "__main__":
    main()
