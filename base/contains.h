// Is it in the list?
#ifndef VIRT_RECLAIM_BASE_CONTAINS_H_
#define VIRT_RECLAIM_BASE_CONTAINS_H_

#include <algorithm>
#include <iterator>

namespace virt_reclaim {

// Whether an element of `list`, an array or a container, equals `value`. Any thread.
template <typename List, typename Value>
bool Contains(const List& list, const Value& value) {
  return std::find(std::begin(list), std::end(list), value) != std::end(list);
}

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_BASE_CONTAINS_H_
