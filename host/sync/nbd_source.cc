#include "host/sync/nbd_source.h"

#include <libnbd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/handle.h"
#include "base/status.h"

namespace virt_reclaim::sync {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::seconds kDeadline{60};  // of one request; a disk with a bad sector takes 30
constexpr int kPollMilliseconds = 1000;
constexpr uint64_t kStatusBytes = uint64_t{1} << 30;  // asked for at once
constexpr size_t kMostRanges = size_t{64} << 20;      // of a server that does not stop

using Link = Handle<struct nbd_handle, nbd_close>;

absl::Status NbdStatus(absl::string_view what) {
  const char* error = nbd_get_error();
  return absl::UnavailableError(
      absl::StrCat(what, ": ", Printable(error == nullptr ? "unknown error" : error)));
}

// Waits for the request `cookie` (-1: it could not be sent).
absl::Status Wait(nbd_handle* link, int64_t cookie, absl::string_view what) {
  if (cookie < 0) return NbdStatus(what);
  const auto limit = steady_clock::now() + kDeadline;
  while (true) {
    const int done = nbd_aio_command_completed(link, static_cast<uint64_t>(cookie));
    if (done < 0) return NbdStatus(what);
    if (done > 0) return absl::OkStatus();
    if (nbd_poll(link, kPollMilliseconds) < 0) return NbdStatus(what);
    if (steady_clock::now() > limit)
      return absl::DeadlineExceededError(absl::StrCat(what, ": no answer"));
  }
}

absl::StatusOr<Link> Connect(const NbdExport& where) {
  Link link(nbd_create());
  if (link == nullptr) return NbdStatus("NBD");
  if (nbd_set_export_name(link.get(), where.name.c_str()) != 0 ||
      nbd_set_request_structured_replies(link.get(), true) != 0 ||
      nbd_add_meta_context(link.get(), LIBNBD_CONTEXT_BASE_ALLOCATION) != 0 ||
      (!where.bitmap.empty() && nbd_add_meta_context(link.get(), where.bitmap.c_str()) != 0)) {
    return NbdStatus("NBD");
  }
  const std::string what = absl::StrCat("connect to '", Printable(where.socket), "'");
  // A unix socket answers at once or not at all, but for a handshake that hangs.
  if (nbd_aio_connect_unix(link.get(), where.socket.c_str()) != 0) return NbdStatus(what);
  const auto limit = steady_clock::now() + kDeadline;
  while (nbd_aio_is_connecting(link.get()) != 0) {
    if (nbd_poll(link.get(), kPollMilliseconds) < 0) return NbdStatus(what);
    if (steady_clock::now() > limit) return absl::DeadlineExceededError(what);
  }
  if (nbd_aio_is_ready(link.get()) != 1) return NbdStatus(what);
  return link;
}

class NbdReader final : public PieceReader {
 public:
  NbdReader(Link link, std::string name) : link_(std::move(link)), name_(std::move(name)) {}

  absl::Status Load(std::span<const Range> need) override {
    if (buffer_.memory() == nullptr) return absl::ResourceExhaustedError("no memory");
    start_ = RoundDown(need.front().begin, kPieceBytes);
    std::vector<int64_t> cookies;
    for (size_t i = 0; i < need.size();) {
      Range stretch = need[i++];
      while (i < need.size() && need[i].begin - stretch.end <= kGapBytes)
        stretch.end = need[i++].end;
      cookies.push_back(nbd_aio_pread(link_.get(), buffer_.memory() + (stretch.begin - start_),
                                      stretch.size(), stretch.begin, nbd_completion_callback{}, 0));
    }
    // All of them, even after an error: the buffer is theirs until then.
    absl::Status status;
    for (const int64_t cookie : cookies) {
      const absl::Status one =
          Wait(link_.get(), cookie, absl::StrCat("read ", name_, " at ", need.front().begin));
      if (status.ok()) status = one;
    }
    return status;
  }

  const unsigned char* At(uint64_t offset) const override {
    return buffer_.memory() + (offset - start_);
  }

 private:
  Link link_;
  std::string name_;
  PieceBuffer buffer_;
  uint64_t start_ = 0;
};

// Takes in what the server says of some bytes. Returns -1 for nonsense.
struct Extents {
  uint64_t end = 0;  // of what base:allocation covered so far
  uint64_t size = 0;
  std::string bitmap;
  std::vector<Range> data;
  std::vector<Range> changed;

  int Take(absl::string_view context, uint64_t offset, const uint32_t* entries, size_t count) {
    const bool allocation = context == LIBNBD_CONTEXT_BASE_ALLOCATION;
    if (!allocation && context != bitmap) return 0;
    std::vector<Range>& ranges = allocation ? data : changed;
    for (size_t i = 0; i + 1 < count; i += 2) {
      const Range range = {offset, std::min(size, offset + entries[i])};
      const bool counts = allocation ? (entries[i + 1] & LIBNBD_STATE_ZERO) == 0
                                     : (entries[i + 1] & 1) != 0;  // bit 0: dirty
      if (counts) {
        // Answers may overlap what is known: the allocation is asked for on, the bitmap said more.
        Range left = range;
        if (!ranges.empty()) left.begin = std::max(left.begin, ranges.back().end);
        AppendJoined(ranges, left);
      }
      offset = range.end;
      if (ranges.size() > kMostRanges) return -1;
    }
    uint64_t& covered = allocation ? end : changed_end;
    covered = std::max(covered, offset);
    return 0;
  }
  uint64_t changed_end = 0;
};

absl::StatusOr<Extents> AskExtents(nbd_handle* link, uint64_t size, const NbdExport& where) {
  Extents extents;
  extents.size = size;
  extents.bitmap = where.bitmap;
  const bool tells = nbd_can_meta_context(link, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
  const bool marks = !where.bitmap.empty();
  if (marks && nbd_can_meta_context(link, where.bitmap.c_str()) != 1)
    return absl::NotFoundError(absl::StrCat("the server has no '", Printable(where.bitmap), "'"));
  if (!tells && marks) return absl::UnimplementedError("the server tells no extents");
  if (!tells) {
    AppendJoined(extents.data, {0, size});
    return extents;
  }
  for (uint64_t at = 0; at < size;) {
    nbd_extent_callback callback = {};
    callback.user_data = &extents;
    callback.callback = [](void* user, const char* context, uint64_t offset, uint32_t* entries,
                           size_t count, int* error) {
      if (*error != 0) return -1;
      return static_cast<Extents*>(user)->Take(context, offset, entries, count);
    };
    const int64_t cookie = nbd_aio_block_status(link, std::min(kStatusBytes, size - at), at,
                                                callback, nbd_completion_callback{}, 0);
    VR_RETURN_IF_ERROR(Wait(link, cookie, absl::StrCat("ask for extents at ", at)));
    // The server may say less than it was asked for, and less of one than of the other.
    const uint64_t next = marks ? std::min(extents.end, extents.changed_end) : extents.end;
    if (next <= at) return absl::InternalError("the server tells no extents");
    at = next;
  }
  return extents;
}

class RealNbdSource final : public NbdSource {
 public:
  RealNbdSource(NbdExport where, uint64_t size, Extents extents)
      : where_(std::move(where)), size_(size), data_(std::move(extents.data)) {
    if (!where_.bitmap.empty()) changed_ = std::move(extents.changed);
  }

  uint64_t size_bytes() const override { return size_; }
  absl::StatusOr<std::vector<Range>> Data() override { return data_; }
  const std::optional<std::vector<Range>>& Changed() const override { return changed_; }

  absl::StatusOr<std::unique_ptr<PieceReader>> NewReader() override {
    VR_ASSIGN_OR_RETURN(Link link, Connect(where_));
    return std::make_unique<NbdReader>(std::move(link), Quoted(where_.name));
  }

 private:
  NbdExport where_;
  uint64_t size_;
  std::vector<Range> data_;
  std::optional<std::vector<Range>> changed_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<NbdSource>> OpenNbdSource(const NbdExport& where) {
  VR_ASSIGN_OR_RETURN(const Link link, Connect(where));
  const int64_t size = nbd_get_size(link.get());
  if (size < 0) return NbdStatus("ask for the size");
  VR_ASSIGN_OR_RETURN(Extents extents, AskExtents(link.get(), static_cast<uint64_t>(size), where));
  return std::make_unique<RealNbdSource>(where, static_cast<uint64_t>(size), std::move(extents));
}

}  // namespace virt_reclaim::sync
