#include "host/services/allocation_map.h"

#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "base/subprocess.h"
#include "base/unique_fd.h"

namespace virt_reclaim {
namespace {

using Json = nlohmann::json;

constexpr char kQemuImg[] = "/usr/bin/qemu-img";
constexpr std::chrono::minutes kQemuImgTime{2};
constexpr size_t kMaxMapBytes = size_t{64} << 20;  // some 500,000 runs
constexpr uint32_t kBatch = 2048;                  // extents a call: 112 KiB
constexpr size_t kMaxRuns = 4'000'000;             // 64 MiB of them
// Sums of two stay below 2^64.
constexpr uint64_t kMaxOffset = uint64_t{1} << 62;

absl::Status TooMany() {
  return absl::ResourceExhaustedError("the image is too fragmented for its map");
}

void Append(std::vector<DiskRun>& runs, const DiskRun& run) {
  if (run.length == 0) return;
  if (!runs.empty() && runs.back().offset + runs.back().length == run.offset) {
    runs.back().length += run.length;
  } else {
    runs.push_back(run);
  }
}

// Unimplemented when the filesystem has no FIEMAP.
absl::StatusOr<std::vector<DiskRun>> ByFiemap(int fd, uint64_t size, const std::stop_token& stop) {
  std::vector<DiskRun> runs;
  std::vector<uint64_t> buffer((sizeof(fiemap) + kBatch * sizeof(fiemap_extent)) /
                               sizeof(uint64_t));  // aligned
  auto* map = reinterpret_cast<fiemap*>(buffer.data());
  for (uint64_t at = 0; at < size;) {
    if (stop.stop_requested()) return absl::CancelledError("interrupted");
    memset(map, 0, sizeof *map);
    map->fm_start = at;
    map->fm_length = size - at;
    map->fm_extent_count = kBatch;
    if (ioctl(fd, FS_IOC_FIEMAP, map) != 0) {
      if (errno == EOPNOTSUPP || errno == ENOTTY) return absl::UnimplementedError("no FIEMAP");
      return ErrnoStatus(errno, "FIEMAP");
    }
    if (map->fm_mapped_extents == 0) break;
    bool last = false;
    for (uint32_t i = 0; i < std::min(map->fm_mapped_extents, kBatch); ++i) {
      const fiemap_extent& extent = map->fm_extents[i];
      at = std::max<uint64_t>(at, extent.fe_logical + extent.fe_length);
      last = (extent.fe_flags & FIEMAP_EXTENT_LAST) != 0;
      if (extent.fe_logical >= size) continue;
      Append(runs, {extent.fe_logical, std::min(extent.fe_length, size - extent.fe_logical)});
    }
    if (runs.size() > kMaxRuns) return TooMany();
    if (last) break;
  }
  return runs;
}

absl::StatusOr<std::vector<DiskRun>> BySeek(int fd, uint64_t size, const std::stop_token& stop) {
  std::vector<DiskRun> runs;
  for (off_t at = 0; static_cast<uint64_t>(at) < size;) {
    if (stop.stop_requested()) return absl::CancelledError("interrupted");
    const off_t data = lseek(fd, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    if (data < 0) return ErrnoStatus(errno, "SEEK_DATA");
    at = lseek(fd, data, SEEK_HOLE);
    if (at <= data) return ErrnoStatus(at < 0 ? errno : EIO, "SEEK_HOLE");
    Append(runs, {static_cast<uint64_t>(data), static_cast<uint64_t>(at - data)});
    if (runs.size() > kMaxRuns) return TooMany();
  }
  return runs;
}

absl::StatusOr<std::vector<DiskRun>> MapOfRaw(const ImageFile& image, const std::stop_token& stop) {
  // O_NONBLOCK: a FIFO in place of an image must not hang us.
  UniqueFd fd(open(image.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  const std::string what = absl::StrCat("open '", Printable(image.path), "'");
  if (!fd.valid()) return ErrnoStatus(errno, what);
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return ErrnoStatus(errno, what);
  if (!S_ISREG(st.st_mode)) return absl::UnimplementedError("only a file tells what it occupies");
  auto runs = ByFiemap(fd.get(), static_cast<uint64_t>(st.st_size), stop);
  if (!absl::IsUnimplemented(runs.status())) return runs;
  return BySeek(fd.get(), static_cast<uint64_t>(st.st_size), stop);
}

absl::StatusOr<std::vector<DiskRun>> MapByQemu(const ImageFile& image,
                                               const std::stop_token& stop) {
  if (access(kQemuImg, X_OK) != 0) return absl::UnimplementedError("there is no qemu-img");
  // Without its backing file, of which nothing comes free; by its format, which is never probed.
  Json alone = {{"driver", image.format}, {"file", {{"driver", "file"}, {"filename", image.path}}}};
  CommandLimits limits;
  limits.deadline = kQemuImgTime;
  limits.max_output_bytes = kMaxMapBytes;
  limits.fail_when_full = limits.separate_errors = true;
  limits.stop = stop;
  if (image.format == "qcow2" || image.format == "qed" || image.format == "vmdk")
    alone["backing"] = nullptr;
  VR_ASSIGN_OR_RETURN(const CommandResult result,
                      RunCommand({kQemuImg, "map", "--force-share", "--output=json",
                                  absl::StrCat("json:", alone.dump())},
                                 limits));
  if (result.exit_status != 0)
    return absl::UnavailableError(absl::StrCat("qemu-img map: ", Printable(result.errors)));
  return ParseQemuMap(result.output);
}

}  // namespace

absl::StatusOr<std::vector<DiskRun>> ParseQemuMap(absl::string_view json) {
  const Json list = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!list.is_array()) return absl::InternalError("qemu-img map: not a list");
  std::vector<DiskRun> runs;
  for (const Json& entry : list) {
    if (!entry.is_object()) return absl::InternalError("qemu-img map: not a list of runs");
    const auto number = [&](const char* name) {
      const auto field = entry.find(name);
      return field != entry.end() && field->is_number_unsigned() ? field->get<uint64_t>()
                                                                 : UINT64_MAX;
    };
    const uint64_t start = number("start");
    const uint64_t length = number("length");
    const uint64_t end = runs.empty() ? 0 : runs.back().offset + runs.back().length;
    if (start > kMaxOffset || length > kMaxOffset || start < end)
      return absl::InternalError("qemu-img map: a run that makes no sense");
    // Preallocated zeroes have a place in the file and no data.
    const bool data = entry.value("data", false) || entry.contains("offset");
    if (data) Append(runs, {start, length});
  }
  return runs;
}

absl::StatusOr<std::vector<DiskRun>> ReadAllocationMap(const ImageFile& image,
                                                       const std::stop_token& stop) {
  if (image.format.empty() || image.format == "raw") return MapOfRaw(image, stop);
  return MapByQemu(image, stop);
}

uint64_t BytesInBoth(const std::vector<DiskRun>& a, const std::vector<DiskRun>& b,
                     uint64_t granularity) {
  uint64_t sum = 0;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const uint64_t end_a = a[i].offset + a[i].length;
    const uint64_t end_b = b[j].offset + b[j].length;
    const uint64_t begin = std::max(a[i].offset, b[j].offset);
    const uint64_t end = std::min(end_a, end_b);
    const uint64_t first = (begin + granularity - 1) / granularity * granularity;
    const uint64_t last = end / granularity * granularity;
    if (first < last) sum += last - first;
    if (end_a <= end_b) ++i;
    if (end_b <= end_a) ++j;
  }
  return sum;
}

}  // namespace virt_reclaim
