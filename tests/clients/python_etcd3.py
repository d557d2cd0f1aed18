#!/usr/bin/env python3
"""The tests of Python's `etcd3`, against three members of the given etcd, started by the suite's own tool, pifpaf.

Needs the unpacked source of Debian's package python-etcd3 and, for the Python that runs this, what its tests import:
python3-grpcio python3-protobuf python3-hypothesis python3-mock python3-pytest python3-six python3-tenacity, and pifpaf of
the Python package index; etcdctl. The suite stops members by the names that pifpaf gives them.

Usage: python_etcd3.py --etcd PATH --suite FOLDER [-- WORDS FOR pytest]
"""

import os
import subprocess
import sys
import tempfile

import members


def main():
    given = members.options(__doc__, "the folder with the unpacked source").parse_args()
    members.alone()
    with tempfile.TemporaryDirectory() as folder:
        # pifpaf starts the first `etcd` in the path.
        os.symlink(os.path.abspath(given.etcd), os.path.join(folder, "etcd"))
        path = os.pathsep.join([folder, os.path.dirname(sys.executable), os.environ["PATH"]])
        # The suite skips tests by the version it is told: none are skipped for this one.
        suite = os.path.abspath(given.suite)
        modules = os.pathsep.join([suite, os.path.join(suite, "etcd3")])
        env = dict(os.environ, PATH=path, PYTHONPATH=modules, TEST_ETCD_VERSION="v3.4.23")
        command = ["pifpaf", "-e", "PYTHON", "run", "etcd", "--cluster", "--", sys.executable, "-m", "pytest", "tests"]
        raise SystemExit(subprocess.run(command + given.rest, cwd=given.suite, env=env).returncode)


if __name__ == "__main__":
    main()
