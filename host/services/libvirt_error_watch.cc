#include "host/services/libvirt_error_watch.h"

#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "host/services/libvirt_error.h"

namespace virt_reclaim {
namespace {

// Shared with libvirt, which frees its share when the last call of the callback is over.
struct Listener {
  std::mutex mutex;
  std::function<void(const std::string&)> on_error;  // empty: nobody listens any more
};
using Share = std::shared_ptr<Listener>;

std::string Words(const char* device, int action, const char* reason) {
  std::string words(device != nullptr && *device != '\0' ? device : "a disk");
  if (reason != nullptr && *reason != '\0') absl::StrAppend(&words, ": ", reason);
  if (action == VIR_DOMAIN_EVENT_IO_ERROR_PAUSE) words += "; the domain was paused";
  return words;
}

void OnIoError(virConnectPtr, virDomainPtr, const char*, const char* device, int action,
               const char* reason, void* opaque) {
  Listener& listener = **static_cast<Share*>(opaque);
  const std::lock_guard lock(listener.mutex);
  if (listener.on_error) listener.on_error(Words(device, action, reason));
}

class LibvirtErrorWatch : public ErrorWatch {
 public:
  LibvirtErrorWatch(virConnectPtr connection, int callback, Share listener)
      : connection_(connection), callback_(callback), listener_(std::move(listener)) {
    virConnectRef(connection);
  }
  ~LibvirtErrorWatch() override {
    virConnectDomainEventDeregisterAny(connection_, callback_);
    virConnectClose(connection_);
    const std::lock_guard lock(listener_->mutex);
    listener_->on_error = nullptr;
  }
  LibvirtErrorWatch(const LibvirtErrorWatch&) = delete;
  LibvirtErrorWatch& operator=(const LibvirtErrorWatch&) = delete;

 private:
  const virConnectPtr connection_;
  const int callback_;
  const Share listener_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ErrorWatch>> WatchLibvirtErrors(
    virConnectPtr connection, virDomainPtr domain,
    std::function<void(const std::string& what)> on_error) {
  auto listener = std::make_shared<Listener>();
  listener->on_error = std::move(on_error);
  auto share = std::make_unique<Share>(listener);
  const int callback = virConnectDomainEventRegisterAny(
      connection, domain, VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, VIR_DOMAIN_EVENT_CALLBACK(OnIoError),
      share.get(), [](void* opaque) { delete static_cast<Share*>(opaque); });
  if (callback < 0) return LibvirtStatus("listen for I/O errors");
  static_cast<void>(share.release());  // libvirt's
  return std::make_unique<LibvirtErrorWatch>(connection, callback, std::move(listener));
}

}  // namespace virt_reclaim
