"""Runs commands and measures them: wall time, CPU seconds, peak memory, and, in passes of their own, fsyncs."""

import os
import re
import statistics
import subprocess
import threading
import time

SYNCS = ("fsync", "fdatasync", "sync_file_range", "syncfs", "sync", "msync")


class Failed(Exception):
    """A measured command failed; carries the end of what it wrote."""


class Sample:
    """One measured run. `wall` and `cpu` in seconds (user + system, with all descendants), `rss` in bytes: the
    largest single process (what the kernel reports for a finished tree)."""

    def __init__(self, wall=0.0, cpu=0.0, rss=0):
        self.wall, self.cpu, self.rss = wall, cpu, rss

    def to_json(self):
        return {"wall": self.wall, "cpu": self.cpu, "rss": self.rss}


class Runner:
    """Starts the commands of one side, writing their output to one log file."""

    def __init__(self, log_path, env):
        self.log_path, self.env = log_path, env

    def timed(self, argv):
        """Runs `argv` to its end. Raises `Failed` unless it exits 0."""
        with open(self.log_path, "ab") as log:
            begin = log.tell()
            started = time.perf_counter()
            # Without close_fds the interpreter uses vfork, so its own size doesn't enter the time.
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, close_fds=False, cwd="/"
            )
            _, status, usage = os.wait4(child.pid, 0)
            wall = time.perf_counter() - started
            child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            raise Failed(f"{' '.join(argv)}\nexit {child.returncode}\n{self._tail(begin)}")
        return Sample(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)

    def timed_each(self, commands):
        """Runs the commands one after the other, one process each, as PostgreSQL's archiver does."""
        total = Sample()
        started = time.perf_counter()
        for argv in commands:
            one = self.timed(argv)
            total.cpu += one.cpu
            total.rss = max(total.rss, one.rss)
        total.wall = time.perf_counter() - started
        return total

    def counted(self, argv, scratch):
        """Runs `argv` under strace. Returns ({call: count}, peak memory of the whole tree in bytes, shared pages
        counted once). Slow: never timed."""
        out = os.path.join(scratch, "strace.out")
        traced = ["strace", "-f", "-c", "-e", "trace=" + ",".join(SYNCS), "-o", out] + argv
        with open(self.log_path, "ab") as log:
            begin = log.tell()
            child = subprocess.Popen(
                traced, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, cwd="/"
            )
            watch = TreeMemory(child.pid)
            watch.start()
            code = child.wait()
            watch.stop()
        if code != 0:
            raise Failed(f"{' '.join(argv)}\nexit {code}\n{self._tail(begin)}")
        return parse_strace(out), watch.peak

    def _tail(self, begin):
        with open(self.log_path, "rb") as log:
            log.seek(begin)
            return log.read()[-3000:].decode(errors="replace")


class TreeMemory(threading.Thread):
    """Samples the summed proportional set size of a process tree, without strace's own."""

    def __init__(self, root, every=0.05):
        super().__init__(daemon=True)
        self.root, self.every, self.peak = root, every, 0
        self._done = threading.Event()

    def run(self):
        while not self._done.wait(self.every):
            self.peak = max(self.peak, sum(map(_pss, descendants(self.root))))

    def stop(self):
        self._done.set()
        self.join()


def descendants(root):
    """Process ids below `root`, which itself is left out."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    parent = int(stat.read().rsplit(b")", 1)[1].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            children.setdefault(parent, []).append(int(name))
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _pss(pid):
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
            for line in rollup:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0


def parse_strace(path):
    """Reads the table of `strace -c`."""
    counts = {}
    with open(path, encoding="utf-8", errors="replace") as table:
        for line in table:
            row = re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)\s*$", line)
            if row and row.group(2) in SYNCS:
                counts[row.group(2)] = int(row.group(1))
    return counts


def median(values):
    return statistics.median(values) if values else None


def spawn_cost(count=100):
    """Seconds that starting and reaping one process costs here: the floor under the one-process-each figures."""
    runner = Runner(os.devnull, dict(os.environ))
    return runner.timed_each([["/bin/true"]] * count).wall / count
