// Sums of what a guest or a file says: at the limit they stay there, so that no lie makes a sum of
// others' figures small. Pure; any thread.
#ifndef VIRT_RECLAIM_BASE_SATURATING_ADD_H_
#define VIRT_RECLAIM_BASE_SATURATING_ADD_H_

#include <cstdint>

namespace virt_reclaim {

constexpr uint64_t SaturatingAdd(uint64_t a, uint64_t b) {
  return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_BASE_SATURATING_ADD_H_
