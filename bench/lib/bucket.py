"""An S3 server on loopback for one side: s3s-fs on a directory, and HAProxy before it, which speaks TLS (pgBackRest knows
S3 by no other way) and writes one line for each request."""

import collections
import http.client
import os
import socket
import ssl
import subprocess
import time

REGION, NAME = "us-east-1", "bench"
ACCESS, SECRET = "refloat-bench", "a secret of measurements alone"
# Methods that change something; the others only ask.
WRITES = ("PUT", "POST", "DELETE")


class Programs:
    """What has to be installed (`scripts/provision --bench`, `scripts/servers s3s-fs`)."""

    def __init__(self, s3s_fs, haproxy):
        self.s3s_fs, self.haproxy = s3s_fs, haproxy

    def versions(self):
        said = subprocess.run([self.haproxy, "-v"], stdout=subprocess.PIPE, check=True).stdout.decode()
        server = subprocess.run([self.s3s_fs, "--version"], stdout=subprocess.PIPE, check=True).stdout.decode()
        return {"s3": f"{server.strip()}, behind HAProxy {said.split()[2]}"}


class Bucket:
    """A server whose objects are files below `objects`, and what a client has to know of it."""

    def __init__(self, place, objects, programs):
        self.place, self.objects, self.programs = place, objects, programs
        self.ca_file = os.path.join(place, "ca.pem")
        self.log = os.path.join(place, "requests.log")
        self.port = None
        self._processes = []

    @property
    def endpoint(self):
        return f"https://localhost:{self.port}"

    def start(self):
        """Starts both and waits until they answer."""
        os.makedirs(self.place, mode=0o700, exist_ok=True)
        os.makedirs(os.path.join(self.objects, NAME), mode=0o750)
        self._make_certificates()
        behind, self.port = free_port(), free_port()
        self._begin("s3s-fs", [self.programs.s3s_fs, "--host", "127.0.0.1", "--port", str(behind), "--access-key", ACCESS,
                               "--secret-key", SECRET, self.objects])
        conf = os.path.join(self.place, "haproxy.cfg")
        with open(conf, "w", encoding="utf-8") as out:
            out.write(
                "global\n  log stdout len 4096 format raw local0\n"
                "defaults\n  mode http\n  log global\n  log-format \"%HM %ST %Ta %HU\"\n"
                "  timeout connect 10s\n  timeout client 300s\n  timeout server 300s\n"
                "frontend tls\n"
                f"  bind 127.0.0.1:{self.port} ssl crt {self.place}/server.pem alpn http/1.1\n"
                "  default_backend server\n"
                # A connection for each request: on one that is used again, s3s-fs waits after its header for an
                # acknowledgement that the kernel puts off by 40 ms, which says nothing of any client.
                "backend server\n  option http-server-close\n  http-reuse never\n"
                f"  server only 127.0.0.1:{behind}\n"
            )
        self._begin("requests", [self.programs.haproxy, "-db", "-f", conf])
        self._wait()

    def stop(self):
        for process in self._processes[::-1]:
            process.terminate()
            process.wait()
        self._processes = []

    def asked(self):
        """Where the log of requests ends now: to be given to `requests_since`. A request is logged when it is over, which
        may be a moment after its client has gone."""
        size = -1
        while size != (now := os.path.getsize(self.log)):
            size = now
            time.sleep(0.1)
        return size

    def requests_since(self, begin):
        """How often each method was asked for: {"PUT": 17, ...}."""
        self.asked()
        with open(self.log, encoding="utf-8", errors="replace") as log:
            log.seek(begin)
            methods = [line.split(" ", 1)[0] for line in log]
        return dict(collections.Counter(word for word in methods if word.isalpha() and word.isupper()))

    def _begin(self, name, argv):
        with open(os.path.join(self.place, name + ".log"), "ab") as log:
            self._processes.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"))

    def _wait(self):
        context = ssl.create_default_context(cafile=self.ca_file)
        until = time.monotonic() + 30
        while True:
            try:
                asking = http.client.HTTPSConnection("localhost", self.port, timeout=5, context=context)
                asking.request("GET", "/")
                # HAProxy answers so while there is nobody behind it.
                if asking.getresponse().status != 503:
                    return
            except OSError:
                pass
            if time.monotonic() > until or any(process.poll() is not None for process in self._processes):
                raise RuntimeError(f"the S3 server does not start: see {self.place}/*.log")
            time.sleep(0.05)

    def _make_certificates(self):
        """An authority of its own and a certificate for this host."""
        def openssl(*words):
            subprocess.run(["openssl", *words], cwd=self.place, check=True, stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj",
                "/CN=bench authority", "-addext", "keyUsage=critical,keyCertSign")
        openssl("req", *key, "-keyout", "server.pem.key", "-out", "server.csr", "-subj", "/CN=localhost")
        with open(os.path.join(self.place, "server.ext"), "w", encoding="utf-8") as out:
            out.write("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n"
                      "extendedKeyUsage=serverAuth\n")
        openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days",
                "30", "-extfile", "server.ext", "-out", "server.pem")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
