#!/usr/bin/env python3
"""Makes an OCI image archive of one layer from files, without Docker and without a registry.

    mkimage.py OUT.tar NAME:TAG ENTRYPOINT [--user UID] [HOST=PATH_IN_IMAGE ...]

A HOST that is a folder goes in with all it holds, a program with the libraries that it is linked
to. The same input makes the same bytes. Import it
with `ctr -n k8s.io images import OUT.tar`.
https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import tarfile

MEDIA = "application/vnd.oci.image"


def layer(pairs):
    """The uncompressed layer: /tmp, /etc and what was asked for, owned by root."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, mode in (("tmp", 0o1777), ("etc", 0o755)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            tar.addfile(folder)

        def anonymous(entry):
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            return entry

        for host, inside in pairs:
            # A link would point to nowhere in the image.
            host = os.path.realpath(host)
            tar.add(host, inside.lstrip("/"), filter=anonymous)
    return buffer.getvalue()


def libraries(pairs):
    """What the programs among them are linked to, at the same paths."""
    found = {}
    for host, _ in pairs:
        if os.path.isfile(host) and os.access(host, os.X_OK):
            # It fails on what is static or no program at all.
            told = subprocess.run(["ldd", host], capture_output=True, text=True).stdout
            found |= {path: path for path in re.findall(r"(/\S+) \(0x", told)}
    return sorted(found.items())


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(kind, data, **more):
    return {"mediaType": MEDIA + kind, "digest": digest(data), "size": len(data), **more}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("name")
    parser.add_argument("entrypoint")
    parser.add_argument("--user", default="65532")
    parser.add_argument("files", nargs="*")
    args = parser.parse_intermixed_args()

    pairs = [pair.split("=", 1) for pair in args.files]
    plain = layer(pairs + libraries(pairs))
    packed = gzip.compress(plain, 1, mtime=0)
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    config = json.dumps({
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": [args.entrypoint], "User": args.user, "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(plain)]},
    }).encode()
    manifest = json.dumps({
        "schemaVersion": 2,
        "mediaType": MEDIA + ".manifest.v1+json",
        "config": descriptor(".config.v1+json", config),
        "layers": [descriptor(".layer.v1.tar+gzip", packed)],
    }).encode()
    index = json.dumps({
        "schemaVersion": 2,
        "manifests": [descriptor(".manifest.v1+json", manifest, annotations={
            "io.containerd.image.name": args.name,
            "org.opencontainers.image.ref.name": args.name.rsplit(":", 1)[1],
        })],
    }).encode()

    with tarfile.open(args.out, "w") as tar:
        def add(name, data):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))

        add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        add("index.json", index)
        for blob in (config, packed, manifest):
            add("blobs/" + digest(blob).replace(":", "/"), blob)


if __name__ == "__main__":
    main()
