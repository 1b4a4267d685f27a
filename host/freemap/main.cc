// virt-reclaim-freemap: the worker. Started by virt-reclaim with the disks of one domain as
// descriptors 3, 4, ... (read-only; --nbd: a connection to a read-only export), it locks itself in,
// reads, and says on stdout what is free (protocol.h). Not for people. Exit status: 0 said it, 1
// could not begin, 2 wrong usage.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/standard_fds.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "host/freemap/byte_source.h"
#include "host/freemap/nbd_source.h"
#include "host/freemap/protocol.h"
#include "host/freemap/sandbox.h"
#include "host/freemap/scan.h"
#include "host/freemap/signatures.h"

namespace virt_reclaim::freemap {
namespace {

constexpr char kUsage[] =
    "usage: virt-reclaim-freemap [--strict] [--take-swap] [--min-bytes=N] [--nbd=DISK:BYTES]... "
    "DISKS\n"
    "Internal to virt-reclaim: reads the disks open as descriptors 3, 4, ... and writes to a "
    "pipe.\n";

bool WriteAll(Bytes bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(STDOUT_FILENO, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return true;
}

struct Arguments {
  ReadOptions read;
  std::map<uint32_t, uint64_t> nbd;  // which disks are connections, and their sizes in bytes
  uint32_t disks = 0;
};

// "2:1073741824"
bool ParseNbd(absl::string_view text, std::map<uint32_t, uint64_t>& nbd) {
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(text, ':');
  uint32_t disk = 0;
  uint64_t bytes = 0;
  if (!absl::SimpleAtoi(parts.first, &disk) || !absl::SimpleAtoi(parts.second, &bytes) ||
      bytes == 0) {
    return false;
  }
  return nbd.emplace(disk, bytes).second;
}

bool ParseArguments(int argc, char** argv, Arguments& arguments) {
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (argument == "--strict") {
      arguments.read.strict = true;
    } else if (argument == "--take-swap") {
      arguments.read.take_swap = true;
    } else if (absl::ConsumePrefix(&argument, "--min-bytes=")) {
      if (!absl::SimpleAtoi(argument, &arguments.read.min_bytes)) return false;
    } else if (absl::ConsumePrefix(&argument, "--nbd=")) {
      if (!ParseNbd(argument, arguments.nbd)) return false;
    } else if (arguments.disks != 0 || !absl::SimpleAtoi(argument, &arguments.disks) ||
               arguments.disks > kMaxDisks) {
      return false;
    }
  }
  return arguments.disks != 0 &&
         (arguments.nbd.empty() || arguments.nbd.rbegin()->first < arguments.disks);
}

using Sources = std::vector<std::unique_ptr<ByteSource>>;

absl::StatusOr<Sources> OpenDisks(const Arguments& arguments) {
  Sources disks;
  for (uint32_t i = 0; i < arguments.disks; ++i) {
    const int fd = kFirstDisk + static_cast<int>(i);
    if (const auto nbd = arguments.nbd.find(i); nbd != arguments.nbd.end()) {
      disks.push_back(std::make_unique<NbdSource>(fd, nbd->second));
      continue;
    }
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0) return ErrnoStatus(errno, "look at a disk");
    if ((flags & O_ACCMODE) != O_RDONLY) return absl::InternalError("a disk is open for writing");
    // Works on block devices too, where fstat knows no size.
    const off_t size = lseek(fd, 0, SEEK_END);
    if (size < 0) return ErrnoStatus(errno, "measure a disk");
    disks.push_back(std::make_unique<FdSource>(fd, static_cast<uint64_t>(size)));
  }
  syscall(SYS_close_range, static_cast<unsigned>(kFirstDisk) + arguments.disks, ~0U, 0U);
  return disks;
}

absl::StatusOr<UniqueFd> MakeScratch() {
  UniqueFd scratch(memfd_create("scratch", MFD_CLOEXEC));
  if (!scratch.valid()) return ErrnoStatus(errno, "memfd_create");
  if (ftruncate(scratch.get(), kScratchBytes) != 0) return ErrnoStatus(errno, "ftruncate");
  return scratch;
}

int Main(int argc, char** argv) {
  KeepStandardFds();
  Arguments arguments;
  if (!ParseArguments(argc, argv, arguments)) {
    static_cast<void>(fputs(kUsage, stderr));
    return 2;
  }
  const absl::StatusOr<Sources> disks = OpenDisks(arguments);
  const absl::StatusOr<UniqueFd> scratch = MakeScratch();
  absl::Status ready = disks.ok() ? scratch.status() : disks.status();
  std::vector<int> sockets;
  for (const auto& [disk, bytes] : arguments.nbd)
    sockets.push_back(kFirstDisk + static_cast<int>(disk));
  if (ready.ok()) ready = EnterSandbox(scratch->get(), sockets);
  if (!ready.ok()) {
    WriteFailure(ready.message(), WriteAll);
    return 1;
  }
  std::vector<const ByteSource*> sources;
  for (const auto& disk : *disks) sources.push_back(disk.get());
  return WriteResult(ScanDisks(sources, arguments.read, scratch->get()), WriteAll) ? 0 : 1;
}

}  // namespace
}  // namespace virt_reclaim::freemap

int main(int argc, char** argv) { return virt_reclaim::freemap::Main(argc, argv); }
