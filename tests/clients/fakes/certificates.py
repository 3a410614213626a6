"""A certificate authority for one test run, made with the `openssl` command."""

import subprocess

NAMES = ["DNS:api.openai.com", "DNS:api.anthropic.com", "DNS:tools.example.com", "DNS:localhost", "IP:127.0.0.1"]
CONFIG = f"""
[req]
distinguished_name = name
prompt = no
[name]
CN = Sideguard client tests
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {", ".join(NAMES)}
"""


def make(folder):
    """Writes `ca.crt`, `leaf.crt` and `leaf.key` to a folder; the leaf is for every host that the fakes play."""
    (folder / "openssl.cnf").write_text(CONFIG)

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-config", "openssl.cnf"]
    openssl("req", "-x509", *new_key, "-extensions", "ca", "-days", "30", "-keyout", "ca.key", "-out", "ca.crt")
    openssl("req", "-new", *new_key, "-subj", "/CN=fake provider", "-keyout", "leaf.key", "-out", "leaf.csr")
    signing = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "openssl.cnf", "-extensions", "leaf"]
    openssl("x509", "-req", "-in", "leaf.csr", *signing, "-days", "30", "-out", "leaf.crt")
