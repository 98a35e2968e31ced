"""The measured clusters: built once in the work directory, then started quiet, always in the same state."""

import json
import os
import random
import shutil
import subprocess
import tempfile
import time

WORDS_SEED, BYTES_SEED = 4711, 815
SEGMENT = 16 * 1024 * 1024


class Scale:
    """How large the data sets are."""

    def __init__(self, quick):
        self.quick = quick
        self.suffix = "-quick" if quick else ""
        self.pgbench = 20 if quick else 200
        self.text_bytes = (50 if quick else 500) * 10**6
        self.dense_bytes = (200 if quick else 2000) * 10**6
        self.segments = 20 if quick else 100
        self.relations = 2000 if quick else 20000


class Cluster:
    """One data directory and, while it runs, its server. `name` is `text`, `dense` or `relations`."""

    def __init__(self, work, bin_dir, name, scale):
        self.work, self.bin, self.name, self.scale = work, bin_dir, name, scale
        self.home = os.path.join(work, name + scale.suffix)
        self.data = os.path.join(self.home, "data")
        self.segment_dir = os.path.join(self.home, "segments")
        # pgBackRest insists on its own name in archive_command.
        self.hook = os.path.join(self.home, "archive-by-refloat-or-pgbackrest")
        self.socket = None

    # -- building ------------------------------------------------------------------------------------------

    def build(self, talk):
        """Makes the data unless a finished one is there (`built.json` is written last)."""
        done = os.path.join(self.home, "built.json")
        if os.path.exists(done):
            return
        talk(f"building data set {self.name}: a few minutes, once")
        shutil.rmtree(self.home, ignore_errors=True)
        os.makedirs(self.segment_dir, mode=0o700)
        self.archive_to("none")
        self._tool("initdb", "-D", self.data, "-k", "-A", "trust", "-U", "postgres", "--locale=C", "-E", "UTF8", "-N")
        with open(os.path.join(self.data, "postgresql.conf"), "a", encoding="utf-8") as conf:
            conf.write(
                "listen_addresses = ''\nautovacuum = off\narchive_mode = on\nwal_level = replica\n"
                f"archive_command = '\"{self.hook}\" \"%p\" \"%f\"'\n"
                "max_locks_per_transaction = 1024\nmax_wal_size = 16GB\ncheckpoint_timeout = 1h\nshared_buffers = 256MB\nlog_min_messages = fatal\n"
            )
        self.start("-c fsync=off -c synchronous_commit=off")
        try:
            if self.name == "text":
                self._tool("pgbench", "-h", self.socket, "-U", "postgres", "-i", "-q", "-I", "dtGvp",
                           "-s", str(self.scale.pgbench), "postgres")
                self._copy_documents()
                self._collect_segments(talk)
            elif self.name == "dense":
                self._copy_dense()
            else:
                self._make_relations()
            self.sql("VACUUM (FREEZE, ANALYZE)")
            self.sql("CHECKPOINT")
            facts = {"bytes": int(self.sql("SELECT sum(pg_database_size(oid)) FROM pg_database")),
                     "truth": self.truth()}
        finally:
            self.stop()
        subprocess.run(["sync", "-f", self.data], check=True)
        with open(done + ".tmp", "w", encoding="utf-8") as out:
            json.dump(facts, out)
        os.rename(done + ".tmp", done)

    def facts(self):
        with open(os.path.join(self.home, "built.json"), encoding="utf-8") as facts:
            return json.load(facts)

    def _copy_documents(self):
        """Prose and JSON, half each, in rows short enough to stay outside TOAST, so that pages hold plain text."""
        self.sql("CREATE TABLE notes (id bigint PRIMARY KEY, title text, body text)")
        self.sql("CREATE TABLE events (id bigint PRIMARY KEY, doc jsonb)")
        draw = random.Random(WORDS_SEED)
        words, weights = vocabulary(draw)
        half = self.scale.text_bytes // 2

        def notes():
            size = number = 0
            while size < half:
                number += 1
                text = draw.choices(words, cum_weights=weights, k=draw.randint(60, 220))
                row = f"{number}\t{' '.join(text[:6])}\t{' '.join(text[6:])}\n"
                size += len(row)
                yield row

        def events():
            size = number = 0
            while size < half:
                number += 1
                text = draw.choices(words, cum_weights=weights, k=60)
                document = {
                    "at": f"2026-{draw.randint(1, 12):02}-{draw.randint(1, 28):02}T{draw.randint(0, 23):02}:00:00Z",
                    "user": {"id": draw.randint(1, 10**6), "mail": f"{text[0]}.{text[1]}@example.org"},
                    "kind": draw.choice(["view", "order", "login", "refund"]),
                    "amount": round(draw.random() * 500, 2),
                    "tags": text[2:6],
                    "note": " ".join(text[6:]),
                }
                row = f"{number}\t{json.dumps(document)}\n"
                size += len(row)
                yield row

        self._copy("notes", notes())
        self._copy("events", events())

    def _copy_dense(self):
        """Random bytes with some prose beside them: compresses to well over half."""
        self.sql("CREATE TABLE blobs (id bigint PRIMARY KEY, data bytea, caption text)")
        self.sql("ALTER TABLE blobs ALTER data SET STORAGE PLAIN, ALTER caption SET STORAGE PLAIN")
        draw = random.Random(BYTES_SEED)
        words, weights = vocabulary(draw)

        def rows():
            size = number = 0
            while size < self.scale.dense_bytes:
                number += 1
                blob = draw.randbytes(1200)
                text = " ".join(draw.choices(words, cum_weights=weights, k=90))
                size += 1200 + len(text)
                yield f"{number}\t\\\\x{blob.hex()}\t{text}\n"

        self._copy("blobs", rows())

    def _make_relations(self):
        """Small tables, a thousand to a transaction: each locks what it makes until its end."""
        for first in range(0, self.scale.relations, 1000):
            last = min(first + 1000, self.scale.relations) - 1
            self.sql(f"DO $$ BEGIN FOR i IN {first}..{last} LOOP EXECUTE format('CREATE TABLE small_%s (id int PRIMARY KEY, "
                     "t text)', i); EXECUTE format('INSERT INTO small_%s SELECT n, md5(n::text || %L) FROM "
                     "generate_series(1, 50) n', i, i); END LOOP; END $$")

    def _collect_segments(self, talk):
        """Keeps real WAL segments, one following the other, that a pgbench load wrote: its own transactions, whose
        pages are mostly blanks, and as many that change prose and add JSON, whose pages aren't."""
        talk(f"collecting {self.scale.segments} WAL segments from a load")
        self.sql("CHECKPOINT")
        self.sql("SELECT pg_switch_wal()")
        self.settle()
        script = os.path.join(self.home, "load.sql")
        with open(script, "w", encoding="utf-8") as out:
            out.write("\\set at random(1, :notes)\n\\set from random(1, :events)\n"
                      "BEGIN;\nUPDATE notes SET title = left(title, 20) || ' ' || :at WHERE id = :at;\n"
                      "INSERT INTO added SELECT id, doc FROM events WHERE id BETWEEN :from AND :from + 14;\nEND;\n")
        self.sql("CREATE TABLE added (id bigint, doc jsonb)")
        counts = [f"-D{table}={self.sql(f'SELECT count(*) FROM {table}')}" for table in ("notes", "events")]
        self.archive_to("collect")
        while len(os.listdir(self.segment_dir)) < self.scale.segments + 1:
            self._tool("pgbench", "-h", self.socket, "-U", "postgres", "-n", "-c", "4", "-j", "2", "-T", "5",
                       *counts, "-b", "tpcb-like@1", "-f", f"{script}@1", "postgres")
            self.settle()
        self.archive_to("none")
        self.settle()
        self.sql("DROP TABLE added")
        names = sorted(os.listdir(self.segment_dir))
        for name in names[self.scale.segments:]:
            os.unlink(os.path.join(self.segment_dir, name))

    def segments(self):
        return [os.path.join(self.segment_dir, name) for name in sorted(os.listdir(self.segment_dir))]

    # -- archiving -----------------------------------------------------------------------------------------

    def archive_to(self, what, command=None):
        """Decides what `archive_command` does from its next call on: `none` forgets, `collect` copies aside, else
        `command` is run (with `%p` and `%f` replaced by "$1" and "$2"). One rename, so a call sees old or new."""
        script = "#!/bin/sh\n"
        if what == "collect":
            script += f'cp "$1" "{self.segment_dir}/.$2" && mv "{self.segment_dir}/.$2" "{self.segment_dir}/$2"\n'
        elif what != "none":
            script += "exec " + command.replace("%p", '"$1"').replace("%f", '"$2"') + "\n"
        with open(self.hook + ".new", "w", encoding="utf-8") as hook:
            hook.write(script)
        os.chmod(self.hook + ".new", 0o700)
        os.rename(self.hook + ".new", self.hook)

    def settle(self, timeout=300):
        """Waits until the archiver has nothing left to do."""
        status = os.path.join(self.data, "pg_wal", "archive_status")
        until = time.monotonic() + timeout
        while any(name.endswith(".ready") for name in os.listdir(status)):
            if time.monotonic() > until:
                raise RuntimeError(f"the archiver of {self.name} does not get on: see {self.home}/server.log")
            # The archiver sleeps up to a minute after a failure; a new segment's notice wakes it.
            self.sql("SELECT pg_reload_conf()")
            time.sleep(0.1)

    def quiet(self):
        """Nothing dirty, nothing to archive, nothing waiting for the disk."""
        self.sql("CHECKPOINT")
        self.settle()
        os.sync()

    def change(self):
        """Writes rows of about 1 % of the pages, drawn at random, without changing what `truth` asks for."""
        self.sql("SELECT setseed(0.42); UPDATE pgbench_accounts SET abalance = abalance WHERE aid IN "
                 "(SELECT (random() * (SELECT max(aid) FROM pgbench_accounts))::int FROM generate_series(1, "
                 "(SELECT sum(pg_database_size(oid)) / 8192 / 100 FROM pg_database)::int))")

    # -- the server ----------------------------------------------------------------------------------------

    def start(self, options=""):
        self.stop()
        self.socket = tempfile.mkdtemp(prefix="refloat-bench.", dir="/tmp")
        self._tool("pg_ctl", "-D", self.data, "-w", "-t", "600", "-l", os.path.join(self.home, "server.log"),
                   "-o", f"-k {self.socket} {options}", "start")

    def stop(self):
        if os.path.exists(os.path.join(self.data, "postmaster.pid")):
            subprocess.run([os.path.join(self.bin, "pg_ctl"), "-D", self.data, "-m", "fast", "-w", "-t", "600", "stop"],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        if self.socket:
            shutil.rmtree(self.socket, ignore_errors=True)
            self.socket = None

    def sql(self, statement):
        return run_sql(self.bin, self.socket, statement)

    def truth(self, socket=None):
        """What a restored copy must answer too."""
        socket = socket or self.socket
        if self.name == "text":
            ask = ("SELECT (SELECT count(*) FROM pgbench_accounts), (SELECT sum(abalance) FROM pgbench_accounts), "
                   "(SELECT count(*) FROM pgbench_history), (SELECT sum(hashtext(body)) FROM notes), "
                   "(SELECT sum(hashtext(doc::text)) FROM events)")
        elif self.name == "relations":
            ask = ("SELECT count(*), (SELECT sum(hashtext(t)) FROM small_7) FROM pg_class "
                   "WHERE relkind = 'r' AND relname LIKE 'small_%'")
        else:
            ask = "SELECT count(*), sum(hashtext(caption)), sum(hashtext(md5(data))) FROM blobs"
        return run_sql(self.bin, socket, ask)

    def warm(self):
        """Reads the data directory once, so that every run finds it in the page cache."""
        warm(self.data)

    def prove(self, directory):
        """Starts a restored directory, waits for it to answer, compares. Raises when it differs."""
        socket = tempfile.mkdtemp(prefix="refloat-bench.", dir="/tmp")
        control = [os.path.join(self.bin, "pg_ctl"), "-D", directory]
        try:
            started = subprocess.run(
                control + ["-w", "-t", "600", "-l", os.path.join(self.home, "restored.log"), "-o",
                           f"-k {socket} -c listen_addresses='' -c archive_mode=off -c hot_standby=on", "start"],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
            if started.returncode != 0:
                raise RuntimeError(f"the restored {directory} does not start: see {self.home}/restored.log")
            got, want = self.truth(socket), self.facts()["truth"]
            if got != want:
                raise RuntimeError(f"the restored {directory} answers {got}, the original {want}")
        finally:
            subprocess.run(control + ["-m", "immediate", "stop"], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, check=False)
            shutil.rmtree(socket, ignore_errors=True)

    def _tool(self, name, *args):
        done = subprocess.run([os.path.join(self.bin, name), *args], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{name} failed:\n{done.stdout.decode(errors='replace')[-2000:]}")

    def _copy(self, table, rows):
        psql = subprocess.Popen([os.path.join(self.bin, "psql"), "-h", self.socket, "-U", "postgres", "-XqAt",
                                 "-c", f"COPY {table} FROM STDIN"], stdin=subprocess.PIPE)
        with psql.stdin as pipe:
            batch = []
            for row in rows:
                batch.append(row)
                if len(batch) == 1000:
                    pipe.write("".join(batch).encode())
                    batch.clear()
            pipe.write("".join(batch).encode())
        if psql.wait() != 0:
            raise RuntimeError(f"COPY {table} failed")


def run_sql(bin_dir, socket, statement):
    done = subprocess.run([os.path.join(bin_dir, "psql"), "-h", socket, "-U", "postgres", "-XqAt", "-v",
                           "ON_ERROR_STOP=1", "-c", statement, "postgres"],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{statement}: {done.stderr.decode(errors='replace')}")
    return done.stdout.decode().strip()


def vocabulary(draw):
    """4000 pronounceable words with the falling frequencies of a language: (words, cumulative weights)."""
    heads, vowels, tails = "bcdfghjklmnprstvwz", "aeiou", ["", "n", "r", "s", "st", "l", "m", "t"]
    words = []
    while len(words) < 4000:
        syllables = draw.choices([1, 2, 3, 4], weights=[2, 5, 3, 1])[0]
        words.append("".join(draw.choice(heads) + draw.choice(vowels) + draw.choice(tails) for _ in range(syllables)))
    total, weights = 0.0, []
    for rank in range(len(words)):
        total += 1.0 / (rank + 5)
        weights.append(total)
    return words, weights


def warm(directory):
    for folder, _, files in os.walk(directory):
        for name in files:
            try:
                with open(os.path.join(folder, name), "rb", buffering=0) as file:
                    while file.read(1 << 20):
                        pass
            except OSError:
                continue
