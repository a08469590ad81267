#!/usr/bin/env python3
"""A chat system that federates with Comity without speaking Matrix: everything it takes, in one file.

It needs Python 3.9 and PyNaCl. It publishes its key, delivers messages in the simple form and takes the replies:

    example_peer.py b.example seed.key cert.pem key.pem 0.0.0.0:8448

Lines on its standard input are sent: `bob alice@a.example Hello!` is from bob@b.example. What comes in is printed, one
JSON object a line. Other servers are looked for at port 8448 of their names; --reach NAME=HOST:PORT and --ca FILE say
otherwise. A real one would also look at /.well-known/matrix/server and SRV records, keep its queue on disk, and remember
the ids of messages and tokens for longer than it runs.
"""
import argparse, base64, http.client, json, os, secrets, ssl, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

KEY_ID = "ed25519:1"
DELIVER = "/api/v1/federation/messages/deliver"
canonical = lambda value: json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
b64 = lambda data: base64.b64encode(data).decode().rstrip("=")
b64url = lambda data: base64.urlsafe_b64encode(data).decode().rstrip("=")
unb64 = lambda text: base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
unb64url = lambda text: base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def ask(server, method, path, body=None, headers={}):
    """One request to another server: its status and its JSON."""
    host, port = places.get(server, (server, 8448))
    connection = http.client.HTTPSConnection(host, port, timeout=20, context=trust(server))
    connection.request(method, path, body, {"Host": server, "Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read(1 << 20) or b"{}")


def trust(server):
    context = ssl.create_default_context(cafile=args.ca)
    wrap = context.wrap_socket  # the certificate must name the server, wherever it is reached
    context.wrap_socket = lambda sock, server_hostname=None, **rest: wrap(sock, server_hostname=server, **rest)
    return context


def send(sender, to, text):
    """Delivers a message, and tells what came of it. Whoever can't be reached is to be tried again with the same id."""
    server, now = to.rsplit("@", 1)[1], int(time.time())
    message = {"message_id": secrets.token_hex(8), "from": f"{sender}@{args.name}", "to": to, "body": text, "sent_at": now * 1000}
    claims = {"iss": args.name, "aud": server, "sub": message["from"], "scope": ["messaging"],
              "iat": now, "exp": now + 60, "jti": secrets.token_hex(16)}
    body, head = canonical(message), {"alg": "EdDSA", "typ": "JWT", "kid": KEY_ID}
    token = b64url(canonical(head)) + "." + b64url(canonical(claims))
    token += "." + b64url(key.sign(token.encode()).signature)
    signature = f"{KEY_ID} {b64(key.sign(body).signature)}"
    headers = {"Authorization": f"Bearer {token}", "X-Comity-Signature": signature}
    return ask(server, "POST", DELIVER, body, headers)


def published():
    keys = {"server_name": args.name, "valid_until_ts": int(time.time() + 86400) * 1000, "old_verify_keys": {},
            "verify_keys": {KEY_ID: {"key": b64(key.verify_key.encode())}}}
    return {**keys, "signatures": {args.name: {KEY_ID: b64(key.sign(canonical(keys)).signature)}}}


def check(headers, body):
    """Who signed the request, and the message in it. Raises what is wrong with it."""
    scheme, token = headers["Authorization"].split(" ")
    text, signature = token.rsplit(".", 1)
    head, claims = (json.loads(unb64url(part)) for part in text.split("."))
    if scheme != "Bearer" or head["alg"] != "EdDSA" or not head["kid"].startswith("ed25519:"):
        raise ValueError("not an ed25519 token")
    now = time.time()
    if claims["aud"] != args.name or not claims["iat"] - 30 <= now <= claims["exp"] + 30 or claims["exp"] > claims["iat"] + 300:
        raise ValueError("the token is not for this server, or not for now")
    status, keys = ask(claims["iss"], "GET", "/_matrix/key/v2/server")  # a real one remembers them until valid_until_ts
    verify = VerifyKey(unb64(keys["verify_keys"][head["kid"]]["key"]))
    verify.verify(text.encode(), unb64url(signature))
    key_id, over_body = headers["X-Comity-Signature"].split(" ")
    message = json.loads(body)
    verify.verify(canonical(message), unb64(over_body))
    if key_id != head["kid"] or claims["jti"] in used or not message["from"].endswith("@" + claims["iss"]):
        raise ValueError("used before, or of another server's user")
    used.add(claims["jti"])
    return message


class Face(BaseHTTPRequestHandler):
    def do_GET(self):
        self.say(200, published()) if self.path == "/_matrix/key/v2/server" else self.say(404, {"detail": "no such page"})

    def do_POST(self):
        body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), 1 << 20))
        try:
            message = check(self.headers, body) if self.path == DELIVER else None
        except (BadSignatureError, ValueError, KeyError, TypeError, AttributeError) as error:
            return self.say(401, {"code": "not_believed", "detail": str(error)})
        if message is None:
            return self.say(404, {"detail": "no such page"})
        if message["message_id"] not in known:  # the same message may come twice
            known.add(message["message_id"])
            print(json.dumps(message), flush=True)
        self.say(200, {"messages": [{"message_id": message["message_id"], "status": "accepted"}]})

    def say(self, status, answer):
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    log_message = lambda *_: None


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for name in ("name", "seed", "certificate", "private_key", "listen"):
    parser.add_argument(name)
parser.add_argument("--ca")
parser.add_argument("--reach", action="append", default=[])
args = parser.parse_args()
if not os.path.exists(args.seed):
    with open(os.open(args.seed, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(bytes(SigningKey.generate()))
key = SigningKey(open(args.seed, "rb").read())
places = {name: (place.rsplit(":", 1)[0], int(place.rsplit(":", 1)[1])) for name, place in (one.split("=") for one in args.reach)}
used, known = set(), set()
host, port = args.listen.rsplit(":", 1)
face = ThreadingHTTPServer((host, int(port)), Face)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain(args.certificate, args.private_key)
face.socket = tls.wrap_socket(face.socket, server_side=True)
threading.Thread(target=face.serve_forever, daemon=True).start()
for line in sys.stdin:
    print(json.dumps({"sent": send(*line.rstrip("\n").split(" ", 2))}), flush=True)
