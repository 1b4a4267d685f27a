// virt-reclaim-freemap: the worker. Started by virt-reclaim with the disks of one domain as
// descriptors 3, 4, ... (read-only), it locks itself in, reads, and says on stdout what is free
// (protocol.h). Not for people. Exit status: 0 said it, 1 could not begin, 2 wrong usage.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/standard_fds.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "host/freemap/byte_source.h"
#include "host/freemap/protocol.h"
#include "host/freemap/sandbox.h"
#include "host/freemap/scan.h"
#include "host/freemap/signatures.h"

namespace virt_reclaim::freemap {
namespace {

constexpr int kFirstDisk = 3;
constexpr char kUsage[] =
    "usage: virt-reclaim-freemap [--strict] [--take-swap] [--min-bytes=N] DISKS\n"
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

bool ParseArguments(int argc, char** argv, ReadOptions& options, uint32_t& disks) {
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (argument == "--strict") {
      options.strict = true;
    } else if (argument == "--take-swap") {
      options.take_swap = true;
    } else if (absl::ConsumePrefix(&argument, "--min-bytes=")) {
      if (!absl::SimpleAtoi(argument, &options.min_bytes)) return false;
    } else if (disks != 0 || !absl::SimpleAtoi(argument, &disks) || disks > kMaxDisks) {
      return false;
    }
  }
  return disks != 0;
}

absl::StatusOr<std::vector<FdSource>> OpenDisks(uint32_t count) {
  std::vector<FdSource> disks;
  for (uint32_t i = 0; i < count; ++i) {
    const int fd = kFirstDisk + static_cast<int>(i);
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0) return ErrnoStatus(errno, "look at a disk");
    if ((flags & O_ACCMODE) != O_RDONLY) return absl::InternalError("a disk is open for writing");
    // Works on block devices too, where fstat knows no size.
    const off_t size = lseek(fd, 0, SEEK_END);
    if (size < 0) return ErrnoStatus(errno, "measure a disk");
    disks.emplace_back(fd, static_cast<uint64_t>(size));
  }
  syscall(SYS_close_range, static_cast<unsigned>(kFirstDisk) + count, ~0U, 0U);
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
  ReadOptions options;
  uint32_t count = 0;
  if (!ParseArguments(argc, argv, options, count)) {
    static_cast<void>(fputs(kUsage, stderr));
    return 2;
  }
  const absl::StatusOr<std::vector<FdSource>> disks = OpenDisks(count);
  const absl::StatusOr<UniqueFd> scratch = MakeScratch();
  absl::Status ready = disks.ok() ? scratch.status() : disks.status();
  if (ready.ok()) ready = EnterSandbox(scratch->get());
  if (!ready.ok()) {
    WriteFailure(ready.message(), WriteAll);
    return 1;
  }
  std::vector<const ByteSource*> sources;
  for (const FdSource& disk : *disks) sources.push_back(&disk);
  return WriteResult(ScanDisks(sources, options, scratch->get()), WriteAll) ? 0 : 1;
}

}  // namespace
}  // namespace virt_reclaim::freemap

int main(int argc, char** argv) { return virt_reclaim::freemap::Main(argc, argv); }
