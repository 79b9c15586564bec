"""A real timestamp authority of the tests' own: `openssl ts` behind a small HTTP server, under a CA made for the test."""

from __future__ import annotations

import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

_CONFIG: Final = """
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign
[tsa]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
[ts]
default_tsa = authority
[authority]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1
ess_cert_id_chain = no
"""


class Tsa:
    """Answers under `url`; `roots` is the CA to verify it against."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.roots = folder, folder / "ca.pem"
        self.answer: bytes | None = None
        """When set: what it answers to everything."""
        self.asked = 0
        (folder / "openssl.cnf").write_text(_CONFIG.format(folder=folder))
        (folder / "serial").write_text("01\n")
        self._certificate("ca")
        self._certificate("tsa", "-CA", str(self.roots), "-CAkey", str(folder / "ca.key"))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/tsa"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def verified(self, token: bytes, text: bytes) -> bool:
        """What `openssl ts -verify` says of a token over a text."""
        (self.folder / "token").write_bytes(token)
        (self.folder / "text").write_bytes(text)
        words = ["ts", "-verify", "-in", str(self.folder / "token"), "-data", str(self.folder / "text"), "-CAfile", str(self.roots)]
        return subprocess.run(["openssl", *words], capture_output=True, check=False).returncode == 0

    def _certificate(self, name: str, *issuer: str) -> None:
        words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        files = ["-config", str(self.folder / "openssl.cnf"), "-extensions", name]
        out = ["-keyout", str(self.folder / f"{name}.key"), "-out", str(self.folder / f"{name}.pem")]
        subprocess.run(["openssl", *words, *files, *out, *issuer], check=True, capture_output=True)

    def _reply(self, query: bytes) -> bytes:
        asked, answer = self.folder / "query", self.folder / "reply"
        asked.write_bytes(query)
        words = ["ts", "-reply", "-queryfile", str(asked), "-out", str(answer), "-config", str(self.folder / "openssl.cnf"), "-section"]
        subprocess.run(["openssl", *words, "authority"], check=True, capture_output=True)
        return answer.read_bytes()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        tsa = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = self.rfile.read(int(self.headers["content-length"]))
                tsa.asked += 1
                body = tsa.answer if tsa.answer is not None else tsa._reply(query)
                self.send_response(200 if self.headers["content-type"] == "application/timestamp-query" else 415)
                self.send_header("content-type", "application/timestamp-reply")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                """It says nothing."""

        return Handler
