#include "host/services/libvirt_port.h"

#include <libvirt/virterror.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "base/handle.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "host/services/libvirt_error.h"

namespace virt_reclaim {
namespace {

constexpr size_t kReceiveLimit =
    size_t{1} << 20;  // four windows of the session layer; then the stream is not read
constexpr size_t kReceiveStep = size_t{64} << 10;
constexpr int kLibvirtWouldBlock = -2;  // virStreamSend, virStreamRecv
constexpr int kErrors = VIR_STREAM_EVENT_ERROR | VIR_STREAM_EVENT_HANGUP;

// What libvirt's event thread and the link's thread share. The callback holds a reference of its
// own, because libvirt may run it once more, or free its opaque pointer, after the port is gone.
//
// The callback reads, rather than waking the other thread to read: stream events are
// level-triggered, so an unread stream would make the event loop spin.
class StreamState {
 public:
  explicit StreamState(virStreamPtr stream, int event_fd) : stream_(stream), event_fd_(event_fd) {}

  void OnEvent(int events) {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    if ((events & VIR_STREAM_EVENT_READABLE) != 0) Receive();
    if ((events & VIR_STREAM_EVENT_WRITABLE) != 0) want_write_ = false;
    if ((events & kErrors) != 0) Fail("the channel was closed");
    Watch();
    Signal();
  }

  link::IoResult Read(std::span<uint8_t> buffer) {
    const std::lock_guard lock(mutex_);
    if (received_.empty()) {
      if (!error_.empty()) return {link::IoResult::Kind::kGone, 0, error_};
      return {link::IoResult::Kind::kWouldBlock, 0, ""};
    }
    const size_t n = std::min(buffer.size(), received_.size());
    std::memcpy(buffer.data(), received_.data(), n);
    received_.erase(0, n);
    Watch();
    return {link::IoResult::Kind::kBytes, n, ""};
  }

  link::IoResult Write(std::span<const uint8_t> bytes) {
    const std::lock_guard lock(mutex_);
    if (!error_.empty()) return {link::IoResult::Kind::kGone, 0, error_};
    const int n = virStreamSend(stream_, reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (n >= 0) return {link::IoResult::Kind::kBytes, static_cast<size_t>(n), ""};
    if (n != kLibvirtWouldBlock) {
      Fail(std::string(LibvirtStatus("send").message()));
      return {link::IoResult::Kind::kGone, 0, error_};
    }
    want_write_ = true;
    Watch();
    return {link::IoResult::Kind::kWouldBlock, 0, ""};
  }

  void Close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }

 private:
  void Receive() {
    char buffer[kReceiveStep];
    while (received_.size() < kReceiveLimit) {
      const int n = virStreamRecv(stream_, buffer, sizeof buffer);
      if (n > 0) received_.append(buffer, static_cast<size_t>(n));
      if (n == kLibvirtWouldBlock) return;
      if (n == 0) return Fail("the channel was closed");
      if (n < 0) return Fail(std::string(LibvirtStatus("receive").message()));
      if (static_cast<size_t>(n) < sizeof buffer)
        return;  // drained; the event is level-triggered if not
    }
  }

  void Fail(std::string why) {
    if (error_.empty()) error_ = std::move(why);
  }

  // Tells libvirt which events we can use now, when that changed.
  void Watch() {
    int events = 0;
    if (error_.empty()) {
      events = kErrors;
      if (received_.size() < kReceiveLimit) events |= VIR_STREAM_EVENT_READABLE;
      if (want_write_) events |= VIR_STREAM_EVENT_WRITABLE;
    }
    if (events == watched_) return;
    watched_ = events;
    virStreamEventUpdateCallback(stream_, events);
  }

  void Signal() const {
    const uint64_t one = 1;
    static_cast<void>(!write(event_fd_, &one, sizeof one));
  }

  std::mutex mutex_;
  virStreamPtr stream_;  // the port's
  int event_fd_;         // the port's
  int watched_ = VIR_STREAM_EVENT_READABLE | kErrors;
  bool want_write_ = false;
  bool closed_ = false;
  std::string received_;
  std::string error_;
};

using SharedState = std::shared_ptr<StreamState>;

class LibvirtPort : public link::Port {
 public:
  LibvirtPort(Handle<virStream, virStreamFree> stream, UniqueFd event_fd)
      : stream_(std::move(stream)),
        event_fd_(std::move(event_fd)),
        state_(std::make_shared<StreamState>(stream_.get(), event_fd_.get())) {}

  ~LibvirtPort() override {
    state_->Close();
    virStreamEventRemoveCallback(stream_.get());
    virStreamAbort(stream_.get());
    virResetLastError();
  }

  absl::Status Start() {
    auto* reference = new SharedState(state_);
    const int rc = virStreamEventAddCallback(
        stream_.get(), VIR_STREAM_EVENT_READABLE | kErrors,
        [](virStreamPtr, int events, void* opaque) {
          (*static_cast<SharedState*>(opaque))->OnEvent(events);
        },
        reference, [](void* opaque) { delete static_cast<SharedState*>(opaque); });
    if (rc == 0) return absl::OkStatus();
    delete reference;
    return LibvirtStatus("watch the channel");
  }

  int fd() const override { return event_fd_.get(); }
  void AcknowledgeEdge() override {
    uint64_t count = 0;
    static_cast<void>(!read(event_fd_.get(), &count, sizeof count));
  }
  link::IoResult Read(std::span<uint8_t> buffer) override { return state_->Read(buffer); }
  link::IoResult Write(std::span<const uint8_t> bytes) override { return state_->Write(bytes); }

 private:
  Handle<virStream, virStreamFree> stream_;
  UniqueFd event_fd_;
  SharedState state_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<link::Port>> OpenLibvirtPort(virDomainPtr domain,
                                                            const std::string& channel) {
  Handle<virStream, virStreamFree> stream(
      virStreamNew(virDomainGetConnect(domain), VIR_STREAM_NONBLOCK));
  if (stream == nullptr) return LibvirtStatus("make a stream");
  // Flags 0, never FORCE: that would take the channel away from whoever has it.
  if (virDomainOpenChannel(domain, channel.c_str(), stream.get(), 0) != 0) {
    return LibvirtStatus(absl::StrCat("open channel '", channel, "'"));
  }
  UniqueFd event_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event_fd.valid()) return ErrnoStatus(errno, "eventfd");
  auto port = std::make_unique<LibvirtPort>(std::move(stream), std::move(event_fd));
  VR_RETURN_IF_ERROR(port->Start());
  return port;
}

}  // namespace virt_reclaim
