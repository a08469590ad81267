"""Sends a file to a Comity server in pieces, and goes on where it stopped.

    pip install tuspy
    COMITY_TOKEN=… python3 upload.py http://127.0.0.1:8008 FILE [--pieces N]

Where the file goes stands in FILE.upload until it is whole, so that a second call goes on after the first was interrupted, or,
with --pieces, had sent so many of a megabyte each.
"""

import argparse
import hashlib
import json
import os
import pathlib
import urllib.request

from tusclient.client import TusClient

PIECE = 1 << 20

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("server")
arguments.add_argument("file", type=pathlib.Path)
arguments.add_argument("--pieces", type=int)
arguments = arguments.parse_args()

authorization = {"Authorization": "Bearer " + os.environ["COMITY_TOKEN"]}
client = TusClient(arguments.server + "/api/v1/files", headers=authorization)
noted = arguments.file.with_name(arguments.file.name + ".upload")
uploader = client.uploader(
    str(arguments.file),
    chunk_size=PIECE,
    url=noted.read_text() if noted.exists() else None,
    metadata={
        "filename": arguments.file.name,
        "filetype": "application/octet-stream",
        "sha256": hashlib.sha256(arguments.file.read_bytes()).hexdigest(),
    },
)
if not uploader.url:
    uploader.set_url(uploader.create_url())
    noted.write_text(uploader.url)

sent = 0
while uploader.offset < uploader.get_file_size() and sent != arguments.pieces:
    uploader.upload_chunk()
    sent += 1

question = urllib.request.Request(uploader.url, headers=authorization)
with urllib.request.urlopen(question) as answer:
    upload = json.load(answer)
if upload["expires_at"] is None:
    noted.unlink()
print(json.dumps(upload))
