#!/usr/bin/env python3
"""corpus_test.py DUMP PACKAGE: the damaged images of e2fsprogs (tests/f_*) or btrfs-progs (fuzz-tests) free nothing that is in use.

What is in use is what the filesystem's own checker finds in use and not marked so. Exit 77 when scripts/fetch-corpus can get
no source package.
"""

import collections
import gzip
import lzma
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import imagelib
from hostile_test import runs_of, subtract
from imagelib import Dump, run, scribble

# Images without checksums whose bitmaps lie so that no reader can tell; the kernel's own trim frees the same.
MAY_BE_WRONG = {"e2fsprogs": 4, "btrfs-progs": 0}


def images(directory, work):
    for path in sorted(directory.rglob("*")):
        opened = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix)
        if opened is None:
            continue
        image = work / "image"
        with opened(path) as packed, open(image, "wb") as file:
            shutil.copyfileobj(packed, file)
        yield path.parent.name if path.name == "image.gz" else path.name, image


def checksummed(image):
    return image.name == "image" and "metadata_csum" in run("dumpe2fs", "-h", image, check=False).stdout


def judge_e2fsprogs(image, runs, block):
    """Bytes of `runs` that e2fsck finds in use though their bitmap says free; None when it finds nothing at all."""
    checked = run("e2fsck", "-fn", image, check=False)
    if checked.returncode == 0:
        return None
    used = []
    for line in re.findall(r"^Block bitmap differences:(.*)$", checked.stdout, re.M):
        for one, first, last in re.findall(r"\+(?:(\d+)|\((\d+)--(\d+)\))", line):
            begin, end = (int(one), int(one)) if one else (int(first), int(last))
            used.append((begin * block, (end - begin + 1) * block))
    total = sum(length for _, length in used)
    return total - subtract(sorted(used), runs)


def judge_btrfs(image, runs):
    """Bytes given back of which btrfs misses one: what its checker finds anew when they are scribbled over."""
    before = run("btrfs", "check", "--check-data-csum", image, check=False).stdout.splitlines()
    with open(image, "r+b") as file:
        for offset, length in runs:
            scribble(file.fileno(), offset, length)
    after = run("btrfs", "check", "--check-data-csum", image, check=False).stdout.splitlines()
    return 0 if before == after else sum(length for _, length in runs)


def main():
    dump, package = Dump(sys.argv[1]), sys.argv[2]
    imagelib.need("e2fsck", "dumpe2fs")
    fetch = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "fetch-corpus"
    done = subprocess.run([str(fetch), package], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        print(f"SKIP: no source package of {package} (no network, or not a Debian)")
        sys.exit(imagelib.SKIP)
    counts, wrong_images, failed = collections.Counter(), [], 0
    with tempfile.TemporaryDirectory(prefix="freemap-corpus.") as work:
        os.environ["TMPDIR"] = tempfile.tempdir = work
        for name, image in images(pathlib.Path(done.stdout.strip()), pathlib.Path(work)):
            found = dump(image)
            runs = runs_of(found)
            counts[found[0].refusal if found else "nothing"] += 1
            if not runs:
                continue
            wrong = judge_e2fsprogs(image, runs, found[0].block) if package == "e2fsprogs" else judge_btrfs(image, runs)
            if not wrong:
                counts["read, checker content" if wrong is None else "read, nothing wrong"] += 1
                continue
            print(f"{name}: {wrong} bytes of {sum(length for _, length in runs)} are in use"
                  + (", CHECKSUMMED" if checksummed(image) else ""))
            wrong_images.append(name)
            failed += checksummed(image)
    print(f"{package}: " + ", ".join(f"{n} {k}" for k, n in sorted(counts.items())) + f"; {len(wrong_images)} with wrong bytes")
    sys.exit(1 if failed or len(wrong_images) > MAY_BE_WRONG[package] else 0)


if __name__ == "__main__":
    main()
