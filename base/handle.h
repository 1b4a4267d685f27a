// Owner of a C object with a free function: Handle<virDomain, virDomainFree>. Move-only,
// const-correct, one pointer wide.
#ifndef VIRT_RECLAIM_BASE_HANDLE_H_
#define VIRT_RECLAIM_BASE_HANDLE_H_

#include <memory>

namespace virt_reclaim {

template <auto Free>
struct HandleDeleter {
  template <typename T>
  void operator()(T* object) const {
    static_cast<void>(Free(object));
  }
};

template <typename T, auto Free>
using Handle = std::unique_ptr<T, HandleDeleter<Free>>;

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_BASE_HANDLE_H_
