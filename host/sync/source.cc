#include "host/sync/source.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "host/guard/image_guard.h"
#include "host/punch/data_map.h"

namespace virt_reclaim::sync {
namespace {

// What was written to and discarded from a block device since the machine began, as the kernel
// counts it; empty where it does not. There are no leases on devices, so this is how a writer shows
// that came after we had looked who has it open.
std::string WritesOf(dev_t device) {
  constexpr size_t kSectorsWritten = 6;  // words of the file, Documentation/block/stat.rst
  constexpr size_t kSectorsDiscarded = 13;
  const auto text =
      ReadFile(absl::StrCat("/sys/dev/block/", major(device), ":", minor(device), "/stat"), 4096);
  if (!text.ok()) return "";
  const std::vector<absl::string_view> words =
      absl::StrSplit(*text, absl::ByAnyChar(" \n"), absl::SkipEmpty());
  if (words.size() <= kSectorsDiscarded) return "";
  return absl::StrCat(words[kSectorsWritten], " ", words[kSectorsDiscarded]);
}

class FileSource final : public Source {
 public:
  FileSource(std::string path, ImageGuard guard, uint64_t size, struct timespec ctime)
      : path_(std::move(path)), guard_(std::move(guard)), size_(size), ctime_(ctime) {
    if (guard_.is_device()) writes_ = WritesOf(guard_.identity().block_device);
  }

  uint64_t size_bytes() const override { return size_; }

  absl::StatusOr<std::vector<Range>> Data() override {
    if (!guard_.is_device()) return punch::ReadDataRanges(guard_.fd(), size_);
    std::vector<Range> all;
    AppendJoined(all, {0, size_});
    return all;
  }

  absl::StatusOr<std::unique_ptr<PieceReader>> NewReader() override {
    return NewFileReader(guard_.fd(), Quoted(path_));
  }

  bool Interrupted() const override { return guard_.Interrupted(); }

  absl::Status CheckUnchanged() const override {
    struct stat now;
    if (fstat(guard_.fd(), &now) != 0) return ErrnoStatus(errno, "stat");
    VR_RETURN_IF_ERROR(CheckIdentity(guard_.identity(), IdentityOf(now), path_));
    // What mtime does not show: somebody put it back, or it is a device.
    const bool changed = guard_.is_device() ? WritesOf(now.st_rdev) != writes_
                                            : now.st_ctim.tv_sec != ctime_.tv_sec ||
                                                  now.st_ctim.tv_nsec != ctime_.tv_nsec;
    if (changed) {
      return absl::FailedPreconditionError(
          absl::StrCat("'", Printable(path_), "' was changed meanwhile"));
    }
    return absl::OkStatus();
  }

  int file() const override { return guard_.is_device() ? -1 : guard_.fd(); }

  std::optional<int64_t> mtime_ns() const override {
    if (guard_.is_device()) return std::nullopt;
    return guard_.identity().mtime_ns;
  }

 private:
  std::string path_;
  ImageGuard guard_;
  uint64_t size_;
  struct timespec ctime_;
  std::string writes_;  // of a device
};

}  // namespace

absl::StatusOr<uint64_t> DeviceBytes(int fd) {
  uint64_t bytes = 0;
  if (ioctl(fd, BLKGETSIZE64, &bytes) != 0) return ErrnoStatus(errno, "ask the device's size");
  return bytes;
}

absl::StatusOr<std::unique_ptr<Source>> OpenFileSource(const std::string& path,
                                                       const ImageIdentity& planned) {
  GuardOptions options;
  options.intent = ImageIntent::kRead;
  options.reading = true;
  options.direct = true;
  VR_ASSIGN_OR_RETURN(ImageGuard guard, ImageGuard::Acquire(path, options));
  VR_RETURN_IF_ERROR(CheckIdentity(planned, guard.identity(), path));
  struct stat status;
  if (fstat(guard.fd(), &status) != 0) return ErrnoStatus(errno, "stat");
  uint64_t size = guard.identity().size_bytes;
  if (guard.is_device()) {
    VR_ASSIGN_OR_RETURN(size, DeviceBytes(guard.fd()));
  }
  return std::make_unique<FileSource>(path, std::move(guard), size, status.st_ctim);
}

}  // namespace virt_reclaim::sync
