#include "host/services/qcow2_header.h"

namespace virt_reclaim {
namespace {

constexpr uint32_t kMagic = 0x514649fb;  // "QFI\xfb"
constexpr uint32_t kExtensionEnd = 0;
constexpr uint32_t kExtensionBackingFormat = 0xe2792aca;
constexpr uint32_t kExtensionBitmaps = 0x23852875;
constexpr uint32_t kExtensionDataFile = 0x44415441;  // "DATA"
constexpr uint64_t kMaxBackingName = 1023;           // the specification's own limit
constexpr size_t kMaxExtensions = 64;                // there are 6 kinds
constexpr uint64_t kMaxDataName = 4096;              // PATH_MAX
constexpr size_t kVersion2Header = 72;
// Incompatible features.
constexpr uint64_t kDirty = uint64_t{1} << 0;
constexpr uint64_t kCorrupt = uint64_t{1} << 1;
constexpr uint64_t kExternalData = uint64_t{1} << 2;
constexpr uint64_t kCompressionType = uint64_t{1} << 3;
constexpr uint64_t kExtendedL2 = uint64_t{1} << 4;
constexpr uint64_t kKnown = kDirty | kCorrupt | kExternalData | kCompressionType | kExtendedL2;

// An auto-clear feature.
constexpr uint64_t kRawExternalData = uint64_t{1} << 1;

// Big-endian reads that answer 0 past the end.
class Reader {
 public:
  explicit Reader(absl::string_view bytes) : bytes_(bytes) {}
  uint64_t Number(uint64_t offset, size_t width) const {
    if (!Has(offset, width)) return 0;
    uint64_t value = 0;
    for (size_t i = 0; i < width; ++i)
      value = value << 8 | static_cast<uint8_t>(bytes_[offset + i]);
    return value;
  }
  uint32_t U32(uint64_t offset) const { return static_cast<uint32_t>(Number(offset, 4)); }
  uint64_t U64(uint64_t offset) const { return Number(offset, 8); }
  bool Has(uint64_t offset, uint64_t size) const {
    return offset <= bytes_.size() && size <= bytes_.size() - offset;
  }
  std::string Text(uint64_t offset, uint64_t size) const {
    return Has(offset, size) ? std::string(bytes_.substr(offset, size)) : "";
  }

 private:
  absl::string_view bytes_;
};

// The header extensions from `offset` on.
void ReadExtensions(const Reader& reader, uint64_t offset, Qcow2Header& header) {
  for (size_t i = 0; i < kMaxExtensions && reader.Has(offset, 8); ++i) {
    const uint32_t type = reader.U32(offset);
    const uint64_t length = reader.U32(offset + 4);
    if (type == kExtensionEnd) break;
    if (type == kExtensionBackingFormat && header.backing_format.empty())
      header.backing_format = reader.Text(offset + 8, length);
    if (type == kExtensionBitmaps) header.bitmaps = true;
    if (type == kExtensionDataFile && header.external_data && length <= kMaxDataName)
      header.data_file = reader.Text(offset + 8, length);
    offset += 8 + (length + 7) / 8 * 8;
  }
}

}  // namespace

absl::StatusOr<Qcow2Header> ParseQcow2Header(absl::string_view start) {
  const Reader reader(start);
  if (!reader.Has(0, kVersion2Header) || reader.U32(0) != kMagic)
    return absl::InvalidArgumentError("not a qcow2 image");
  Qcow2Header header;
  header.version = reader.U32(4);
  if (header.version != 2 && header.version != 3)
    return absl::InvalidArgumentError("unknown qcow2 version");
  header.cluster_bits = reader.U32(20);
  if (header.cluster_bits < 9 || header.cluster_bits > 21)
    return absl::InvalidArgumentError("bad qcow2 cluster size");
  header.virtual_size = reader.U64(24);
  header.snapshots = reader.U32(60);
  const uint64_t incompatible = header.version == 2 ? 0 : reader.U64(72);
  header.external_data = (incompatible & kExternalData) != 0;
  header.data_is_raw = header.external_data && (reader.U64(88) & kRawExternalData) != 0;
  header.extended_l2 = (incompatible & kExtendedL2) != 0;
  header.dirty = (incompatible & kDirty) != 0;
  header.corrupt = (incompatible & kCorrupt) != 0;
  header.unknown_features = (incompatible & ~kKnown) != 0;
  header.encrypted = reader.U32(32) != 0;
  ReadExtensions(reader, header.version == 2 ? kVersion2Header : reader.U32(100), header);
  const uint64_t name_offset = reader.U64(8);
  const uint64_t name_size = reader.U32(16);
  if (name_offset != 0) {
    if (name_size > kMaxBackingName || !reader.Has(name_offset, name_size)) {
      return absl::InvalidArgumentError("bad qcow2 backing file name");
    }
    header.backing_file = reader.Text(name_offset, name_size);
  }
  return header;
}

}  // namespace virt_reclaim
