#!/usr/bin/env python3
"""Holds docs/configuration.md against what the programs' --help says.

check-docs.py FOLDER: the folder of the built programs. Every flag and every
environment variable must be in the document, and every flag in the document
must exist.
"""

import pathlib
import re
import subprocess
import sys

DOCUMENT = pathlib.Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
# The fake worker has the flags of bodhi-worker, which takes llama.cpp to build, and some of its own.
PROGRAMS = ("bodhi", "bodhi-controller", "bodhi-dataplane", "fake-worker")
# Of clap itself, on every command.
COMMON = {"--help", "--version"}


def help_texts(command: list[str]) -> list[str]:
    """The help of a command and of all its subcommands."""
    run = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True, env={})
    texts = [run.stdout]
    commands = re.search(r"^Commands:\n((?:  .*\n|\n)*)", run.stdout, re.MULTILINE)
    for name in re.findall(r"^  ([a-z-]+)", commands[1] if commands else "", re.MULTILINE):
        if name != "help":
            texts += help_texts([*command, name])
    return texts


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    text = "\n".join(t for program in PROGRAMS for t in help_texts([str(folder / program)]))
    flags = set(re.findall(r"^\s+(?:-[a-zA-Z], )?(--[a-z][a-z0-9-]*)", text, re.MULTILINE)) - COMMON
    flags = {flag for flag in flags if not flag.startswith("--fake-")}
    variables = set(re.findall(r"\[env: ([A-Z0-9_]+)", text))
    variables = {name for name in variables if not name.startswith("BODHI_WORKER_FAKE_")}
    document = DOCUMENT.read_text()
    documented = set(re.findall(r"`(--[a-z][a-z0-9-]*)", document)) - COMMON
    faults = [f"{flag} is not in the document" for flag in sorted(flags - documented)]
    faults += [f"{flag} is in no program" for flag in sorted(documented - flags)]
    faults += [f"{name} is not in the document" for name in sorted(variables) if name not in document]
    for fault in faults:
        print(f"check-docs: {DOCUMENT.name}: {fault}", file=sys.stderr)
    if faults:
        sys.exit(1)
    print(f"check-docs: {len(flags)} flags and {len(variables)} variables are documented")


if __name__ == "__main__":
    main()
