"""XFS of version 4, without checksums, which many kernels do not mount any more: mkfs puts the files in, each in one piece where there is room, and
xfs_repair takes those out that xfs_db has spoilt. What they held stays, as after any deletion."""

from __future__ import annotations

import hashlib
import pathlib
import re
import tempfile

from imagelib import fill, hashes, run

MKFS = "mkfs.xfs -q -m crc=0,finobt=0,reflink=0,rmapbt=0"
EXTENT = re.compile(r"^data offset (\d+) startblock \d+ \((\d+)/(\d+)\) count (\d+) ", re.MULTILINE)


def prototype(directory):
    """Lines of what `directory` has, for mkfs."""
    for path in sorted(directory.iterdir()):
        if path.is_dir():
            yield f"{path.name} d--755 0 0"
            yield from prototype(path)
            yield "$"
        elif not path.is_symlink():
            yield f"{path.name} ---644 0 0 {path}"


class Xfs4:
    """A whole image. Filled, it knows the names of its files."""

    def __init__(self, mkfs=MKFS):
        self.mkfs, self.names = mkfs, []

    def fill(self, image, pattern, seed, megabytes):
        goners = []
        with tempfile.TemporaryDirectory() as directory:
            directory = pathlib.Path(directory)
            content = directory / "content"
            content.mkdir()
            fill(content, pattern, seed, megabytes, remove=goners.extend)
            lines = directory / "prototype"
            lines.write_text("\n".join(["/dev/null", "0 0", "d--755 0 0", *prototype(content), "$", ""]))
            run(*self.mkfs.split(" "), "-f", "-p", lines, image)
            gone = [path.relative_to(content) for path in goners]
            for path in goners:
                path.unlink()
            put = {name: value[1:] for name, value in hashes(content).items() if (content / name).is_file() and not (content / name).is_symlink()}
        self.names = list(put)
        if gone:
            self._db(image, *(word for name in gone for word in (f"path /{name}", "write -d core.mode 0")), options=("-x",))
            run("xfs_repair", image)
        if self.hashes(image) != put:
            raise AssertionError("the files are not as they were put there")

    @staticmethod
    def _db(image, *commands, options=("-r",)):
        return run("xfs_db", *options, *(word for command in commands for word in ("-c", command)), image).stdout

    def hashes(self, image):
        """name -> (size, sha256) of every file, where xfs_db says that it lies."""
        geometry = dict(re.findall(r"^(\w+) = (\d+)$", self._db(image, "sb 0", "print blocksize agblocks"), re.MULTILINE))
        block, group = int(geometry["blocksize"]), int(geometry["agblocks"])
        said = self._db(image, *(word for name in self.names for word in (f"path /{name}", "print core.size", "bmap")))
        files = re.split(r"^core\.size = ", said, flags=re.MULTILINE)[1:]
        if len(files) != len(self.names):
            raise AssertionError(f"{len(files)} of {len(self.names)} files are there: {said[-1000:]}")
        found = {}
        with open(image, "rb") as file:
            for name, text in zip(self.names, files, strict=True):
                size, digest, end = int(text.split("\n", 1)[0]), hashlib.sha256(), 0
                for offset, number, start, count in (map(int, words) for words in EXTENT.findall(text)):
                    if offset != end:
                        raise AssertionError(f"{name} has a hole: {text}")
                    end += count
                    file.seek((number * group + start) * block)
                    digest.update(file.read(count * block)[: size - offset * block])
                if end * block < size:
                    raise AssertionError(f"{name} is not whole: {text}")
                found[name] = (size, digest.hexdigest())
        return found
