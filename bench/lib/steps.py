"""What is measured: each step sets the stage outside the timing, runs, and leaves the stage as it was."""

import filecmp
import os
import random
import shutil

from lib.measure import Runner, median


class Bench:
    """Runs the sides in turn over one cluster and collects rows (see report.py for their shape)."""

    def __init__(self, cluster, sides, runs, scratch, talk, through=""):
        """`through` is added to what each row is called."""
        self.through = through
        self.cluster, self.sides, self.runs, self.scratch, self.talk = cluster, sides, runs, scratch, talk
        self.runners = {side.name: Runner(side.log, side.environment()) for side in sides}

    def in_turn(self, step, label, writes=False):
        """Measures `step` for every side, alternating who goes first, then counts syncs once per side. With
        `writes`, also says what the repository takes after it.

        `step(side)` is a generator: it yields once when the stage is set, and receives nothing; before the yield
        and after it nothing is timed. It yields the list of commands to run, one process each."""
        label += self.through
        samples, stored, requests = {side.name: [] for side in self.sides}, {}, {}
        row = {"what": label, "data": self.cluster.name, "sides": {}}
        for turn in range(self.runs):
            order = self.sides if turn % 2 == 0 else self.sides[::-1]
            for side in order:
                stage = step(side)
                commands = next(stage)
                begin = side.bucket.asked() if side.bucket else None
                sample = self.runners[side.name].timed_each(commands)
                if side.bucket:
                    requests[side.name] = side.bucket.requests_since(begin), len(commands)
                next(stage, None)
                # Before the counting pass, which may run less than all.
                stored[side.name] = side.stored_bytes() - side.based_bytes if writes else None
                samples[side.name].append(sample)
                self.talk(f"  {label} {side.name} {turn + 1}/{self.runs}: {sample.wall:.2f} s, cpu {sample.cpu:.2f} s")
        for side in self.sides:
            syncs, memory = self._count(step, side)
            got = samples[side.name]
            row["sides"][side.name] = {
                "wall": median([s.wall for s in got]),
                "cpu": median([s.cpu for s in got]),
                "rss": max(s.rss for s in got),
                "tree": memory,
                "syncs": syncs,
                "stored": stored[side.name],
                "requests": requests.get(side.name),
                "runs": [s.to_json() for s in got],
            }
        return row

    def _count(self, step, side):
        """One pass under strace; of many small commands only ten, for one process is like the other. Not of those that
        follow each other: what a `fetch` then leaves behind to read ahead is waited for by strace too."""
        stage = step(side)
        commands = next(stage)[:20:2]
        total, peak = {}, 0
        for argv in commands:
            syncs, memory = self.runners[side.name].counted(argv, self.scratch)
            peak = max(peak, memory)
            for name, count in syncs.items():
                total[name] = total.get(name, 0) + count
        next(stage, None)
        return {name: count / len(commands) for name, count in total.items()}, peak

    # -- steps ---------------------------------------------------------------------------------------------

    def full(self, label="full backup"):
        """A full backup into a repository that was just made, with the archiver serving the same side."""

        def step(side):
            side.reset()
            self.cluster.archive_to("side", side.archive_command())
            self.cluster.quiet()
            yield [side.full()]
            self.cluster.settle()
            self.cluster.archive_to("none")

        self.cluster.warm()
        return [self.in_turn(step, label, writes=True)]

    def restore(self, places):
        """Restores the latest backup into an empty directory, on each of `places` ({name: parent directory})."""
        for side in self.sides:
            self._back_up(side)
        rows = []
        for place, parent in places.items():
            target = os.path.join(parent, "restored")

            def step(side, target=target):
                shutil.rmtree(target, ignore_errors=True)
                os.mkdir(target, 0o700)
                os.sync()
                yield [side.restore(target)]
                shutil.rmtree(target, ignore_errors=True)

            for side in self.sides:
                self._prove(side, target)
            rows.append(self.in_turn(step, f"restore to {place}"))
        return rows

    def _prove(self, side, target, keep=False):
        """A restore counts when the server it gives answers like the original. Also warms the page cache."""
        shutil.rmtree(target, ignore_errors=True)
        os.mkdir(target, 0o700)
        side.run(side.restore(target))
        if keep:
            return
        self.cluster.prove(target)
        shutil.rmtree(target, ignore_errors=True)

    def incremental(self):
        """Incremental backups upon a full one: nothing changed, found by the file system's word and by reading all of
        it; then with about 1 % of the pages changed at random. What is stored is what the full backup had not."""
        for side in self.sides:
            self._back_up(side)
            side.keep()

        def step_of(command):
            def step(side):
                side.reset()
                self.cluster.archive_to("side", side.archive_command())
                self.cluster.quiet()
                yield [command(side)]
                self.cluster.settle()
                self.cluster.archive_to("none")
            return step

        rows = []
        try:
            # The first one reads what was not settled when the full backup began; what follows is the usual case.
            for side in self.sides:
                self._once(step_of(lambda side: side.incremental(False)), side)
            self.cluster.warm()
            for label, everything in (("by the file system's word", False), ("all of it read", True)):
                command = step_of(lambda side, everything=everything: side.incremental(everything))
                rows.append(self.in_turn(command, f"incremental, nothing changed, {label}", writes=True))
            self.cluster.change()
            rows.append(self.in_turn(step_of(lambda side: side.incremental(False)), "incremental, 1 % changed",
                                     writes=True))
        finally:
            for side in self.sides:
                side.forget()
        return rows

    def _back_up(self, side):
        """An untimed full backup into a repository that was just made."""
        side.reset()
        self.cluster.archive_to("side", side.archive_command())
        self.cluster.quiet()
        side.run(side.full())
        self.cluster.settle()
        self.cluster.archive_to("none")

    def _once(self, step, side):
        """An untimed run whose result is the state that the timed ones begin with."""
        stage = step(side)
        for argv in next(stage):
            side.run(argv)
        next(stage, None)
        side.keep()

    def delta(self, places):
        """Restores over a directory of which 1 % of the pages differ, taken at random; the result is the same each time."""
        rows = []
        for side in self.sides:
            self._back_up(side)
        for place, parent in places.items():
            targets = {side.name: os.path.join(parent, "delta-" + side.name) for side in self.sides}
            for side in self.sides:
                self._prove(side, targets[side.name], keep=True)

            def step(side, targets=targets):
                dirty(targets[side.name])
                os.sync()
                yield [side.delta(targets[side.name])]

            try:
                rows.append(self.in_turn(step, f"delta restore to {place}, 1 % changed"))
                for side in self.sides:
                    self.cluster.prove(targets[side.name])
            finally:
                for target in targets.values():
                    shutil.rmtree(target, ignore_errors=True)
        return rows

    def push(self):
        """All collected segments, one process each, into a repository that was just made."""

        def step(side):
            side.reset()
            os.sync()
            yield [side.push(path) for path in self.cluster.segments()]

        return [self.in_turn(step, f"{len(self.cluster.segments())} segments pushed", writes=True)]

    def fetch(self):
        """All collected segments back, one process each, to the name that a recovery has them put under."""
        paths = self.cluster.segments()
        into = os.path.join(self.scratch, "fetched")
        replayed = os.path.join(into, "RECOVERYXLOG")

        def commands(side):
            return [side.fetch(os.path.basename(path), replayed) for path in paths]

        for side in self.sides:
            side.reset()
            for path in paths:
                side.run(side.push(path))
            shutil.rmtree(into, ignore_errors=True)
            os.mkdir(into, 0o700)
            for argv, path in zip(commands(side), paths):
                side.run(argv)
                if not filecmp.cmp(path, replayed, shallow=False):
                    raise RuntimeError(f"{side.name} fetched something else than {path}")

        def step(side):
            shutil.rmtree(into, ignore_errors=True)
            os.mkdir(into, 0o700)
            os.sync()
            yield commands(side)

        return [self.in_turn(step, f"{len(paths)} segments fetched")]


def dirty(directory):
    """Writes into one page in a hundred of every table, drawn from a fixed seed."""
    draw = random.Random(99)
    for folder, _, names in os.walk(os.path.join(directory, "base")):
        for name in sorted(names):
            path = os.path.join(folder, name)
            pages = os.path.getsize(path) // 8192
            if pages < 100:
                continue
            with open(path, "r+b") as file:
                for page in draw.sample(range(pages), pages // 100):
                    file.seek(page * 8192 + 5000)
                    file.write(b"dirty")
