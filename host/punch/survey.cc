#include "host/punch/survey.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/escape.h"
#include "base/handle.h"
#include "base/io.h"
#include "base/status.h"
#include "host/punch/read_at.h"

namespace virt_reclaim::punch {
namespace {

constexpr size_t kLargestPage = 65536;
constexpr size_t kPages[] = {4096, 8192, 16384, 32768, kLargestPage};
constexpr size_t kSignatureBytes = 10;  // at the end of the first page

}  // namespace

uint64_t QueueNumber(const std::string& device, const char* name) {
  // A partition has no queue of its own.
  for (const char* queue : {"/queue/", "/../queue/"}) {
    const auto text = ReadFile(absl::StrCat(device, queue, name), 64);
    uint64_t number = 0;
    if (text.ok() && absl::SimpleAtoi(*text, &number)) return number;
  }
  return 0;
}

absl::StatusOr<OpenedImage> OpenForReading(const std::string& path, bool direct) {
  int error = 0;
  for (const int extra : {O_DIRECT | O_NOATIME, O_NOATIME, O_DIRECT, 0}) {
    if ((extra & O_DIRECT) != 0 && !direct) continue;
    OpenedImage image = {
        UniqueFd(open(path.c_str(), O_RDONLY | extra | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)),
        (extra & O_DIRECT) != 0};
    if (image.fd.valid()) return image;
    error = errno;
    if (error != EINVAL && error != EPERM) break;
  }
  return ErrnoStatus(error, absl::StrCat("open '", Printable(path), "'"));
}

absl::Status RefuseSwapFile(int fd) {
  const Handle<void, free> memory(aligned_alloc(4096, kLargestPage));
  if (memory == nullptr) return absl::ResourceExhaustedError("no memory");
  memset(memory.get(), 0, kLargestPage);  // see ImageReader::Buffer
  const ssize_t got = ReadAt(fd, memory.get(), kLargestPage, 0);
  if (got < 0) return ErrnoStatus(errno, "read");
  const absl::string_view start(static_cast<const char*>(memory.get()), static_cast<size_t>(got));
  for (const size_t page : kPages) {
    if (start.size() < page) break;
    const absl::string_view signature = start.substr(page - kSignatureBytes, kSignatureBytes);
    if (signature == "SWAPSPACE2" || signature == "SWAP-SPACE") {
      return absl::FailedPreconditionError("is a swap file: the kernel takes none with holes");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<DeviceFacts> ReadDeviceFacts(int fd) {
  struct stat status;
  DeviceFacts facts;
  int sector = 0;
  if (fstat(fd, &status) != 0 || ioctl(fd, BLKGETSIZE64, &facts.size_bytes) != 0 ||
      ioctl(fd, BLKSSZGET, &sector) != 0) {
    return ErrnoStatus(errno, "ask the device");
  }
  const std::string device =
      absl::StrCat("/sys/dev/block/", major(status.st_rdev), ":", minor(status.st_rdev));
  if (QueueNumber(device, "write_zeroes_max_bytes") == 0) {
    return absl::UnimplementedError("the device cannot discard to zeroes");
  }
  // Smaller than a block of any filesystem frees nothing and costs a call each.
  facts.unit_bytes = std::max<uint64_t>(
      {4096, static_cast<uint64_t>(sector), QueueNumber(device, "discard_granularity")});
  return facts;
}

}  // namespace virt_reclaim::punch
