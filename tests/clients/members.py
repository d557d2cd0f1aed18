"""Members of a given etcd on loopback of a network of their own, for the client suites beside this file.

Suites want fixed ports, so each run happens in its own network namespace: nothing else listens there, nothing else is
reached from there. Needs `unshare` and `ip` (util-linux, iproute2).
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time

START_LIMIT = 60
INSIDE = "CLIENT_SUITE_NETWORK"


def options(text, suite):
    """The options every suite has: which etcd, and where the suite's sources are."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--etcd", required=True, help="the program to test against")
    parser.add_argument("--suite", required=True, help=suite)
    parser.add_argument("rest", nargs="*", help="more words for the suite's own runner, after --")
    return parser


def alone():
    """Goes on in a new network namespace that has loopback only."""
    if os.environ.get(INSIDE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    os.environ[INSIDE] = "1"
    words = ["unshare", "--net"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    os.execvp(words[0], words + [sys.executable] + sys.argv)


class Members:
    """`size` members; the first one's client port is 2379. With `tls` (certificate, key) clients must speak TLS."""

    def __init__(self, program, size=1, tls=None):
        self.folder = tempfile.TemporaryDirectory(prefix="client-suite-")
        self.running = []
        scheme = "https" if tls else "http"
        initial = ",".join("m%d=http://127.0.0.1:%d" % (n, 2380 + 10 * n) for n in range(size))
        for n in range(size):
            client = "%s://127.0.0.1:%d" % (scheme, 2379 + 10 * n)
            peer = "http://127.0.0.1:%d" % (2380 + 10 * n)
            words = [program, "--name", "m%d" % n, "--data-dir", os.path.join(self.folder.name, str(n))]
            words += ["--listen-client-urls", client, "--advertise-client-urls", client]
            words += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", initial]
            if tls:
                words += ["--cert-file", tls[0], "--key-file", tls[1]]
            log = open(os.path.join(self.folder.name, "%d.log" % n), "w")
            self.running.append(subprocess.Popen(words, stdout=log, stderr=log))
        for n in range(size):
            self.wait(2379 + 10 * n)

    def wait(self, port):
        limit = time.monotonic() + START_LIMIT
        while time.monotonic() < limit:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit("no member listens on port %d within %d s" % (port, START_LIMIT))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.running:
            process.kill()
            process.wait()
        self.folder.cleanup()
