#include "host/services/libvirt_error.h"

#include <libvirt/virterror.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"

namespace virt_reclaim {
namespace {

absl::StatusCode CodeOf(int libvirt_code, absl::string_view message) {
  // Only the text tells these apart from other system errors: a second process on an embedded root,
  // a permission.
  if (absl::StrContains(message, "driver.pid") ||
      absl::StrContains(message, "Active channel stream exists")) {
    return absl::StatusCode::kAborted;
  }
  if (absl::StrContains(message, "Permission denied")) return absl::StatusCode::kPermissionDenied;
  switch (libvirt_code) {
    case VIR_ERR_NO_DOMAIN:
    case VIR_ERR_NO_STORAGE_POOL:
    case VIR_ERR_NO_STORAGE_VOL:
      return absl::StatusCode::kNotFound;
    case VIR_ERR_ACCESS_DENIED:
    case VIR_ERR_AUTH_FAILED:
    case VIR_ERR_AUTH_CANCELLED:
    case VIR_ERR_AUTH_UNAVAILABLE:
    case VIR_ERR_OPERATION_DENIED:
      return absl::StatusCode::kPermissionDenied;
    case VIR_ERR_NO_CONNECT:
    case VIR_ERR_NO_SERVER:
    case VIR_ERR_SYSTEM_ERROR:
    case VIR_ERR_RPC:
    case VIR_ERR_INVALID_CONN:
      return absl::StatusCode::kUnavailable;
    case VIR_ERR_NO_SUPPORT:
    case VIR_ERR_OPERATION_UNSUPPORTED:
    case VIR_ERR_ARGUMENT_UNSUPPORTED:
    case VIR_ERR_CONFIG_UNSUPPORTED:
      return absl::StatusCode::kUnimplemented;
    case VIR_ERR_OPERATION_INVALID:
      return absl::StatusCode::kFailedPrecondition;
    case VIR_ERR_CHECKPOINT_INCONSISTENT:
      return absl::StatusCode::kDataLoss;
    case VIR_ERR_OPERATION_TIMEOUT:
    case VIR_ERR_AGENT_UNRESPONSIVE:
      return absl::StatusCode::kDeadlineExceeded;
    case VIR_ERR_XML_ERROR:
    case VIR_ERR_XML_DETAIL:
    case VIR_ERR_XML_INVALID_SCHEMA:
    case VIR_ERR_INVALID_ARG:
      return absl::StatusCode::kInvalidArgument;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

absl::Status LibvirtStatus(absl::string_view what) {
  const virError* error = virGetLastError();
  const absl::string_view message =
      error != nullptr && error->message != nullptr ? error->message : "libvirt gave no reason";
  const absl::StatusCode code = CodeOf(error != nullptr ? error->code : 0, message);
  absl::Status status(code, absl::StrCat(what, ": ", Printable(message)));
  virResetLastError();
  return status;
}

absl::Status LibvirtJobStatus(virDomainPtr domain) {
  absl::Status status = LibvirtStatus("ask for its jobs");
  const bool is_off =
      absl::IsFailedPrecondition(status) && domain != nullptr && virDomainIsActive(domain) == 0;
  return absl::IsUnimplemented(status) || is_off ? absl::OkStatus() : status;
}

}  // namespace virt_reclaim
