#!/usr/bin/env python3
"""kombu's `etcd://` transport across the death of a leader: producers, consumers, kill -9 in the middle, nothing lost.

Starts three members of the given etcd, kills the leader when half of the messages have arrived, starts it again, and
compares what was sent with what was received. kombu itself deletes a message before it hands it over; when the answer to
that deletion is lost with the killed member, or the one to the release of its lock behind it, kombu forgets the message
although the store did as it was told. Such messages are recognised and counted apart.

Needs: pip install kombu python-etcd 'urllib3<2' dnspython
Usage: kombu_queue.py --etcd PATH [--messages 10000] [--port 24500]
"""

import argparse
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import etcd
from kombu import Connection, Consumer, Exchange, Producer, Queue

EXCHANGE = Exchange("work", type="direct")
QUEUE = Queue("work", EXCHANGE, routing_key="work")
START_LIMIT = 60
ERRORS = (etcd.EtcdException, OSError, TimeoutError)


class Cluster:
    """Three members on loopback."""

    def __init__(self, program, folder, port):
        self.program, self.folder = program, folder
        self.clients = [port + n for n in range(3)]
        self.peers = [port + 10 + n for n in range(3)]
        self.running = [None, None, None]
        for n in range(3):
            self.start(n)

    def start(self, n):
        url = "http://127.0.0.1:%d"
        initial = ",".join("m%d=%s" % (k, url % peer) for k, peer in enumerate(self.peers))
        with open(os.path.join(self.folder, "m%d.log" % n), "ab") as log:
            self.running[n] = subprocess.Popen(
                [self.program, "--enable-v2=true", "--name", "m%d" % n,
                 "--data-dir", os.path.join(self.folder, "m%d" % n),
                 "--listen-client-urls", url % self.clients[n], "--advertise-client-urls", url % self.clients[n],
                 "--listen-peer-urls", url % self.peers[n], "--initial-advertise-peer-urls", url % self.peers[n],
                 "--initial-cluster", initial, "--initial-cluster-state", "new"],
                stdout=log, stderr=log)

    def leader(self):
        """The place of the member that leads, waiting for one."""
        limit = time.monotonic() + START_LIMIT
        while time.monotonic() < limit:
            for n, port in enumerate(self.clients):
                try:
                    with urllib.request.urlopen("http://127.0.0.1:%d/v2/stats/self" % port, timeout=2) as answer:
                        if json.load(answer)["state"] == "StateLeader":
                            return n
                except OSError:
                    pass
            time.sleep(0.1)
        raise SystemExit("no member leads within %d s" % START_LIMIT)

    def kill(self, n):
        self.running[n].send_signal(signal.SIGKILL)
        self.running[n].wait()

    def stop(self):
        for process in self.running:
            process.kill()
            process.wait()


class Client:
    """A kombu connection that moves on to the next member when one fails."""

    def __init__(self, ports, place, doubtful):
        self.ports, self.place, self.doubtful = ports, place, doubtful
        self.connection = None

    def open(self):
        if self.connection is None:
            url = "etcd://127.0.0.1:%d/" % self.ports[self.place % len(self.ports)]
            # Without it an empty queue is looked at again only after three seconds.
            self.connection = Connection(url, transport_options={"polling_interval": 0.01})
            channel = self.connection.channel()
            QUEUE(channel).declare()
            self.note_doubtful_deletions(channel)
            self.channel = channel
        return self.channel

    def note_doubtful_deletions(self, channel):
        """Remembers each message that kombu deleted, or may have deleted, without handing it over: the deletion got no
        answer, or it did and the release of kombu's lock behind it got none, for which kombu forgets what it holds."""
        delete, get = channel.client.delete, channel._get
        asked = []

        def noting(key, **options):
            if key.startswith("/kombu/"):
                asked.append(key)
            try:
                return delete(key, **options)
            except etcd.EtcdKeyNotFound:
                asked.clear()
                raise

        def getting(queue, timeout=None):
            asked.clear()
            try:
                message = get(queue, timeout)
                asked.clear()
                return message
            finally:
                self.doubtful.extend(asked)

        channel.client.delete, channel._get = noting, getting

    def drop(self):
        try:
            if self.connection is not None:
                self.connection.collect()
        except ERRORS:
            pass
        self.connection = None
        self.place += 1
        time.sleep(0.2)


def produce(name, ports, place, count, results):
    client, resent = Client(ports, place, []), 0
    for n in range(count):
        while True:
            try:
                Producer(client.open(), exchange=EXCHANGE, routing_key="work").publish({"id": "%s-%d" % (name, n)})
                break
            except ERRORS:
                # Whether it arrived is unknown: sent again, it may arrive twice.
                resent += 1
                client.drop()
    results.put({"producer": name, "sent": count, "sent_again": resent})


def consume(name, ports, place, arrived, stop, results):
    client, got, doubtful = None, [], []
    client = Client(ports, place, doubtful)

    def take(body, message):
        got.append(body["id"])
        message.ack()
        with arrived.get_lock():
            arrived.value += 1

    while not stop.is_set():
        try:
            with Consumer(client.open(), [QUEUE], callbacks=[take], accept=["json"]):
                while not stop.is_set():
                    try:
                        client.connection.drain_events(timeout=1)
                    except socket.timeout:
                        pass
        except ERRORS:
            client.drop()
    results.put({"consumer": name, "got": got, "doubtful": doubtful})


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--etcd", required=True)
    arguments.add_argument("--messages", type=int, default=10000)
    arguments.add_argument("--port", type=int, default=24500)
    arguments = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(arguments.etcd, folder, arguments.port)
        try:
            sys.exit(run(cluster, arguments.messages))
        finally:
            cluster.stop()


def run(cluster, messages):
    cluster.leader()
    results, stop = multiprocessing.Queue(), multiprocessing.Event()
    arrived = multiprocessing.Value("i", 0)
    half = messages // 2
    producers = [multiprocessing.Process(target=produce, args=("p%d" % n, cluster.clients, n, half, results))
                 for n in range(2)]
    consumers = [multiprocessing.Process(target=consume, args=("c%d" % n, cluster.clients, n + 1, arrived, stop, results))
                 for n in range(2)]
    began = time.monotonic()
    for process in producers + consumers:
        process.start()
    killed = False
    quiet_since, seen = time.monotonic(), 0
    reports = []
    while True:
        time.sleep(0.5)
        now = arrived.value
        if now != seen:
            seen, quiet_since = now, time.monotonic()
        if not killed and now >= half:
            leader = cluster.leader()
            cluster.kill(leader)
            cluster.leader()
            cluster.start(leader)
            killed = True
            print("killed the leader m%d after %d of %d messages" % (leader, now, messages), flush=True)
        # Everything sent has arrived, or nothing has for a minute.
        sent_all = not any(process.is_alive() for process in producers)
        if killed and sent_all and (now >= messages or time.monotonic() - quiet_since > 60):
            break
        if time.monotonic() - quiet_since > 300:
            print("nothing has arrived for five minutes", flush=True)
            break
    time.sleep(5)
    stop.set()
    for _ in producers + consumers:
        reports.append(results.get(timeout=60))
    for process in producers + consumers:
        process.join(10)
    got = [one for report in reports if "got" in report for one in report["got"]]
    sent = {"p%d-%d" % (n, k) for n in range(2) for k in range(half)}
    lost = sent - set(got)
    doubtful = sum(len(report.get("doubtful", [])) for report in reports)
    again = sum(report.get("sent_again", 0) for report in reports)
    print(json.dumps({
        "messages": len(sent), "received": len(got), "distinct": len(set(got)), "lost": len(lost),
        "sent_again": again, "deleted_and_forgotten_by_kombu": doubtful, "killed_the_leader": killed,
        "seconds": round(time.monotonic() - began, 1)}))
    if len(lost) > doubtful:
        print("LOST: %s" % sorted(lost)[:20])
        return 1
    return 0 if killed and set(got) <= sent else 1


if __name__ == "__main__":
    main()
