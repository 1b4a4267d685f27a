#include "host/sparsify/nbd_client.h"

#include <fcntl.h>
#include <libnbd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/handle.h"
#include "base/status.h"

namespace virt_reclaim::sparsify {
namespace {

using NbdHandle = Handle<nbd_handle, nbd_close>;

constexpr char kDepth[] = "qemu:allocation-depth";
constexpr uint64_t kAsked = uint64_t{1} << 31;   // a request has 32 bits for it
constexpr size_t kMaxRanges = size_t{16} << 20;  // 1 TiB of 64 KiB clusters, every other one
constexpr uint32_t kTop = 1;

absl::Status LastError(absl::string_view what) {
  const char* error = nbd_get_error();
  return absl::InternalError(
      absl::StrCat(what, ": ", error == nullptr ? "no reason given" : Printable(error)));
}

absl::StatusOr<NbdHandle> Handshake(UniqueFd socket, const char* name, bool reading) {
  NbdHandle handle(nbd_create());
  if (handle == nullptr) return LastError("make an NBD handle");
  if (nbd_set_export_name(handle.get(), name) != 0 ||
      // The worker speaks the simple form only.
      (reading && nbd_set_request_structured_replies(handle.get(), false) != 0) ||
      (!reading && (nbd_add_meta_context(handle.get(), kDepth) != 0 ||
                    nbd_add_meta_context(handle.get(), LIBNBD_CONTEXT_BASE_ALLOCATION) != 0))) {
    return LastError("prepare an NBD connection");
  }
  if (nbd_connect_socket(handle.get(), socket.Release()) != 0) return LastError("connect by NBD");
  return handle;
}

// What one answer said, of one context: runs of bytes from `at` on.
struct Answer {
  uint64_t at = 0;
  uint64_t end = 0;
  const char* context = nullptr;
  std::function<bool(uint32_t)> wanted;
  std::vector<Range>* ranges = nullptr;
};
using Answers = std::array<Answer, 2>;

int TakeExtents(void* data, const char* context, uint64_t offset, uint32_t* entries, size_t count,
                int* /*error*/) {
  for (Answer& answer : *static_cast<Answers*>(data)) {
    if (strcmp(context, answer.context) != 0 || offset != answer.at) continue;
    for (size_t i = 0; i + 1 < count; i += 2) {
      const uint64_t begin = answer.at;
      answer.at = std::min(answer.at + entries[i], answer.end);
      if (answer.wanted(entries[i + 1])) AppendJoined(*answer.ranges, {begin, answer.at});
    }
  }
  return 0;
}

// One list may have been told further than the other, and is told anew from there.
void CutAt(std::vector<Range>& ranges, uint64_t end) {
  while (!ranges.empty() && ranges.back().begin >= end) ranges.pop_back();
  if (!ranges.empty()) ranges.back().end = std::min(ranges.back().end, end);
}

class Trimmer final : public NbdTrimmer {
 public:
  Trimmer(NbdHandle handle, uint64_t size) : size_(size), handle_(std::move(handle)) {}
  ~Trimmer() override {
    MakeRoom(0).IgnoreError();
    nbd_shutdown(handle_.get(), 0);
  }

  uint64_t size_bytes() const override { return size_; }

  absl::StatusOr<AllocationMap> Allocated() override {
    AllocationMap map;
    for (uint64_t at = 0; at < size_;) {
      Answers answers = {
          Answer{at, size_, kDepth, [](uint32_t depth) { return depth == kTop; }, &map.allocated},
          Answer{at, size_, LIBNBD_CONTEXT_BASE_ALLOCATION,
                 [](uint32_t flags) { return (flags & LIBNBD_STATE_HOLE) == 0; }, &map.data}};
      const uint64_t count = std::min(kAsked, size_ - at);
      if (nbd_block_status(handle_.get(), count, at, {TakeExtents, &answers, nullptr}, 0) != 0)
        return LastError("ask what is allocated");
      const uint64_t end = std::min(answers[0].at, answers[1].at);
      if (end <= at) return absl::InternalError("the NBD server does not say what is there");
      CutAt(map.allocated, end);
      CutAt(map.data, end);
      if (map.allocated.size() > kMaxRanges || map.data.size() > kMaxRanges)
        return absl::ResourceExhaustedError("the image is in too many pieces");
      at = end;
    }
    return map;
  }

  absl::Status Trim(Range range) override { return Begin(nbd_aio_trim, "trim", range); }

  absl::Status Zero(Range range) override { return Begin(nbd_aio_zero, "zero", range); }

  absl::Status Flush() override {
    VR_RETURN_IF_ERROR(MakeRoom(0));
    if (nbd_flush(handle_.get(), 0) == 0) return absl::OkStatus();
    return LastError("flush");
  }

 private:
  struct Request {
    Trimmer* trimmer;
    const char* what;
    Range range;
  };

  // Within calls of libnbd. 1: it need not keep the answer.
  static int TakeAnswer(void* data, int* error) {
    const auto* request = static_cast<const Request*>(data);
    Trimmer& trimmer = *request->trimmer;
    --trimmer.in_flight_;
    if (*error != 0 && trimmer.failed_.ok()) {
      const std::string what = absl::StrCat(request->what, " at ", request->range.begin);
      trimmer.failed_ = absl::InternalError(ErrnoStatus(*error, what).message());
    }
    return 1;
  }

  // libnbd frees the request when it will not be answered any more, also after an error.
  absl::Status Begin(decltype(nbd_aio_trim)* send, const char* what, Range range) {
    VR_RETURN_IF_ERROR(MakeRoom(kMaxInFlight - 1));
    const nbd_completion_callback ended = {TakeAnswer, new Request{this, what, range},
                                           [](void* data) { delete static_cast<Request*>(data); }};
    ++in_flight_;  // the answer may come before `send` returns
    if (send(handle_.get(), range.size(), range.begin, ended, 0) >= 0) return failed_;
    --in_flight_;
    return LastError(absl::StrCat(what, " at ", range.begin));
  }

  // Waits until no more than `most` are under way.
  absl::Status MakeRoom(int most) {
    while (in_flight_ > most) {
      if (nbd_poll(handle_.get(), -1) < 0) return LastError("wait for an answer");
    }
    return failed_;
  }

  uint64_t size_;
  int in_flight_ = 0;
  absl::Status failed_;  // the first one
  NbdHandle handle_;     // answers to the others
};

absl::StatusOr<uint64_t> SizeOf(nbd_handle* handle) {
  const int64_t size = nbd_get_size(handle);
  if (size < 0) return LastError("measure an NBD export");
  return static_cast<uint64_t>(size);
}

}  // namespace

absl::StatusOr<ReadConnection> ConnectForReading(UniqueFd socket, const char* name) {
  ReadConnection connection;
  // The handle closes its own one; nothing is sent when it does.
  connection.fd = UniqueFd(fcntl(socket.get(), F_DUPFD_CLOEXEC, 0));
  if (!connection.fd.valid()) return ErrnoStatus(errno, "dup");
  VR_ASSIGN_OR_RETURN(const NbdHandle handle, Handshake(std::move(socket), name, true));
  if (nbd_is_read_only(handle.get()) != 1)
    return absl::FailedPreconditionError("the NBD export for reading could be written to");
  VR_ASSIGN_OR_RETURN(connection.size_bytes, SizeOf(handle.get()));
  // libnbd makes its sockets non-blocking; the worker waits in read(2).
  const int flags = fcntl(connection.fd.get(), F_GETFL);
  if (flags < 0 || fcntl(connection.fd.get(), F_SETFL, flags & ~O_NONBLOCK) != 0)
    return ErrnoStatus(errno, "fcntl");
  return connection;
}

absl::StatusOr<std::unique_ptr<NbdTrimmer>> NbdTrimmer::Connect(UniqueFd socket, const char* name) {
  VR_ASSIGN_OR_RETURN(NbdHandle handle, Handshake(std::move(socket), name, false));
  if (nbd_can_meta_context(handle.get(), kDepth) != 1 ||
      nbd_can_meta_context(handle.get(), LIBNBD_CONTEXT_BASE_ALLOCATION) != 1)
    return absl::UnimplementedError("this QEMU does not say what lies in the image itself");
  VR_ASSIGN_OR_RETURN(const uint64_t size, SizeOf(handle.get()));
  return std::make_unique<Trimmer>(std::move(handle), size);
}

}  // namespace virt_reclaim::sparsify
