"""The two sides of the comparison: how each is set up, and the command line of every measured step.

Both have: two workers, zstd level 1, encryption, a repository on the same file system (in a directory, with files synced to
disk, or in a bucket whose server, of the same kind for both, keeps it there).
A side's repository and state are one directory, kept as it was right after its initialisation, so that every
measured run begins from the same state (`reset`) and nothing is deleted by the side itself inside the timing.
"""

import os
import shutil
import subprocess

from lib import bucket as s3


class Side:
    """What both have in common. `home` holds `repo`-like things that `reset` puts back."""

    name = "?"

    def __init__(self, work, cluster, program, servers=None):
        """With `servers` (a `bucket.Programs`), the repository is in a bucket."""
        self.cluster, self.program = cluster, program
        through = "-s3" if servers else ""
        self.root = os.path.join(work, self.name, cluster.name + cluster.scale.suffix + through)
        self.home = os.path.join(self.root, "home")
        self.fresh = os.path.join(self.root, "fresh")
        self.kept = os.path.join(self.root, "kept")
        self.log = os.path.join(self.root, "log")
        self.based_bytes = 0
        self.bucket = None
        if servers:
            self.bucket = s3.Bucket(os.path.join(self.root, "server"), self.repository(), servers)

    def repository(self):
        """The directory that what is stored ends up in, by whatever way."""
        return os.path.join(self.home, "repo")

    def prepare(self):
        """Initialises a repository for the running cluster and keeps a copy of it."""
        shutil.rmtree(self.root, ignore_errors=True)
        os.makedirs(self.home, mode=0o700)
        os.makedirs(os.path.join(self.root, "conf"), mode=0o700)
        os.makedirs(self.repository(), mode=0o750)
        if self.bucket:
            self.bucket.start()
        self.cluster.archive_to("side", self.archive_command())
        self.initialise()
        self.cluster.archive_to("none")
        self.cluster.settle()
        shutil.copytree(self.home, self.fresh, symlinks=True)
        self.forget()

    def close(self):
        """What was started by `prepare` ends."""
        if self.bucket:
            self.bucket.stop()

    def reset(self):
        """Back to what was kept last, else to what initialisation made."""
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(self.kept if os.path.exists(self.kept) else self.fresh, self.home, symlinks=True)

    def keep(self):
        """What is there now is what `reset` puts back, until `forget`."""
        shutil.rmtree(self.kept, ignore_errors=True)
        shutil.copytree(self.home, self.kept, symlinks=True)
        self.based_bytes = self.stored_bytes()

    def forget(self):
        shutil.rmtree(self.kept, ignore_errors=True)
        # What initialisation stored, a rescue kit among it, is no backup's.
        self.based_bytes = self.bytes_of(self.fresh)

    def run(self, argv):
        """An untimed command that must succeed."""
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env=self.environment(), cwd="/", check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout.decode(errors='replace')[-3000:]}")
        return done.stdout.decode(errors="replace")

    def environment(self):
        return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": self.root, "LC_ALL": "C.UTF-8"}

    def stored_bytes(self):
        return self.bytes_of(self.home)

    def bytes_of(self, home):
        """What the repository below `home` takes."""
        place = os.path.join(home, os.path.relpath(self.repository(), self.home))
        return sum(
            os.lstat(os.path.join(folder, name)).st_size
            for folder, _, names in os.walk(place)
            for name in names
        )


class Peer(Side):
    """pgBackRest."""

    name = "pgbackrest"

    def __init__(self, work, cluster, program, servers=None):
        super().__init__(work, cluster, program, servers)
        self.conf = os.path.join(self.root, "conf", "pgbackrest.conf")

    def version(self):
        return self.run([self.program, "version"]).strip()

    def initialise(self):
        for name in ("lock", "spool", "logs"):
            os.makedirs(os.path.join(self.home, name), mode=0o750)
        place = f"repo1-path={self.repository()}\n"
        if self.bucket:
            place = ("repo1-type=s3\nrepo1-path=/repo\nrepo1-s3-uri-style=path\n"
                     f"repo1-s3-bucket={s3.NAME}\nrepo1-s3-region={s3.REGION}\nrepo1-s3-endpoint=localhost\n"
                     f"repo1-storage-port={self.bucket.port}\nrepo1-storage-ca-file={self.bucket.ca_file}\n"
                     f"repo1-s3-key={s3.ACCESS}\nrepo1-s3-key-secret={s3.SECRET}\n")
        with open(self.conf, "w", encoding="utf-8") as conf:
            conf.write(
                "[global]\n"
                f"{place}"
                "repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=MzJkZjM4ZjYtYmVuY2gtb25seQ\n"
                "repo1-bundle=y\nrepo1-retention-full=2\n"
                "process-max=2\ncompress-type=zst\ncompress-level=1\nstart-fast=y\n"
                f"lock-path={self.home}/lock\nspool-path={self.home}/spool\nlog-path={self.home}/logs\n"
                "log-level-file=off\nlog-level-console=warn\n\n"
                f"[bench]\npg1-path={self.cluster.data}\npg1-socket-path={self.cluster.socket}\npg1-user=postgres\n"
            )
        os.chmod(self.conf, 0o600)
        self.run(self._command("stanza-create"))

    def reconnect(self):
        """The server was started again, on another socket."""
        with open(self.conf, encoding="utf-8") as conf:
            lines = [f"pg1-socket-path={self.cluster.socket}\n" if line.startswith("pg1-socket-path=") else line
                     for line in conf]
        with open(self.conf, "w", encoding="utf-8") as conf:
            conf.writelines(lines)

    def archive_command(self):
        return " ".join(self._command("archive-push")) + " %p"

    def full(self):
        return self._command("--type=full", "backup")

    def incremental(self, everything):
        return self._command("--type=incr", *(["--delta"] if everything else []), "backup")

    def delta(self, directory):
        return self._command(f"--pg1-path={directory}", "--delta", "restore")

    def restore(self, directory):
        return self._command(f"--pg1-path={directory}", "restore")

    def push(self, path):
        return self._command("archive-push", path)

    def fetch(self, name, destination):
        return self._command("archive-get", name, destination)

    def _command(self, *words):
        return [self.program, f"--config={self.conf}", "--stanza=bench", *words]


class Ours(Side):
    """Refloat."""

    name = "refloat"

    def __init__(self, work, cluster, program, servers=None):
        super().__init__(work, cluster, program, servers)
        self.conf = os.path.join(self.root, "conf", "refloat.toml")

    def version(self):
        return self.run([self.program, "--version"]).strip()

    def initialise(self):
        secret = os.path.join(self.root, "conf", "passphrase")
        with open(secret, "w", encoding="utf-8") as out:
            out.write("turbine lava kettle north nineteen fable\n")
        os.chmod(secret, 0o600)
        place = f'url = "file://{self.repository()}"\n'
        if self.bucket:
            access = os.path.join(self.root, "conf", "secret-access-key")
            with open(access, "w", encoding="utf-8") as out:
                out.write(s3.SECRET)
            os.chmod(access, 0o600)
            place = (f'url = "s3://{s3.NAME}/repo"\nendpoint = "{self.bucket.endpoint}"\nregion = "{s3.REGION}"\n'
                     f'ca_file = "{self.bucket.ca_file}"\ncredentials = {{ access_key_id = "{s3.ACCESS}", '
                     f'secret_access_key = {{ file = "{access}" }} }}\n')
        with open(self.conf, "w", encoding="utf-8") as conf:
            conf.write(
                f'state = "{self.home}/state"\n\n'
                "[repository.bench]\n"
                f"{place}"
                f'encryption = {{ passphrase = {{ file = "{secret}" }} }}\n'
                'compression = "zstd:1"\n\n'
                "[source.bench]\n"
                'kind = "postgres"\nrepositories = ["bench"]\njobs = 2\n'
                f'data_directory = "{self.cluster.data}"\n'
            )
        os.chmod(self.conf, 0o600)
        self.run(self._command("init", "--key-kept"))

    def reconnect(self):
        """Socket and port are read from the data directory."""

    def archive_command(self):
        return " ".join(self._command("wal", "push", "--source", "bench")) + " %p"

    def full(self):
        return self._command("backup", "bench", "--type", "full")

    def incremental(self, everything):
        return self._command("backup", "bench", "--type", "incr", *(["--scan"] if everything else []))

    def delta(self, directory):
        return self._command("restore", "bench", "latest", "--to", directory, "--delta", "--as", "copy", "--yes")

    def restore(self, directory):
        return self._command("restore", "bench", "latest", "--to", directory, "--as", "copy", "--yes")

    def push(self, path):
        return self._command("wal", "push", "--source", "bench", path)

    def fetch(self, name, destination):
        return self._command("wal", "fetch", "--source", "bench", name, destination)

    def _command(self, *words):
        return [self.program, "--config", self.conf, *words]
