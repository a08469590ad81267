#!/usr/bin/env python3
"""Sends a request that is signed as an application signs it, and prints the answer. Needs Python 3 and nothing else. See ../applications.md.

    export COMITY_APP_KEY=app_… COMITY_APP_SECRET=…
    application.py GET  https://chat.a.example/api/v1/applications/me
    application.py POST https://chat.a.example/api/v1/applications/tokens '{"user": "alice@a.example"}'
    application.py POST https://chat.a.example/api/v1/messages '{"to": "bob@a.example", …}' alice@a.example

The last one acts as Alice.
"""

import hashlib
import hmac
import os
import secrets
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit


def signed(key, secret, method, url, body=b"", user=""):
    """The headers of a request that is signed now."""
    parts = urlsplit(url)
    timestamp, nonce = str(int(time.time() * 1000)), secrets.token_hex(16)
    text = "\n".join([
        "COMITY-HMAC-SHA256",
        method,
        parts.path,
        "&".join(sorted(parts.query.split("&"))),
        key,
        timestamp,
        nonce,
        user,
        hashlib.sha256(body).hexdigest(),
    ])
    headers = {
        "X-App-Key": key,
        "X-App-Timestamp": timestamp,
        "X-App-Nonce": nonce,
        "X-App-Signature": hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest(),
    }
    if user:
        headers["X-App-User"] = user
    if body:
        headers["Content-Type"] = "application/json"
    return headers


def main(method, url, body="", user=""):
    body = body.encode()
    headers = signed(os.environ["COMITY_APP_KEY"], os.environ["COMITY_APP_SECRET"], method, url, body, user)
    request = urllib.request.Request(url, data=body or None, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            print(answer.read().decode())
    except urllib.error.HTTPError as refusal:
        sys.exit(refusal.read().decode())


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
