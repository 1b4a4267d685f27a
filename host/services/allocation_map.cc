#include "host/services/allocation_map.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "base/subprocess.h"
#include "base/unique_fd.h"
#include "host/punch/data_map.h"

namespace virt_reclaim {
namespace {

using Json = nlohmann::json;

constexpr char kQemuImg[] = "/usr/bin/qemu-img";
constexpr std::chrono::minutes kQemuImgTime{2};
constexpr size_t kMaxMapBytes = size_t{64} << 20;  // some 500,000 runs
constexpr size_t kMaxExtents = 2'000'000;          // 64 MiB of them
// Sums of two stay below 2^64.
constexpr uint64_t kMaxOffset = uint64_t{1} << 62;

absl::StatusOr<std::vector<Range>> MapOfRaw(const ImageFile& image, const std::stop_token& stop) {
  // O_NONBLOCK: a FIFO in place of an image must not hang us.
  UniqueFd fd(open(image.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  const std::string what = absl::StrCat("open '", Printable(image.path), "'");
  if (!fd.valid()) return ErrnoStatus(errno, what);
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return ErrnoStatus(errno, what);
  if (!S_ISREG(st.st_mode)) return absl::UnimplementedError("only a file tells what it occupies");
  punch::DataMapOptions options;
  options.sync = false;
  options.max_extents = kMaxExtents;
  options.stop = stop;
  VR_ASSIGN_OR_RETURN(const std::vector<punch::Extent> extents,
                      punch::ReadDataMap(fd.get(), static_cast<uint64_t>(st.st_size), options));
  std::vector<Range> ranges;
  for (const punch::Extent& extent : extents) AppendJoined(ranges, extent.range);
  return ranges;
}

absl::StatusOr<std::vector<Range>> MapByQemu(const ImageFile& image, const std::stop_token& stop) {
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

absl::StatusOr<std::vector<Range>> ParseQemuMap(absl::string_view json) {
  const Json list = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!list.is_array()) return absl::InternalError("qemu-img map: not a list");
  std::vector<Range> ranges;
  for (const Json& entry : list) {
    if (!entry.is_object()) return absl::InternalError("qemu-img map: not a list of runs");
    const auto number = [&](const char* name) {
      const auto field = entry.find(name);
      return field != entry.end() && field->is_number_unsigned() ? field->get<uint64_t>()
                                                                 : UINT64_MAX;
    };
    const uint64_t start = number("start");
    const uint64_t length = number("length");
    const uint64_t end = ranges.empty() ? 0 : ranges.back().end;
    if (start > kMaxOffset || length > kMaxOffset || start < end)
      return absl::InternalError("qemu-img map: a run that makes no sense");
    // Preallocated zeroes have a place in the file and no data.
    const bool data = entry.value("data", false) || entry.contains("offset");
    if (data) AppendJoined(ranges, {start, start + length});
  }
  return ranges;
}

absl::StatusOr<std::vector<Range>> ReadAllocationMap(const ImageFile& image,
                                                     const std::stop_token& stop) {
  if (image.format.empty() || image.format == "raw") return MapOfRaw(image, stop);
  return MapByQemu(image, stop);
}

}  // namespace virt_reclaim
