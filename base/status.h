// Status macros and helpers around absl::Status. Our code throws nothing: whatever can fail returns
// absl::Status or absl::StatusOr<T>, with a lower-case, concrete message, names in single quotes,
// and context added outwards. Any thread.
#ifndef VIRT_RECLAIM_BASE_STATUS_H_
#define VIRT_RECLAIM_BASE_STATUS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim {

// Status for errno value `err` of the call described by `what` ("open '/b/web.raw'"). The canonical
// code is absl's, but InvalidArgument for EISDIR and ENOTDIR; the text is "<what>: <strerror>".
absl::Status ErrnoStatus(int err, absl::string_view what);

// Puts `context` and ": " before the message; keeps the code. OK stays OK.
absl::Status Annotate(const absl::Status& status, absl::string_view context);

}  // namespace virt_reclaim

#define VR_CONCAT_INNER_(a, b) a##b
#define VR_CONCAT_(a, b) VR_CONCAT_INNER_(a, b)

// Returns from the function when `expr` (an absl::Status) is not OK.
#define VR_RETURN_IF_ERROR(expr)                                            \
  do {                                                                      \
    if (absl::Status vr_status = (expr); !vr_status.ok()) return vr_status; \
  } while (false)

// VR_ASSIGN_OR_RETURN(auto x, F()): x is the value of the StatusOr, or the function returns its
// status.
#define VR_ASSIGN_OR_RETURN(lhs, expr) VR_ASSIGN_OR_RETURN_(VR_CONCAT_(vr_or_, __LINE__), lhs, expr)
#define VR_ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                         \
  if (!tmp.ok()) return tmp.status();        \
  lhs = std::move(tmp).value()

#endif  // VIRT_RECLAIM_BASE_STATUS_H_
