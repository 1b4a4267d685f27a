// What NTFS looks like on disk: the boot sector, records of the MFT with their fixups, attributes,
// lists of runs. Sources: the kernel's fs/ntfs3/ntfs.h; ntfs-3g's include/ntfs-3g/layout.h. Pure
// but for the byte source; any thread.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_NTFS_FORMAT_H_
#define VIRT_RECLAIM_HOST_FREEMAP_NTFS_FORMAT_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "host/freemap/byte_source.h"
#include "host/freemap/bytes.h"
#include "host/freemap/readers.h"

namespace virt_reclaim::freemap {

// Fixups protect pieces of this size, whatever the sector's.
inline constexpr size_t kNtfsBlock = 512;

enum class NtfsType : uint32_t {
  kAttributeList = 0x20,
  kFileName = 0x30,
  kVolumeName = 0x60,
  kVolumeInformation = 0x70,
  kData = 0x80,
  kBitmap = 0xb0,
};

struct NtfsGeometry {
  uint64_t clusters = 0;
  uint32_t cluster_bytes = 0;
  uint32_t record_bytes = 0;
  uint64_t mft = 0;     // cluster
  uint64_t mirror = 0;  // cluster
};

// Judges the boot sector and its copy behind the last sector, and fills in `facts`.
absl::StatusOr<NtfsGeometry> ReadNtfsBoot(const ByteSource& source, FilesystemFacts& facts);

// Puts the true bytes back where a protected record has its sequence number, after checking that
// number in each block. DataLoss: not written as a whole, or no such record.
absl::Status ApplyNtfsFixups(std::span<uint8_t> record);

// One attribute in a record; the spans point into the record.
struct NtfsAttribute {
  NtfsType type = {};
  bool named = false;
  uint16_t flags = 0;  // compressed 1, encrypted 0x4000, sparse 0x8000
  bool resident = true;
  Bytes value;  // resident
  // Not resident:
  uint64_t first_vcn = 0;
  uint64_t clusters = 0;                              // in this piece
  uint64_t allocated = 0, size = 0, initialized = 0;  // bytes; only where first_vcn is 0
  Bytes pairs;
};

// A piece of an attribute. No cluster: a hole.
struct NtfsRun {
  std::optional<uint64_t> cluster;
  uint64_t count = 0;
};

// A record of the MFT, fixups applied, its frame checked.
class NtfsRecord {
 public:
  // DataLoss unless `bytes` hold record `number`.
  static absl::StatusOr<NtfsRecord> Parse(std::vector<uint8_t> bytes, uint64_t number);

  bool in_use() const { return (LittleEndian<uint16_t>(bytes_, 22) & 1) != 0; }
  uint64_t base() const { return LittleEndian<uint64_t>(bytes_, 32) & 0xffffffffffff; }
  bool is_extension() const { return LittleEndian<uint64_t>(bytes_, 32) != 0; }
  Bytes used() const { return Part(bytes_, 0, LittleEndian<uint32_t>(bytes_, 24)); }
  // In their order on disk; ends with the first error, of the record or of `visit`.
  absl::Status ForEach(const std::function<absl::Status(const NtfsAttribute&)>& visit) const;
  // The attribute of `type` without a name whose piece begins at `vcn`, if it is here. For types
  // of which a file has one.
  absl::StatusOr<std::optional<NtfsAttribute>> Find(NtfsType type, uint64_t vcn = 0) const;

 private:
  explicit NtfsRecord(std::vector<uint8_t> bytes) : bytes_(std::move(bytes)) {}
  absl::StatusOr<NtfsAttribute> ParseAttribute(size_t at, size_t length) const;

  std::vector<uint8_t> bytes_;
};

// Calls `visit` for each run of a piece. All lie inside the volume, and together they are as long
// as the attribute says.
absl::Status DecodeNtfsRuns(const NtfsAttribute& attribute, const NtfsGeometry& geometry,
                            const std::function<absl::Status(const NtfsRun&)>& visit);

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_NTFS_FORMAT_H_
