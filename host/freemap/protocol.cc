#include "host/freemap/protocol.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/freemap/checksum.h"

namespace virt_reclaim::freemap {
namespace {

constexpr char kGreeting[] = "VRFREE01";
constexpr size_t kGreetingBytes = 8;
constexpr size_t kMessageHeadBytes = 5;
constexpr size_t kPairBytes = 16;
constexpr size_t kPairsPerRecord = 4000;  // below kMaxPayload
constexpr size_t kFixedFilesystemBytes = 4 + 6 * 8 + 2;
enum RecordType : uint8_t { kFilesystem = 1, kRuns = 2, kEnd = 3, kFailure = 4 };

template <std::unsigned_integral T>
void Put(std::vector<uint8_t>& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i)
    out.push_back(static_cast<uint8_t>(uint64_t{value} >> (8 * i)));
}

void PutText(std::vector<uint8_t>& out, absl::string_view text) {
  text = text.substr(0, kMaxText);
  Put(out, static_cast<uint16_t>(text.size()));
  out.insert(out.end(), text.begin(), text.end());
}

class Writer {
 public:
  explicit Writer(const ByteSink& sink) : sink_(sink) { Send(Chars(kGreeting)); }

  void Record(RecordType type, const std::vector<uint8_t>& payload) {
    std::vector<uint8_t> head = {type};
    Put(head, static_cast<uint32_t>(payload.size()));
    Send(head);
    Send(payload);
  }
  uint32_t crc() const { return crc_; }
  bool ok() const { return ok_; }

 private:
  static Bytes Chars(const char* text) {
    return {reinterpret_cast<const uint8_t*>(text), kGreetingBytes};
  }
  void Send(Bytes bytes) {
    crc_ = Crc32c(bytes, crc_);
    ok_ = ok_ && sink_(bytes);
  }

  const ByteSink& sink_;
  uint32_t crc_ = 0;
  bool ok_ = true;
};

std::vector<uint8_t> FilesystemPayload(const Filesystem& filesystem) {
  std::vector<uint8_t> out;
  Put(out, filesystem.disk);
  Put(out, filesystem.offset);
  Put(out, filesystem.length);
  Put(out, filesystem.facts.size_bytes);
  Put(out, filesystem.facts.block_bytes);
  Put(out, filesystem.free_bytes);
  Put(out, filesystem.dropped_bytes);
  Put(out, static_cast<uint8_t>(filesystem.refusal));
  Put(out, static_cast<uint8_t>(filesystem.mapped ? 1 : 0));
  for (const std::string* text : {&filesystem.place, &filesystem.type, &filesystem.facts.label,
                                  &filesystem.facts.uuid, &filesystem.reason}) {
    PutText(out, *text);
  }
  return out;
}

absl::Status Broken(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("the free map worker broke its protocol: ", what));
}

}  // namespace

bool WriteResult(const ScanResult& result, const ByteSink& sink) {
  Writer writer(sink);
  for (const Filesystem& filesystem : result.filesystems)
    writer.Record(kFilesystem, FilesystemPayload(filesystem));
  uint64_t extents = 0;
  for (const FreeRuns& runs : result.runs) {
    for (size_t at = 0; at < runs.extents.size() && writer.ok(); at += kPairsPerRecord) {
      std::vector<uint8_t> out;
      Put(out, runs.filesystem);
      Put(out, runs.disk);
      const size_t count = std::min(kPairsPerRecord, runs.extents.size() - at);
      out.reserve(out.size() + count * kPairBytes);
      for (size_t i = at; i < at + count; ++i) {
        Put(out, runs.extents[i].offset);
        Put(out, runs.extents[i].length);
      }
      extents += count;
      writer.Record(kRuns, out);
    }
  }
  std::vector<uint8_t> end;
  Put(end, static_cast<uint32_t>(result.filesystems.size()));
  Put(end, extents);
  Put(end, writer.crc());
  writer.Record(kEnd, end);
  return writer.ok();
}

bool WriteFailure(absl::string_view why, const ByteSink& sink) {
  Writer writer(sink);
  why = why.substr(0, kMaxText);
  writer.Record(kFailure, {why.begin(), why.end()});
  return writer.ok();
}

absl::Status ResultParser::Feed(Bytes bytes) {
  if (ended_ && !bytes.empty()) return Broken("bytes after its end");
  pending_.insert(pending_.end(), bytes.begin(), bytes.end());
  size_t done = 0;
  if (!greeted_) {
    if (pending_.size() < kGreetingBytes) return absl::OkStatus();
    if (!StartsWith(pending_, 0, kGreeting, kGreetingBytes)) return Broken("no greeting");
    crc_ = Crc32c(Part(pending_, 0, kGreetingBytes));
    greeted_ = true;
    done = kGreetingBytes;
  }
  while (pending_.size() - done >= kMessageHeadBytes) {
    const uint32_t length = LittleEndian<uint32_t>(pending_, done + 1);
    if (length > kMaxPayload) return Broken("a record is too long");
    if (pending_.size() - done - kMessageHeadBytes < length) break;
    if (ended_) return Broken("a record after its end");
    const uint8_t type = pending_[done];
    const Bytes record = Part(pending_, done, kMessageHeadBytes + length);
    if (type == kEnd) {
      VR_RETURN_IF_ERROR(TakeEnd(record.subspan(kMessageHeadBytes), crc_));
      ended_ = true;
    } else {
      VR_RETURN_IF_ERROR(TakeRecord(type, record.subspan(kMessageHeadBytes)));
    }
    crc_ = Crc32c(record, crc_);
    done += record.size();
  }
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(done));
  if (ended_ && !pending_.empty()) return Broken("bytes after its end");
  return absl::OkStatus();
}

absl::Status ResultParser::TakeRecord(uint8_t type, Bytes payload) {
  switch (type) {
    case kFilesystem:
      return TakeFilesystem(payload);
    case kRuns:
      return TakeRuns(payload);
    case kFailure:
      return absl::InternalError(
          absl::StrCat("the free map worker could not begin: ",
                       Text(payload, 0, std::min(payload.size(), kMaxText))));
    default:
      return Broken("an unknown record");
  }
}

absl::Status ResultParser::TakeFilesystem(Bytes payload) {
  if (payload.size() < kFixedFilesystemBytes) return Broken("a short filesystem");
  if (result_.filesystems.size() >= kMaxFilesystems) return Broken("too many filesystems");
  if (!result_.runs.empty()) return Broken("a filesystem after runs");
  Filesystem found;
  found.disk = LittleEndian<uint32_t>(payload, 0);
  found.offset = LittleEndian<uint64_t>(payload, 4);
  found.length = LittleEndian<uint64_t>(payload, 12);
  found.facts.size_bytes = LittleEndian<uint64_t>(payload, 20);
  found.facts.block_bytes = LittleEndian<uint64_t>(payload, 28);
  found.free_bytes = LittleEndian<uint64_t>(payload, 36);
  found.dropped_bytes = LittleEndian<uint64_t>(payload, 44);
  if (payload[52] > static_cast<uint8_t>(kLastRefusal)) return Broken("an unknown refusal");
  found.refusal = static_cast<Refusal>(payload[52]);
  found.mapped = payload[53] != 0;
  if (found.disk >= disk_sizes_.size()) return Broken("a filesystem on no disk");
  const uint64_t size = disk_sizes_[found.disk];
  if (found.offset > size || found.length > size - found.offset)
    return Broken("a filesystem outside of its disk");
  if (found.refusal != Refusal::kNone && (found.free_bytes != 0 || found.dropped_bytes != 0))
    return Broken("free space where it refused");
  if (found.dropped_bytes > found.free_bytes) return Broken("more dropped than free");
  size_t at = kFixedFilesystemBytes;
  for (std::string* text :
       {&found.place, &found.type, &found.facts.label, &found.facts.uuid, &found.reason}) {
    if (payload.size() - at < 2) return Broken("a short filesystem");
    const size_t length = LittleEndian<uint16_t>(payload, at);
    if (length > kMaxText || length > payload.size() - at - 2) return Broken("a text is too long");
    const Bytes part = Part(payload, at + 2, length);
    text->assign(part.begin(), part.end());
    at += 2 + length;
  }
  if (at != payload.size()) return Broken("a long filesystem");
  result_.filesystems.push_back(std::move(found));
  listed_.push_back(0);
  return absl::OkStatus();
}

absl::Status ResultParser::TakeRuns(Bytes payload) {
  if (payload.size() < 8 + kPairBytes || (payload.size() - 8) % kPairBytes != 0)
    return Broken("runs of an odd length");
  const uint32_t index = LittleEndian<uint32_t>(payload, 0);
  const uint32_t disk = LittleEndian<uint32_t>(payload, 4);
  if (index >= result_.filesystems.size() || disk >= disk_sizes_.size())
    return Broken("runs of no filesystem");
  const Filesystem& filesystem = result_.filesystems[index];
  if (filesystem.refusal != Refusal::kNone) return Broken("runs where it refused");
  if (!filesystem.mapped && disk != filesystem.disk) return Broken("runs on another disk");
  const uint64_t lowest = filesystem.mapped ? 0 : filesystem.offset;
  const uint64_t highest =
      filesystem.mapped ? disk_sizes_[disk] : filesystem.offset + filesystem.length;
  const size_t count = (payload.size() - 8) / kPairBytes;
  extents_ += count;
  if (extents_ > kMaxExtents) return Broken("too many runs");
  if (result_.runs.empty() || result_.runs.back().filesystem != index ||
      result_.runs.back().disk != disk) {
    if (result_.runs.size() >= kMaxFilesystems * 2) return Broken("too many lists of runs");
    result_.runs.push_back({index, disk, {}});
  }
  std::vector<Extent>& extents = result_.runs.back().extents;
  if (extents.capacity() - extents.size() < count)
    extents.reserve(std::min(kMaxExtents, (extents.size() + count) * 2));
  for (size_t i = 0; i < count; ++i) {
    const Extent extent = {LittleEndian<uint64_t>(payload, 8 + i * kPairBytes),
                           LittleEndian<uint64_t>(payload, 16 + i * kPairBytes)};
    const uint64_t begin = extents.empty() ? lowest : extents.back().offset + extents.back().length;
    if (extent.length == 0 || extent.offset < begin || extent.offset > highest ||
        extent.length > highest - extent.offset) {
      return Broken("a run out of order or out of bounds");
    }
    listed_[index] += extent.length;
    if (listed_[index] > filesystem.free_bytes - filesystem.dropped_bytes)
      return Broken("more bytes in runs than free");
    extents.push_back(extent);
  }
  return absl::OkStatus();
}

absl::Status ResultParser::TakeEnd(Bytes payload, uint32_t crc) const {
  if (payload.size() != 16) return Broken("a bad end");
  if (LittleEndian<uint32_t>(payload, 0) != result_.filesystems.size() ||
      LittleEndian<uint64_t>(payload, 4) != extents_ ||
      LittleEndian<uint32_t>(payload, 12) != crc) {
    return Broken("its end does not fit what it said");
  }
  return absl::OkStatus();
}

// Between lists: each by itself was checked while it came in.
absl::Status ResultParser::CheckOverlaps() const {
  struct Cursor {
    const std::vector<Extent>* list;
    size_t at;
  };
  for (uint32_t disk = 0; disk < disk_sizes_.size(); ++disk) {
    const auto later = [](const Cursor& a, const Cursor& b) {
      return (*a.list)[a.at].offset > (*b.list)[b.at].offset;
    };
    std::vector<Cursor> heap;
    for (const FreeRuns& runs : result_.runs) {
      if (runs.disk == disk) heap.push_back({&runs.extents, 0});
    }
    std::ranges::make_heap(heap, later);
    uint64_t end = 0;
    while (!heap.empty()) {
      std::ranges::pop_heap(heap, later);
      Cursor& cursor = heap.back();
      const Extent& extent = (*cursor.list)[cursor.at];
      if (extent.offset < end) return Broken("two filesystems share free bytes");
      end = extent.offset + extent.length;
      if (++cursor.at == cursor.list->size()) {
        heap.pop_back();
      } else {
        std::ranges::push_heap(heap, later);
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ScanResult> ResultParser::Finish() && {
  if (!ended_) return absl::DataLossError("the free map worker ended before it was done");
  VR_RETURN_IF_ERROR(CheckOverlaps());
  return std::move(result_);
}

}  // namespace virt_reclaim::freemap
