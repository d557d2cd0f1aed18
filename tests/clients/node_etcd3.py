#!/usr/bin/env python3
"""The mocha suite of Node's `etcd3`, against one member of the given etcd with TLS, as the suite's own CI starts it.

Needs a checkout of the client's repository, prepared as its readme says so that its `npm run test:unit` works. The member
uses the certificate in it.

Usage: node_etcd3.py --etcd PATH --suite FOLDER [-- WORDS FOR mocha]
"""

import os
import subprocess

import members


def main():
    given = members.options(__doc__, "the folder of the prepared checkout").parse_args()
    members.alone()
    certs = os.path.join(os.path.abspath(given.suite), "src/test/certs")
    pair = (os.path.join(certs, "certs/etcd0.localhost.crt"), os.path.join(certs, "private/etcd0.localhost.key"))
    with members.Members(given.etcd, tls=pair):
        # The suite expects less of etcd before 3.2.
        env = dict(os.environ, ETCD_VERSION="3.4.23")
        words = ["npm", "run", "test:unit", "--"] + given.rest
        raise SystemExit(subprocess.run(words, cwd=given.suite, env=env).returncode)


if __name__ == "__main__":
    main()
