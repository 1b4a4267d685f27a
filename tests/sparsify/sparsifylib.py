"""Running `virt-reclaim sparsify` on images, and judging what it left, for the tests here."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "freemap"))

from content_test import Case, Image  # noqa: E402
from imagelib import MIB, Dump, allocated, hash_outside, run  # noqa: E402

__all__ = ["MIB", "Case", "Image", "Judge", "Program", "allocated", "as_raw", "children", "disk_of", "form_of", "leak", "part_of", "qcow2_errors",
           "run"]


class Program:
    """The program as it was built, with its helpers, locks and state in a directory of the test's own."""

    def __init__(self, virt_reclaim, worker, directory):
        self.path, self.run_directory = virt_reclaim, pathlib.Path(directory) / "run"
        self.run_directory.mkdir(mode=0o700, exist_ok=True)
        self.environment = os.environ | {"VIRT_RECLAIM_FREEMAP": worker}

    def command(self, *words):
        return [self.path, f"--run-dir={self.run_directory}", "sparsify", "--no-libvirt", "--json", *map(str, words)]

    def start(self, *words):
        return subprocess.Popen(self.command(*words), env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __call__(self, *words, status=0, cwd=None):
        done = subprocess.run(self.command(*words), env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=300)
        if done.returncode != status:
            raise AssertionError(f"sparsify {words}: status {done.returncode}, not {status}: {done.stdout[-3000:]} {done.stderr}")
        return json.loads(done.stdout)


def as_raw(path, format_):
    """`path` itself, or a raw copy of what the guest sees of it."""
    if format_ == "raw":
        return path
    copy = path.with_suffix(".raw-view")
    run("qemu-img", "convert", "-f", format_, "-O", "raw", path, copy)
    return copy


def disk_of(path, *parts, label="gpt"):
    """An image with a partition of each of `parts`, whole MiB long; where they begin."""
    offsets, at = [], MIB
    for part in parts:
        offsets.append(at)
        at += os.stat(part).st_size
    with open(path, "wb") as file:
        file.truncate(at + MIB)
    lines = (f"{offset // 512},{os.stat(part).st_size // 512}\n" for offset, part in zip(offsets, parts, strict=True))
    run("sfdisk", "-q", path, input=f"label: {label}\n{''.join(lines)}")
    for offset, part in zip(offsets, parts, strict=True):
        run("dd", f"if={part}", f"of={path}", "bs=1M", f"seek={offset // MIB}", "conv=notrunc,sparse,fsync")
    return offsets


def part_of(path, offset, size, part):
    """A copy of a part of an image, as a file `part`."""
    run("dd", f"if={path}", f"of={part}", "bs=1M", f"skip={offset // MIB}", f"count={size // MIB}", "conv=sparse")
    os.truncate(part, size)
    return part


def qcow2_errors(path):
    """(errors, leaks) that qemu-img finds, as its status tells."""
    status = run("qemu-img", "check", "-f", "qcow2", path, check=False)
    if status.returncode not in (0, 2, 3):
        raise AssertionError(f"qemu-img check {path}: {status.stdout}")
    return status.returncode == 2, status.returncode == 3


def children(pid):
    try:
        return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


class Judge:
    """A filled image, and what must stay of it."""

    def __init__(self, directory, case, dump, worker, seed=1):
        self.programs = dump, worker
        pathlib.Path(directory).mkdir(exist_ok=True)
        self.image = Image(pathlib.Path(directory) / "original", case)
        self.image.fill(seed)
        self.hashes = self.image.hashes(self.image.path)
        self.image.check(self.image.path)
        found = Dump(dump, worker)(self.image.path)
        self.runs = [(offset, length) for filesystem in found for _, offset, length in filesystem.runs]
        if not self.runs:
            raise AssertionError(f"nothing free to begin with: {found}")
        self.outside = hash_outside(self.image.path, self.runs)

    def copy(self, path, format_="raw", options=""):
        """The image again, with what its guest deleted still in it."""
        if format_ == "raw":
            run("cp", "--sparse=always", self.image.path, path)
        else:
            words = ["-O", format_] + (["-c"] if "compression_type" in options else [])
            run("qemu-img", "convert", "-f", "raw", *words, *(["-o", options] if options else []), self.image.path, path)
        # What it occupies is not settled before it is on disk.
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        return path

    def check(self, path, format_="raw"):
        """Every file, every byte that is not free, and the filesystem's own checker."""
        view = as_raw(path, format_)
        try:
            if hash_outside(view, self.runs) != self.outside:
                raise AssertionError("bytes outside of the free runs changed")
            self.image.check(view)
            after = self.image.hashes(view)
            if after != self.hashes:
                names = [name for name in self.hashes if self.hashes[name] != after.get(name)]
                raise AssertionError(f"files differ: {names[:5]}")
        finally:
            if view != path:
                view.unlink()


def form_of(path):
    """What qemu-img says of a qcow2 image besides its content."""
    info = json.loads(run("qemu-img", "info", "-f", "qcow2", "--output=json", path).stdout)
    data = info["format-specific"]["data"]
    check = json.loads(run("qemu-img", "check", "-f", "qcow2", "--output=json", path).stdout)
    names = ("compat", "extended-l2", "lazy-refcounts", "refcount-bits", "compression-type", "bitmaps")
    return {name: data.get(name) for name in names} | {"cluster-size": info["cluster-size"], "compressed": "compressed-clusters" in check}


def leak(path):
    """A cluster at the end that is counted and belongs to nothing."""
    with open(path, "r+b") as file:
        cluster = 1 << int.from_bytes(file.read(24)[20:], "big")
        file.seek(48)
        file.seek(int.from_bytes(file.read(8), "big"))
        block, end = int.from_bytes(file.read(8), "big"), -(-os.fstat(file.fileno()).st_size // cluster)
        file.truncate((end + 1) * cluster)
        file.seek(block + 2 * end)
        file.write(b"\0\1")
