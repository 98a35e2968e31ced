"""Writes what was measured as Markdown.

A row is {"what", "data", "sides": {name: {"wall", "cpu", "rss", "tree", "syncs", "stored", "requests", "runs"}}}, where
"requests" is, through S3, ({method: count}, commands); all rows of one work directory are kept in `results.json`, so that a run of some steps renews only their rows.
"""

import json
import os
import platform
import subprocess

from lib.bucket import WRITES

# The most that ours may take of the peer's wall time. The first whose words are in the step's name counts.
BOUNDS = {"relations": 0.60, "full": 0.65, "delta restore": 0.40, "restore": 0.75, "pushed": 0.60, "fetched": 0.70,
          "all of it read": 0.40, "incremental": 0.50}
S3_BOUNDS = {"full backup": 0.75, "delta restore": None, "restore": 0.75, "fetched": 0.50}
# The most requests that write, of a full backup of the data set text through S3.
WRITE_REQUESTS = 150
THROUGH_S3 = " through S3"
DATA = {
    "text": "pgbench scale {pgbench} and {text} MB of prose and JSON",
    "dense": "{dense} MB of random bytes mixed with prose, which compresses less than twofold",
    "relations": "{relations} small tables, each with an index, in one database",
}


def merge(path, rows, facts):
    """Adds rows to the file, replacing those of the same name. Returns all of it."""
    known = {"rows": []}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as old:
            known = json.load(old)
    fresh = {(row["data"], row["what"]) for row in rows}
    known["rows"] = [row for row in known["rows"] if (row["data"], row["what"]) not in fresh] + rows
    order = ["full", "incremental", "delta restore", "restore to tmpfs", "restore to disk", "pushed", "fetched"]

    def rank(row):
        place = next((i for i, word in enumerate(order) if word in row["what"]), len(order))
        return (list(DATA).index(row["data"]), THROUGH_S3 in row["what"], place)

    known["rows"].sort(key=rank)
    known["facts"] = facts
    with open(path + ".tmp", "w", encoding="utf-8") as out:
        json.dump(known, out, indent=1)
    os.rename(path + ".tmp", path)
    return known


def machine(work):
    """What the figures depend on."""
    model = "unknown processor"
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        for line in info:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo", encoding="utf-8") as info:
        memory = int(info.readline().split()[1]) // 1024
    found = subprocess.run(["findmnt", "-nro", "FSTYPE,OPTIONS", "-T", work], stdout=subprocess.PIPE, check=False)
    return {
        "cpu": f"{model}, {len(os.sched_getaffinity(0))} usable",
        "memory": f"{memory} MiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "disk": found.stdout.decode().strip() or "unknown",
    }


def bound(row):
    """None where nothing is promised."""
    bounds = S3_BOUNDS if THROUGH_S3 in row["what"] else BOUNDS
    return next((value for word, value in bounds.items() if word in row["what"]), None)


def render(known):
    facts, rows = known["facts"], known["rows"]
    lines = ["# Refloat and pgBackRest, measured", ""]
    lines += [
        f"Taken {facts['date']} by `{facts['command']}`; `bench/README.md` says how and how to repeat it.", "",
        f"- Refloat: {facts['versions'].get('refloat', 'not measured')}",
        f"- pgBackRest: {facts['versions'].get('pgbackrest', 'not measured')}",
        f"- PostgreSQL: {facts['versions']['postgresql']}",
        f"- S3: {facts['versions'].get('s3', 'not measured')}",
        f"- Machine: {facts['machine']['cpu']}; {facts['machine']['memory']} of memory; {facts['machine']['kernel']}",
        f"- Disk of the clusters and repositories: {facts['machine']['disk']}; load average at the start {facts['load']}",
        f"- Median of {facts['runs']} runs, the sides in turn. Starting and reaping one process costs "
        f"{facts['spawn'] * 1000:.1f} ms here; it is in the one-process-each figures of both.", "",
    ]
    for data in dict.fromkeys(row["data"] for row in rows):
        lines += [f"## Data set {data}: {facts['data'][data]}", ""]
        mine = [row for row in rows if row["data"] == data]
        lines += _times(mine) + _costs(mine) + _requests(mine)
    return "\n".join(lines)


def _times(rows):
    lines = ["| step | Refloat s (min to max) | pgBackRest s (min to max) | ratio | bound | |", "|---|---|---|---|---|---|"]
    for row in rows:
        ours, theirs = row["sides"].get("refloat"), row["sides"].get("pgbackrest")
        ratio, verdict = "", ""
        if ours and theirs:
            value = ours["wall"] / theirs["wall"]
            ratio = f"{value:.2f}"
            verdict = _verdict(value, bound(row))
        most = "" if bound(row) is None else f"{bound(row):.2f}"
        lines.append(f"| {row['what']} | {_span(ours)} | {_span(theirs)} | {ratio} | {most} | {verdict} |")
    return lines + [""]


def _verdict(value, most):
    if most is None:
        return ""
    return "met" if value <= most else "**missed**"


def _span(side):
    if not side:
        return "–"
    walls = [run["wall"] for run in side["runs"]]
    return f"{side['wall']:.2f} ({min(walls):.2f} to {max(walls):.2f})"


def _costs(rows):
    lines = ["| step | side | CPU s | largest process MiB | whole tree MiB | stored MB | syncs per command |",
             "|---|---|---|---|---|---|---|"]
    for row in rows:
        for name in ("refloat", "pgbackrest"):
            side = row["sides"].get(name)
            if not side:
                continue
            stored = f"{side['stored'] / 1e6:.0f}" if side.get("stored") else ""
            syncs = ", ".join(f"{call} {count:g}" for call, count in sorted(side["syncs"].items())) or "none"
            # The tree is sampled, which says nothing of a process that lives for milliseconds.
            tree = f"{side['tree'] / 2**20:.0f}" if "segments" not in row["what"] else ""
            lines.append(f"| {row['what']} | {name} | {side['cpu']:.2f} | {side['rss'] / 2**20:.0f} | "
                         f"{tree} | {stored} | {syncs} |")
    return lines + [""]


def _requests(rows):
    """What each command asked the S3 server for."""
    lines = []
    for row in rows:
        for name in ("refloat", "pgbackrest"):
            counts, commands = (row["sides"].get(name) or {}).get("requests") or ({}, 1)
            if not counts:
                continue
            writes = sum(counts.get(method, 0) for method in WRITES) / commands
            said = ", ".join(f"{method} {count / commands:g}" for method, count in sorted(counts.items()))
            promised = name == "refloat" and row["data"] == "text" and row["what"].startswith("full backup")
            most = WRITE_REQUESTS if promised else None
            lines.append(f"| {row['what']} | {name} | {said} | {writes:g} | {most or ''} | {_verdict(writes, most)} |")
    if not lines:
        return []
    return ["| step | side | requests per command | of them writing | bound | |", "|---|---|---|---|---|---|"] + lines + [""]
