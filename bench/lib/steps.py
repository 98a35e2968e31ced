"""What is measured: each step sets the stage outside the timing, runs, and leaves the stage as it was."""

import filecmp
import os
import shutil

from lib.measure import Runner, median


class Bench:
    """Runs the sides in turn over one cluster and collects rows (see report.py for their shape)."""

    def __init__(self, cluster, sides, runs, scratch, talk):
        self.cluster, self.sides, self.runs, self.scratch, self.talk = cluster, sides, runs, scratch, talk
        self.runners = {side.name: Runner(side.log, side.environment()) for side in sides}

    def in_turn(self, step, label, writes=False):
        """Measures `step` for every side, alternating who goes first, then counts syncs once per side. With
        `writes`, also says what the repository takes after it.

        `step(side)` is a generator: it yields once when the stage is set, and receives nothing; before the yield
        and after it nothing is timed. It yields the list of commands to run, one process each."""
        samples, stored = {side.name: [] for side in self.sides}, {}
        row = {"what": label, "data": self.cluster.name, "sides": {}}
        for turn in range(self.runs):
            order = self.sides if turn % 2 == 0 else self.sides[::-1]
            for side in order:
                stage = step(side)
                commands = next(stage)
                sample = self.runners[side.name].timed_each(commands)
                next(stage, None)
                # Before the counting pass, which may run less than all.
                stored[side.name] = side.stored_bytes() if writes else None
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
                "runs": [s.to_json() for s in got],
            }
        return row

    def _count(self, step, side):
        """One pass under strace; of many small commands only the first ten, for one process is like the other."""
        stage = step(side)
        commands = next(stage)[:10]
        total, peak = {}, 0
        for argv in commands:
            syncs, memory = self.runners[side.name].counted(argv, self.scratch)
            peak = max(peak, memory)
            for name, count in syncs.items():
                total[name] = total.get(name, 0) + count
        next(stage, None)
        return {name: count / len(commands) for name, count in total.items()}, peak

    # -- steps ---------------------------------------------------------------------------------------------

    def full(self):
        """A full backup into a repository that was just made, with the archiver serving the same side."""

        def step(side):
            side.reset()
            self.cluster.archive_to("side", side.archive_command())
            self.cluster.quiet()
            yield [side.full()]
            self.cluster.settle()
            self.cluster.archive_to("none")

        self.cluster.warm()
        return [self.in_turn(step, "full backup", writes=True)]

    def restore(self, places):
        """Restores the latest backup into an empty directory, on each of `places` ({name: parent directory})."""
        for side in self.sides:
            side.reset()
            self.cluster.archive_to("side", side.archive_command())
            self.cluster.quiet()
            side.run(side.full())
            self.cluster.settle()
            self.cluster.archive_to("none")
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

    def _prove(self, side, target):
        """A restore counts when the server it gives answers like the original. Also warms the page cache."""
        shutil.rmtree(target, ignore_errors=True)
        os.mkdir(target, 0o700)
        side.run(side.restore(target))
        self.cluster.prove(target)
        shutil.rmtree(target, ignore_errors=True)

    def push(self):
        """All collected segments, one process each, into a repository that was just made."""

        def step(side):
            side.reset()
            os.sync()
            yield [side.push(path) for path in self.cluster.segments()]

        return [self.in_turn(step, f"{len(self.cluster.segments())} segments pushed", writes=True)]

    def fetch(self):
        """All collected segments back, one process each, into an empty directory."""
        paths = self.cluster.segments()
        into = os.path.join(self.scratch, "fetched")

        def commands(side):
            return [side.fetch(os.path.basename(path), os.path.join(into, os.path.basename(path))) for path in paths]

        for side in self.sides:
            side.reset()
            for path in paths:
                side.run(side.push(path))
            shutil.rmtree(into, ignore_errors=True)
            os.mkdir(into, 0o700)
            for argv, path in zip(commands(side), paths):
                side.run(argv)
                if not filecmp.cmp(path, os.path.join(into, os.path.basename(path)), shallow=False):
                    raise RuntimeError(f"{side.name} fetched something else than {path}")

        def step(side):
            shutil.rmtree(into, ignore_errors=True)
            os.mkdir(into, 0o700)
            os.sync()
            yield commands(side)

        return [self.in_turn(step, f"{len(paths)} segments fetched")]
