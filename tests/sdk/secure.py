"""Runs a command against a guard that speaks TLS, as the Realtime client of the Node package insists on it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import House

with tempfile.TemporaryDirectory() as folder:
    certificate, key = Path(folder) / "cert.pem", Path(folder) / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    os.environ["NODE_EXTRA_CA_CERTS"] = str(certificate)
    tls = {"SPENDGUARD_SERVER__TLS__CERT": str(certificate), "SPENDGUARD_SERVER__TLS__KEY": str(key)}
    with House(environment=tls) as house:
        sys.exit(house.run(sys.argv[1:]))
