// Any bytes as a qcow2 image that is zero after them: header, tables of snapshots, compressed
// clusters. No crash, no endless loop, no memory without bound; nothing is told of bytes that the
// file does not have, nor more of one snapshot than of all.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/string_view.h"
#include "base/range.h"
#include "host/punch/qcow2_clusters.h"
#include "host/services/qcow2_header.h"
#include "host/sparsify/snapshot_space.h"

namespace {

using namespace virt_reclaim;

constexpr uint64_t kFileBytes = uint64_t{256} << 10;

void Check(bool holds) {
  if (!holds) std::abort();
}

void FuzzHeader(absl::string_view bytes) {
  const auto header = ParseQcow2Header(bytes);
  if (!header.ok()) return;
  Check(header->cluster_bits >= 9 && header->cluster_bits <= 21);
  for (const std::string* text :
       {&header->backing_file, &header->backing_format, &header->data_file})
    Check(text->size() <= bytes.size());
}

void FuzzSnapshots(const punch::ReadBytes& read, std::span<const Range> data) {
  const auto found = sparsify::FindSnapshotSpace(read, kFileBytes, data);
  if (!found.ok()) return;
  uint64_t alone = 0;
  for (const sparsify::SnapshotSpace& snapshot : found->snapshots) alone += snapshot.only_bytes;
  Check(alone <= found->all_bytes && found->all_bytes <= TotalBytes(data));
  const std::string text = sparsify::DescribeSnapshotSpace(*found);
  Check(std::none_of(text.begin(), text.end(),
                     [](unsigned char c) { return absl::ascii_iscntrl(c); }));
}

void FuzzCompressed(const punch::ReadBytes& read) {
  uint64_t end = 0;
  for (const Range& range : punch::FindCompressedClusters(read, kFileBytes)) {
    Check(range.begin >= end && range.begin < range.end && range.end <= kFileBytes);
    end = range.end;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzHeader({reinterpret_cast<const char*>(data), size});
  const size_t given = std::min<size_t>(size, kFileBytes);
  const punch::ReadBytes read = [&](uint64_t offset, std::span<unsigned char> bytes) {
    if (offset > kFileBytes || bytes.size() > kFileBytes - offset) return false;
    const size_t there = offset < given ? std::min<size_t>(bytes.size(), given - offset) : 0;
    std::copy_n(data + (there > 0 ? offset : 0), there, bytes.begin());
    std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(there), bytes.end(), 0);
    return true;
  };
  FuzzSnapshots(read, std::vector<Range>{{0, kFileBytes}});
  FuzzSnapshots(read, std::vector<Range>{{0, 700}, {4096, 9000}});
  FuzzCompressed(read);
  return 0;
}
