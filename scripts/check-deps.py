#!/usr/bin/env python3
"""Holds what is built against the `[bans]` and `[sources]` of deny.toml.

Reads the same file as cargo-deny and needs nothing but Python: building
cargo-deny itself takes longer than the rest of the checks together. It knows
what our file uses: `name`, `name:<version` and `name@version`.
"""

import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent


def version(text: str) -> tuple[int, ...]:
    """The numbers of a version, without pre-release and build parts."""
    numbers = re.split(r"[-+]", text, maxsplit=1)[0].split(".")
    return tuple(int(number) for number in numbers) + (0,) * (3 - len(numbers))


def forbids(rule: str, name: str, found: str) -> bool:
    """Whether `rule` forbids version `found` of the package `name`."""
    parsed = re.fullmatch(r"([A-Za-z0-9_-]+)(?::<\s*([0-9.]+)|@([0-9.]+))?", rule)
    if parsed is None:
        sys.exit(f"check-deps: deny.toml: cannot read the rule '{rule}'")
    crate, below, exact = parsed.groups()
    if crate != name:
        return False
    if below:
        return version(found) < version(below)
    return exact is None or version(found) == version(exact)


def packages() -> set[tuple[str, str, str]]:
    """Name, version and source of all that a build of the workspace compiles.

    Not Cargo.lock: that also names what only features nobody enables would use.
    """
    command = ["cargo", "tree", "--workspace", "--target", "all"]
    command += ["--prefix", "none", "--format", "{p}"]
    tree = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    line = re.compile(r"(\S+) v(\S+)(?: \(proc-macro\))?(?: \((.*?)\))?(?: \(\*\))?")
    found = set()
    for text in filter(None, tree.stdout.splitlines()):
        name, version, source = line.fullmatch(text).groups()
        found.add((name, version, source or ""))
    return found


def main() -> None:
    bans = tomllib.loads((ROOT / "deny.toml").read_text())["bans"]["deny"]
    built = packages()
    faults = []
    for name, found, source in sorted(built):
        for ban in bans:
            if forbids(ban["crate"], name, found):
                faults.append(f"{name} {found} is forbidden ({ban['crate']}): {ban['reason']}")
        if source and source != "*" and not source.startswith(str(ROOT)):
            faults.append(f"{name} {found} comes from {source}, not from crates.io")
    for fault in faults:
        print(f"check-deps: {fault}", file=sys.stderr)
    if faults:
        sys.exit(1)
    print(f"check-deps: {len(built)} packages, {len(bans)} rules, nothing forbidden")


if __name__ == "__main__":
    main()
