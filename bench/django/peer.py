"""Django's ORM on SQLite, as a web developer would use it: `peer.py PEER WORKLOAD --rows N --callers C …`, as all peers."""

import argparse
import json
import pathlib
import resource
import sqlite3
import threading
import time

import django
from django.conf import settings

MASK = (1 << 64) - 1
GIVEN = "ada bob eve carl dora emil frank grace heidi ingrid judith konrad leopold mallory ninon theodor".split()
WARM_UP = 0.15


def scatter(number):
    """The same as in protocol/src/lib.rs, as are the functions below."""
    z = (number + 1) * 0x9E3779B97F4A7C15 & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def user_id(number):
    id = bytearray(scatter(number).to_bytes(8, "big") + scatter(number + (1 << 40)).to_bytes(8, "big"))
    id[6], id[8] = id[6] & 0x0F | 0x40, id[8] & 0x3F | 0x80
    return bytes(id)


def email(number):
    rest, given = number * 0x2545F4914F6CDD1D & (1 << 30) - 1, GIVEN[scatter(number) % 16]
    digits = ""
    for _ in range(6):
        digits += "0123456789abcdefghijklmnopqrstuvwxyz"[rest % 36]
        rest //= 36
    domain = ("example.com", "example.org", "example.net")[(scatter(number) >> 8) % 3]
    return f"{given.capitalize() if scatter(number) >> 62 == 0 else given}.{digits}@{domain}"


parser = argparse.ArgumentParser()
parser.add_argument("peer")
parser.add_argument("workload")
parser.add_argument("--rows", type=int, default=0)
parser.add_argument("--callers", type=int, default=1)
parser.add_argument("--seconds", type=float, default=1)
parser.add_argument("--run", type=int, default=0)
parser.add_argument("--data", type=pathlib.Path, required=True)
parser.add_argument("--schema", help="the SQL of the tables, if they are to be made")
args = parser.parse_args()

args.data.mkdir(parents=True, exist_ok=True)
database = args.data / "tenantry.db"
pragmas = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
with sqlite3.connect(database) as first:
    first.executescript(pragmas + (args.schema or ""))
first.close()
options = {"transaction_mode": "IMMEDIATE", "timeout": 30, "init_command": pragmas}
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": database, "OPTIONS": options}}, USE_TZ=True
)
django.setup()

from django.db import connection, models  # noqa: E402  (it needs the settings)
from django.db.models.functions import Coalesce  # noqa: E402


class User(models.Model):
    seq = models.BigAutoField(primary_key=True)
    user_id = models.BinaryField(db_column="id", unique=True)
    email_folded = models.TextField(null=True)
    email_key = models.GeneratedField(
        expression=Coalesce("email_folded", "email"), output_field=models.TextField(), db_persist=False
    )
    email = models.TextField()
    deleted_at = models.BigIntegerField(null=True)
    created_at = models.BigIntegerField()
    last_login_at = models.BigIntegerField(null=True)
    updated_at = models.BigIntegerField()
    version = models.BigIntegerField()
    storage_path = models.TextField(null=True)

    class Meta:
        app_label = "peer"
        db_table = "users"
        managed = False


def create(number):
    address, now = email(number), time.time_ns() // 1000
    folded = None if address == address.lower() else address.lower()
    User.objects.create(
        user_id=user_id(number), email_folded=folded, email=address, created_at=now, updated_at=now, version=1
    )


def call(caller, turn):
    if args.workload == "create":
        create(20_000_000 + args.run * 2_000_000 + caller + turn * args.callers)
    elif args.workload == "get-by-id":
        User.objects.get(user_id=user_id(scatter(caller + turn * 1000 + args.run) % args.rows), deleted_at=None)
    elif args.workload == "get-by-email":
        key = email(scatter(caller + turn * 1000 + args.run) % args.rows).lower()
        User.objects.get(email_key=key, deleted_at=None)
    else:
        raise SystemExit(f"no such workload: {args.workload}")


def run(caller, ready, measured):
    connection.ensure_connection()
    ready.wait()
    counts_from = time.perf_counter() + args.seconds * WARM_UP
    ends_at, begun, turn, counted, late, latencies = counts_from + args.seconds, time.perf_counter(), 0, [], [], []
    while begun < ends_at:
        call(caller, turn)
        now = time.perf_counter()
        # What ends too late is no operation of the run, but it had to be waited for.
        if now > ends_at:
            late.append((begun, now))
        elif begun >= counts_from:
            counted.append((begun, now))
        if now > ends_at or begun >= counts_from:
            latencies.append(now - begun)
        begun, turn = now, turn + 1
    measured.append((counted, late, latencies))
    connection.close()


ready, measured = threading.Barrier(args.callers), []
threads = [threading.Thread(target=run, args=(caller, ready, measured)) for caller in range(args.callers)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(measured) == args.callers, "a caller failed"
# So slow that nothing ended in time: then what ended late is all there is.
operations = [span for counted, _, _ in measured for span in counted] or [span for _, late, _ in measured for span in late]
latencies = sorted(latency for _, _, some in measured for latency in some)
at = {name: round(latencies[int((len(latencies) - 1) * part)] * 1e6, 2) for name, part in
      {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1}.items()}
print(json.dumps({
    "peer": args.peer, "workload": args.workload, "rows": args.rows, "callers": args.callers,
    "seconds": max(end for _, end in operations) - min(begin for begin, _ in operations),
    "operations": len(operations), "latency_us": at, "sqlite": sqlite3.sqlite_version,
    "peak_rss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
}))
