// freemap_dump [--worker=PROGRAM] [--strict] [--take-swap] [--min-bytes=N] [--peak] IMAGE...
// What the free map worker finds in images that belong together, as text, for the tests here: with
// --worker through the sandboxed program, else in this process (so that sanitizers see the
// readers).
//   fs INDEX DISK OFFSET LENGTH SIZE BLOCK FREE DROPPED REFUSAL <tab> PLACE <tab> TYPE <tab> REASON
//   run FS DISK OFFSET LENGTH
// With --peak a last line "peak SELF CHILDREN", KiB of resident memory. With --reads (not through
// the worker) a line "read DISK OFFSET LENGTH" for all that the readers looked at.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/escape.h"
#include "base/unique_fd.h"
#include "host/freemap/client.h"
#include "host/freemap/scan.h"
#include "host/freemap/signatures.h"

namespace virt_reclaim::freemap {
namespace {

void Print(const ScanResult& result) {
  for (size_t i = 0; i < result.filesystems.size(); ++i) {
    const Filesystem& fs = result.filesystems[i];
    printf("fs %zu %u %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64
           " %s\t%s\t%s\t%s\n",
           i, fs.disk, fs.offset, fs.length, fs.facts.size_bytes, fs.facts.block_bytes,
           fs.free_bytes, fs.dropped_bytes, RefusalName(fs.refusal), Printable(fs.place).c_str(),
           Printable(fs.type).c_str(), Printable(fs.reason).c_str());
  }
  for (const FreeRuns& runs : result.runs) {
    for (const Extent& extent : runs.extents) {
      printf("run %u %u %" PRIu64 " %" PRIu64 "\n", runs.filesystem, runs.disk, extent.offset,
             extent.length);
    }
  }
}

// Says what is read.
class TracedSource final : public ByteSource {
 public:
  TracedSource(size_t disk, const ByteSource& source) : disk_(disk), source_(source) {}
  uint64_t size() const override { return source_.size(); }
  absl::Status Read(uint64_t offset, std::span<uint8_t> out) const override {
    printf("read %zu %" PRIu64 " %zu\n", disk_, offset, out.size());
    return source_.Read(offset, out);
  }
  std::optional<Window> window() const override { return source_.window(); }

 private:
  size_t disk_;
  const ByteSource& source_;
};

int64_t PeakKib(__rusage_who who) {
  rusage usage = {};
  getrusage(who, &usage);
  return usage.ru_maxrss;
}

int Main(int argc, char** argv) {
  WorkerOptions options;
  bool peak = false;
  bool reads = false;
  std::vector<UniqueFd> images;
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (absl::ConsumePrefix(&argument, "--worker=")) {
      options.program = std::string(argument);
    } else if (absl::ConsumePrefix(&argument, "--min-bytes=")) {
      if (!absl::SimpleAtoi(argument, &options.read.min_bytes)) return 2;
    } else if (argument == "--strict") {
      options.read.strict = true;
    } else if (argument == "--take-swap") {
      options.read.take_swap = true;
    } else if (argument == "--peak") {
      peak = true;
    } else if (argument == "--reads") {
      reads = true;
    } else {
      images.emplace_back(open(argv[i], O_RDONLY | O_CLOEXEC));
      if (!images.back().valid()) return 2;
    }
  }
  if (!options.program.empty()) {
    std::vector<WorkerDisk> disks;
    for (const UniqueFd& image : images) disks.push_back({image.get()});
    const auto result = ReadFreeMaps(disks, options, {});
    if (!result.ok()) {
      static_cast<void>(fprintf(stderr, "%s\n", result.status().ToString().c_str()));
      return 1;
    }
    Print(*result);
  } else {
    std::vector<FdSource> sources;
    for (const UniqueFd& image : images) {
      sources.emplace_back(image.get(), static_cast<uint64_t>(lseek(image.get(), 0, SEEK_END)));
    }
    std::deque<TracedSource> traced;
    std::vector<const ByteSource*> disks;
    for (const FdSource& source : sources) {
      traced.emplace_back(traced.size(), source);
      disks.push_back(reads ? static_cast<const ByteSource*>(&traced.back()) : &source);
    }
    const UniqueFd scratch(memfd_create("scratch", MFD_CLOEXEC));
    if (ftruncate(scratch.get(), kScratchBytes) != 0) return 1;
    Print(ScanDisks(disks, options.read, scratch.get()));
  }
  if (peak)
    printf("peak %" PRId64 " %" PRId64 "\n", PeakKib(RUSAGE_SELF), PeakKib(RUSAGE_CHILDREN));
  return 0;
}

}  // namespace
}  // namespace virt_reclaim::freemap

int main(int argc, char** argv) { return virt_reclaim::freemap::Main(argc, argv); }
