#include "host/punch/btrfs_release.h"

#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <map>
#include <optional>

#include "base/byte_size.h"
#include "base/status.h"
#include "host/punch/filesystem.h"
#include "host/punch/image_reader.h"
#include "host/punch/plan.h"
#include "host/punch/read_at.h"

namespace virt_reclaim::punch {
namespace {

constexpr uint64_t kSearchBytes = 256 * kKiB;
constexpr uint64_t kBatchBytes = 64 * kMiB;  // copied before the image refers to it
constexpr uint64_t kLookBytes = 16 * kMiB;   // a mapping of this length is a cheap one
constexpr size_t kRewriteBytes = kMiB;
constexpr uint64_t kDedupeBytes = 16 * kMiB;  // btrfs takes no more at once
constexpr uint64_t kWasteDivisor = 10;        // a tenth of an extent

// A btrfs structure is little-endian and packed.
template <typename T>
T Field(const unsigned char* at) {
  T value;
  memcpy(&value, at, sizeof value);
  if constexpr (sizeof(T) == 8) return static_cast<T>(le64toh(value));
  return value;
}

std::optional<ExtentReference> Parse(uint64_t offset, const unsigned char* item, size_t bytes) {
  using Item = btrfs_file_extent_item;
  if (bytes < sizeof(Item)) return std::nullopt;  // inline
  const uint8_t type = item[offsetof(Item, type)];
  if (type == BTRFS_FILE_EXTENT_INLINE) return std::nullopt;
  ExtentReference reference;
  reference.disk_begin = Field<uint64_t>(item + offsetof(Item, disk_bytenr));
  if (reference.disk_begin == 0) return std::nullopt;  // a hole
  reference.disk_bytes = Field<uint64_t>(item + offsetof(Item, disk_num_bytes));
  reference.extent_offset = Field<uint64_t>(item + offsetof(Item, offset));
  const uint64_t length = Field<uint64_t>(item + offsetof(Item, num_bytes));
  reference.range = {offset, offset + length};
  reference.plain = type == BTRFS_FILE_EXTENT_REG && item[offsetof(Item, compression)] == 0 &&
                    item[offsetof(Item, encryption)] == 0;
  return reference;
}

struct DiskExtent {
  uint64_t bytes = 0;
  std::vector<Range> used;         // of the extent
  std::vector<Range> file_ranges;  // sorted
  bool own = true;                 // nobody else's
};

std::map<uint64_t, DiskExtent> ByExtent(std::span<const ExtentReference> references,
                                        std::span<const Range> shared) {
  std::map<uint64_t, DiskExtent> extents;
  Overlap others(shared);
  for (const ExtentReference& reference : references) {
    DiskExtent& extent = extents[reference.disk_begin];
    extent.bytes = reference.disk_bytes;
    extent.used.push_back(
        {reference.extent_offset, reference.extent_offset + reference.range.size()});
    extent.file_ranges.push_back(reference.range);
    if (others.With(reference.range) > 0) extent.own = false;
  }
  return extents;
}

// `own` also says that all of it is plain.
std::map<uint64_t, DiskExtent> MovableExtents(std::span<const ExtentReference> references,
                                              std::span<const Range> shared) {
  auto extents = ByExtent(references, shared);
  for (const ExtentReference& reference : references) {
    if (!reference.plain) extents[reference.disk_begin].own = false;
  }
  return extents;
}

uint64_t Covered(std::vector<Range> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& one, const Range& other) { return one.begin < other.begin; });
  uint64_t bytes = 0;
  uint64_t end = 0;
  for (const Range& range : ranges) {
    if (range.end <= end) continue;
    bytes += range.end - std::max(range.begin, end);
    end = range.end;
  }
  return bytes;
}

// The file's bytes in `range` to the same place of `to`; `copied` hears of each piece. A file that
// became shorter ends it.
absl::Status Copy(int from, int to, Range range, std::vector<char>& buffer,
                  const std::function<void(uint64_t)>& copied) {
  while (range.size() > 0) {
    const size_t length = std::min<uint64_t>(buffer.size(), range.size());
    const ssize_t got = ReadAt(from, buffer.data(), length, range.begin);
    if (got < 0) return ErrnoStatus(errno, "read");
    if (got == 0) return absl::OkStatus();
    for (ssize_t done = 0; done < got;) {
      const ssize_t put = pwrite(to, buffer.data() + done, static_cast<size_t>(got - done),
                                 static_cast<off_t>(range.begin) + done);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) return ErrnoStatus(errno, "write the copy");
      done += put;
    }
    range.begin += static_cast<uint64_t>(got);
    copied(static_cast<uint64_t>(got));
  }
  return absl::OkStatus();
}

// What of `ranges`, sorted, is not in the page cache. Looked at in long stretches: a look at each
// of thousands of short ranges would cost more than to copy them.
std::vector<Range> Absent(int fd, std::span<const Range> ranges) {
  std::vector<Range> absent;
  for (size_t next = 0; next < ranges.size();) {
    Range stretch = ranges[next];
    for (; next < ranges.size() && ranges[next].begin < stretch.begin + kLookBytes; ++next)
      stretch.end = ranges[next].end;
    for (const Range& pages : ImageReader::AbsentPages(fd, stretch)) AppendJoined(absent, pages);
  }
  return Intersect(absent, ranges);
}

struct Batch {
  UniqueFd copy;
  std::vector<Range> ranges;
  std::vector<Range> fetched;  // of these: not in the page cache before, dropped afterwards
};

absl::StatusOr<Batch> CopyBatch(int fd, const std::string& directory, std::vector<Range> ranges,
                                uint64_t size, std::vector<char>& buffer,
                                const std::function<void(uint64_t)>& copied) {
  Batch batch;
  VR_ASSIGN_OR_RETURN(batch.copy, MakeTemporary(directory, fd));
  // Ends with the image, so that the last part of a block can be compared too.
  if (ftruncate(batch.copy.get(), static_cast<off_t>(size)) != 0)
    return ErrnoStatus(errno, "make the copy");
  batch.fetched = Absent(fd, ranges);
  for (const Range& range : ranges)
    VR_RETURN_IF_ERROR(Copy(fd, batch.copy.get(), range, buffer, copied));
  // Begins to write; the next batch is copied meanwhile.
  sync_file_range(batch.copy.get(), 0, 0, SYNC_FILE_RANGE_WRITE);
  batch.ranges = std::move(ranges);
  return batch;
}

absl::StatusOr<uint64_t> ReferToCopy(int fd, const Batch& batch) {
  uint64_t moved = 0;
  for (const Range& range : batch.ranges) {
    for (uint64_t at = range.begin; at < range.end;) {
      const uint64_t length = std::min(range.end - at, kDedupeBytes);
      const DedupeResult result = Dedupe(batch.copy.get(), at, fd, at, length);
      if (result.error != 0) return ErrnoStatus(result.error, "refer to the copy");
      moved += std::min(result.bytes, length);
      at += length;  // also where somebody wrote: the old extent stays
    }
  }
  for (const Range& range : batch.fetched) {
    posix_fadvise(fd, static_cast<off_t>(range.begin), static_cast<off_t>(range.size()),
                  POSIX_FADV_DONTNEED);
  }
  return moved;
}

}  // namespace

absl::StatusOr<std::vector<ExtentReference>> ReadExtentReferences(int fd) {
  struct stat status;
  if (fstat(fd, &status) != 0) return ErrnoStatus(errno, "stat");
  std::vector<ExtentReference> references;
  std::vector<std::byte> memory(sizeof(btrfs_ioctl_search_args_v2) + kSearchBytes);
  auto* call = reinterpret_cast<btrfs_ioctl_search_args_v2*>(memory.data());
  const auto* items = reinterpret_cast<const unsigned char*>(memory.data() + sizeof(*call));
  uint64_t from = 0;
  while (true) {
    *call = {};
    call->key.min_objectid = call->key.max_objectid = status.st_ino;  // tree_id 0: of the fd
    call->key.min_type = call->key.max_type = BTRFS_EXTENT_DATA_KEY;
    call->key.min_offset = from;
    call->key.max_offset = UINT64_MAX;
    call->key.max_transid = UINT64_MAX;
    call->key.nr_items = UINT32_MAX;
    call->buf_size = kSearchBytes;
    if (ioctl(fd, BTRFS_IOC_TREE_SEARCH_V2, call) != 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(errno, "search the extents");
    }
    if (call->key.nr_items == 0) return references;
    size_t at = 0;
    for (uint32_t i = 0; i < call->key.nr_items; ++i) {
      btrfs_ioctl_search_header header;
      if (at + sizeof header > kSearchBytes) return absl::InternalError("a search without an end");
      memcpy(&header, items + at, sizeof header);
      at += sizeof header;
      if (at + header.len > kSearchBytes) return absl::InternalError("a search without an end");
      // The search is over keys as a whole and may return others in between.
      if (header.objectid == status.st_ino && header.type == BTRFS_EXTENT_DATA_KEY) {
        if (const auto reference = Parse(header.offset, items + at, header.len))
          references.push_back(*reference);
        if (header.offset == UINT64_MAX) return references;
        from = header.offset + 1;
      }
      at += header.len;
    }
  }
}

ReleasePlan PlanRelease(std::span<const ExtentReference> references,
                        std::span<const Range> shared) {
  ReleasePlan plan;
  for (const auto& [begin, extent] : MovableExtents(references, shared)) {
    const uint64_t used = Covered(extent.used);
    if (!extent.own || used >= extent.bytes) continue;
    const uint64_t waste = extent.bytes - used;
    if (waste <= extent.bytes / kWasteDivisor) continue;
    plan.released_bytes += waste;
    plan.move.insert(plan.move.end(), extent.file_ranges.begin(), extent.file_ranges.end());
  }
  std::sort(plan.move.begin(), plan.move.end(),
            [](const Range& one, const Range& other) { return one.begin < other.begin; });
  std::vector<Range> joined;
  for (const Range& range : plan.move) {
    AppendJoined(joined, range);
    plan.move_bytes += range.size();
  }
  plan.move = std::move(joined);
  return plan;
}

uint64_t OwnBytes(std::span<const ExtentReference> references, std::span<const Range> shared) {
  uint64_t bytes = 0;
  for (const auto& [begin, extent] : ByExtent(references, shared)) {
    if (extent.own) bytes += extent.bytes;
  }
  return bytes;
}

std::vector<ExtentReference> ReferencesToPunched(std::span<const ExtentReference> before,
                                                 std::span<const ExtentReference> after) {
  const auto old = ByExtent(before, {});
  std::map<uint64_t, bool> punched;
  for (const auto& [begin, extent] : ByExtent(after, {})) {
    const auto found = old.find(begin);
    punched[begin] = found != old.end() && Covered(extent.used) < Covered(found->second.used);
  }
  std::vector<ExtentReference> references;
  for (const ExtentReference& reference : after) {
    if (punched[reference.disk_begin]) references.push_back(reference);
  }
  return references;
}

uint64_t HeldBytes(std::span<const ExtentReference> references, std::span<const Range> shared) {
  uint64_t bytes = 0;
  for (const auto& [begin, extent] : MovableExtents(references, shared)) {
    if (extent.own) bytes += extent.bytes - std::min(extent.bytes, Covered(extent.used));
  }
  return bytes;
}

absl::StatusOr<uint64_t> MoveRanges(int fd, const std::string& directory,
                                    std::span<const Range> ranges, uint64_t size_bytes,
                                    Pacer& pacer, const std::function<void(uint64_t)>& moved,
                                    const std::stop_token& stop) {
  std::vector<char> buffer(kRewriteBytes);
  // No readahead over holes: what is wanted is asked for.
  posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
  uint64_t read = 0;
  const auto pace = [&](uint64_t bytes) {
    read += bytes;
    pacer.Wait(read, stop, [] { return false; });
  };
  uint64_t sum = 0;
  Batch written;  // its data is on the way to the disk
  const auto finish = [&]() -> absl::Status {
    if (written.ranges.empty()) return absl::OkStatus();
    VR_ASSIGN_OR_RETURN(const uint64_t bytes, ReferToCopy(fd, written));
    written = {};
    sum += bytes;
    moved(sum);
    return absl::OkStatus();
  };
  size_t next = 0;
  uint64_t at = ranges.empty() ? 0 : ranges[0].begin;
  while (next < ranges.size() && !stop.stop_requested()) {
    std::vector<Range> batch;
    for (uint64_t left = kBatchBytes; left > 0 && next < ranges.size();) {
      const uint64_t end = std::min(std::min(ranges[next].end, size_bytes), at + left);
      if (at < end) batch.push_back({at, end});
      left -= end > at ? end - at : 0;
      at = std::max(at, end);
      if (at >= std::min(ranges[next].end, size_bytes) && ++next < ranges.size())
        at = ranges[next].begin;
    }
    auto copied = CopyBatch(fd, directory, std::move(batch), size_bytes, buffer, pace);
    VR_RETURN_IF_ERROR(finish());
    // No room: what was moved until here is a gain all the same.
    if (copied.status().code() == absl::StatusCode::kResourceExhausted) return sum;
    VR_RETURN_IF_ERROR(copied.status());
    written = *std::move(copied);
  }
  VR_RETURN_IF_ERROR(finish());
  return sum;
}

}  // namespace virt_reclaim::punch
