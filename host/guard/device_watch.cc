#include "host/guard/device_watch.h"

#include <algorithm>
#include <utility>

namespace virt_reclaim {
namespace {

using std::chrono::steady_clock;

constexpr steady_clock::duration kBetweenLooks = std::chrono::milliseconds(100);
constexpr int kShare = 10;

}  // namespace

DeviceWatch::DeviceWatch(const ImageIdentity& device, HolderRoots roots)
    : device_(device), roots_(std::move(roots)), next_look_(steady_clock::now()) {}

bool DeviceWatch::SomebodyWrites() {
  const std::lock_guard lock(mutex_);
  const steady_clock::time_point begin = steady_clock::now();
  if (writes_ || begin < next_look_) return writes_;
  writes_ = Look();
  const steady_clock::time_point end = steady_clock::now();
  next_look_ = end + std::max(kBetweenLooks, kShare * (end - begin));
  return writes_;
}

bool DeviceWatch::Look() const {
  const auto someone = [this] {
    return !FindWriters(device_, roots_, [this](pid_t pid) {
              return IsDescendant(pid, roots_);
            }).names.empty();
  };
  // A child of ours that ends between two looks at it is nobody's by then: it is gone the next
  // time.
  return someone() && someone();
}

}  // namespace virt_reclaim
