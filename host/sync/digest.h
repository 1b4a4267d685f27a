// xxh3 of an image, window by window. Only blocks that are not zero count, each with its place, so
// that a hole and written zeroes are the same.
#ifndef VIRT_RECLAIM_HOST_SYNC_DIGEST_H_
#define VIRT_RECLAIM_HOST_SYNC_DIGEST_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "host/punch/pacer.h"
#include "host/sync/steps.h"

struct XXH3_state_s;

namespace virt_reclaim::sync {

// Window index -> digest of its blocks; a window that is not there has none but zeroes.
using WindowDigests = std::map<uint64_t, uint64_t>;

// One window. One thread.
class WindowDigest {
 public:
  WindowDigest();
  ~WindowDigest();
  WindowDigest(const WindowDigest&) = delete;
  WindowDigest& operator=(const WindowDigest&) = delete;

  void Start();
  // Blocks from `offset` on, a multiple of kBlockBytes; ascending. Allocates nothing.
  void Add(uint64_t offset, const unsigned char* data, uint64_t bytes);
  bool empty() const { return empty_; }
  uint64_t value() const;

 private:
  XXH3_state_s* state_;
  bool empty_ = true;
};

// One digest of all: of (index, digest) of each window, in hexadecimal.
std::string DigestOf(const WindowDigests& windows);

// Reads the image `fd` of `size_bytes` back and compares. Its holes are taken for zeroes. DataLoss,
// with the place, where it is another. `device`: it has no holes. Returns the bytes read;
// Cancelled; Aborted when `interrupted` says so, asked before each piece.
absl::StatusOr<uint64_t> ReadBack(int fd, bool device, uint64_t size_bytes, const std::string& name,
                                  const WindowDigests& wanted, punch::Pacer& pacer,
                                  const std::function<bool()>& interrupted,
                                  const std::stop_token& stop);

}  // namespace virt_reclaim::sync

#endif  // VIRT_RECLAIM_HOST_SYNC_DIGEST_H_
