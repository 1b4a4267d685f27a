// One question to QEMU's own monitor (QMP): a property of a device. Text only; who sends it is
// libvirt_hypervisor.cc. Pure; any thread.
// https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html (qom-get)
#ifndef VIRT_RECLAIM_HOST_SERVICES_QMP_H_
#define VIRT_RECLAIM_HOST_SERVICES_QMP_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim {

// `alias`: of the live XML, which is the device's id in QEMU.
std::string QomGetCommand(const std::string& alias, const std::string& property);

// The number, or 0 or 1 for a truth value, of the answer. NotFound: QEMU has no such device or
// property; InvalidArgument: it is no answer to this question.
absl::StatusOr<uint64_t> ParseQomValue(absl::string_view reply);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_QMP_H_
