#!/usr/bin/env python3
"""The tests of the Rust crate `etcd-client`, all of them, against one member of the given etcd.

Needs the unpacked source of the crate (cargo keeps one of every crate that was fetched; copy it, with its dependencies
fetched: the tests run without a network), protoc and etcdctl.
Three runs, each against a fresh member: the tests that run by default, the ignored one of authentication (which expects a
user `root` with password `rootpwd`), and the ignored one of the cluster, which leaves a member without its quorum behind.

Usage: rust_etcd_client.py --etcd PATH --suite FOLDER [-- WORDS FOR cargo test]
"""

import os
import subprocess

import members

RUNS = (
    ("those that run by default", [], []),
    ("authentication", ["user add root:rootpwd", "role add root", "user grant-role root root"],
     ["--test", "client", "--", "--ignored", "test_auth"]),
    ("cluster", [], ["--test", "client", "--", "--ignored", "test_cluster"]),
)


def main():
    given = members.options(__doc__, "the folder of the crate").parse_args()
    members.alone()
    failed = 0
    for what, setup, words in RUNS:
        print("== %s" % what, flush=True)
        with members.Members(given.etcd):
            for line in setup:
                subprocess.run(["etcdctl"] + line.split(), env=dict(os.environ, ETCDCTL_API="3"), check=True)
            command = ["cargo", "test", "--offline", "--no-fail-fast"] + given.rest + words
            failed += subprocess.run(command, cwd=given.suite).returncode != 0
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
