// A list of strings that libguestfs has given: NULL at its end, and ours to free.
#ifndef VIRT_RECLAIM_HOST_GUESTFS_GUESTFS_LISTS_H_
#define VIRT_RECLAIM_HOST_GUESTFS_GUESTFS_LISTS_H_

#include <cstddef>
#include <cstdlib>
#include <utility>

namespace virt_reclaim {

class GuestfsList {
 public:
  explicit GuestfsList(char** list) : list_(list) {
    while (list_ != nullptr && list_[size_] != nullptr) ++size_;
  }
  GuestfsList(const GuestfsList&) = delete;
  GuestfsList& operator=(const GuestfsList&) = delete;
  ~GuestfsList() {
    for (size_t i = 0; i < size_; ++i) free(list_[i]);
    free(list_);
  }

  // False: the call that should have given it has failed.
  bool ok() const { return list_ != nullptr; }
  size_t size() const { return size_; }
  const char* operator[](size_t i) const { return list_[i]; }
  char** begin() const { return list_; }
  char** end() const { return list_ + size_; }

 private:
  char** list_;
  size_t size_ = 0;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_GUESTFS_GUESTFS_LISTS_H_
