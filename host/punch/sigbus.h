// Reading a mapping of a file that may shrink or fail below it: the kernel says so with SIGBUS.
#ifndef VIRT_RECLAIM_HOST_PUNCH_SIGBUS_H_
#define VIRT_RECLAIM_HOST_PUNCH_SIGBUS_H_

#include <functional>

namespace virt_reclaim::punch {

// Calls `read`; false when it hit SIGBUS, and then it was left in the middle: it must have nothing
// to destroy and change nothing but what the caller throws away then. Installs the process's
// handler on first use, for ever; a SIGBUS outside of such a call goes to the handler that was
// there before. Any thread, not nested.
bool SurvivesSigbus(const std::function<void()>& read);

}  // namespace virt_reclaim::punch

#endif  // VIRT_RECLAIM_HOST_PUNCH_SIGBUS_H_
