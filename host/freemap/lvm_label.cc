// The label, the header and the metadata areas of a physical volume.
#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/freemap/bytes.h"
#include "host/freemap/checksum.h"
#include "host/freemap/lvm_volume.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

constexpr size_t kSector = 512;
constexpr size_t kLabelSectors = 4;  // where a label may be
constexpr size_t kMetadataHeader = 512;
constexpr char kMetadataMagic[] = " LVM2 x[5A%r0N*>";
constexpr uint64_t kMaxText = uint64_t{8} << 20;
constexpr size_t kMaxAreas = 4;  // two is what there can be

absl::StatusOr<std::vector<uint8_t>> FindLabel(const ByteSource& source) {
  std::vector<uint8_t> found;
  for (uint64_t sector = 0; sector < kLabelSectors; ++sector) {
    VR_ASSIGN_OR_RETURN(std::vector<uint8_t> bytes, source.ReadBytes(sector * kSector, kSector));
    if (!StartsWith(bytes, 0, "LABELONE", 8)) continue;
    if (!found.empty()) return DamagedError("two LVM labels");
    if (LittleEndian<uint64_t>(bytes, 8) != sector || !StartsWith(bytes, 24, "LVM2 001", 8))
      return DamagedError("an impossible LVM label");
    if (LvmCrc(Part(bytes, 20, kSector - 20)) != LittleEndian<uint32_t>(bytes, 16))
      return DamagedError("bad checksum of the LVM label");
    found = std::move(bytes);
  }
  if (found.empty()) return DamagedError("no LVM label");
  return found;
}

// The text of one area; empty when it holds none or is ignored on purpose.
absl::StatusOr<std::string> ReadArea(const ByteSource& source, const LvmLabel::Area& area) {
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> header,
                      source.ReadBytes(area.offset, kMetadataHeader));
  if (LvmCrc(Part(header, 4, kMetadataHeader - 4)) != LittleEndian<uint32_t>(header, 0) ||
      !StartsWith(header, 4, kMetadataMagic, 16) || LittleEndian<uint32_t>(header, 20) != 1 ||
      LittleEndian<uint64_t>(header, 24) != area.offset ||
      LittleEndian<uint64_t>(header, 32) != area.size) {
    return DamagedError("bad checksum of an LVM metadata area");
  }
  const uint64_t offset = LittleEndian<uint64_t>(header, 40);
  const uint64_t size = LittleEndian<uint64_t>(header, 48);
  if (!AllZero(Part(header, 64, 24)))
    return StateError("an LVM command was interrupted: precommitted metadata");
  if (size == 0 && offset == 0) return std::string();
  if (LittleEndian<uint32_t>(header, 60) != 0)
    return UnknownError("an LVM metadata area is ignored");
  if (offset < kMetadataHeader || offset >= area.size || size > area.size - kMetadataHeader)
    return DamagedError("LVM metadata points nowhere");
  if (size > kMaxText) return TooLargeError("too much LVM metadata");
  // A ring behind the header.
  std::string text(size, '\0');
  const std::span<uint8_t> all(reinterpret_cast<uint8_t*>(text.data()), text.size());
  const size_t before_end = std::min(size, area.size - offset);
  VR_RETURN_IF_ERROR(source.Read(area.offset + offset, all.first(before_end)));
  VR_RETURN_IF_ERROR(source.Read(area.offset + kMetadataHeader, all.subspan(before_end)));
  if (LvmCrc(all) != LittleEndian<uint32_t>(header, 56))
    return DamagedError("bad checksum of the LVM metadata");
  if (text.back() == '\0') text.pop_back();
  return text;
}

}  // namespace

absl::StatusOr<LvmLabel> ReadLvmLabel(const ByteSource& source) {
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, FindLabel(source));
  const size_t header = LittleEndian<uint32_t>(bytes, 20);
  if (header < 32 || header > kSector - 40) return DamagedError("an impossible LVM label");
  LvmLabel label;
  label.id = Text(bytes, header, 32);
  if (LittleEndian<uint64_t>(bytes, header + 32) > source.size())
    return StateError("the physical volume is larger than what holds it");
  // Two lists, each closed by an empty pair: data areas, then metadata areas.
  size_t at = header + 40;
  for (const bool metadata : {false, true}) {
    while (true) {
      if (at + 16 > kSector) return DamagedError("an impossible LVM label");
      const LvmLabel::Area area = {LittleEndian<uint64_t>(bytes, at),
                                   LittleEndian<uint64_t>(bytes, at + 8)};
      at += 16;
      if (area.offset == 0 && area.size == 0) break;
      if (!metadata) continue;
      if (area.offset > source.size() || area.size > source.size() - area.offset ||
          area.size <= kMetadataHeader || label.metadata.size() >= kMaxAreas) {
        return DamagedError("an LVM metadata area lies outside");
      }
      label.metadata.push_back(area);
    }
  }
  for (const LvmLabel::Area& area : label.metadata) {
    VR_ASSIGN_OR_RETURN(std::string text, ReadArea(source, area));
    if (&area != &label.metadata.front() && text != label.text)
      return StateError("the LVM metadata areas of one volume differ");
    label.text = std::move(text);
  }
  return label;
}

}  // namespace virt_reclaim::freemap
