#include "host/services/guest_agent.h"

namespace virt_reclaim {

absl::Status GuestAgent::SetTrimPause(absl::Duration, absl::Duration) {
  return absl::UnimplementedError("SetTrimPause: an older agent");
}
absl::StatusOr<GuestPreflight> GuestAgent::Preflight(absl::Duration, std::stop_token) {
  return absl::UnimplementedError("Preflight: an older agent");
}
absl::StatusOr<GuestMarker> GuestAgent::WriteMarker(const std::string&, uint64_t, absl::Duration,
                                                    std::stop_token) {
  return absl::UnimplementedError("WriteMarker: an older agent");
}
absl::StatusOr<GuestMarkerDiscard> GuestAgent::DiscardMarker(const std::string&, const GuestMarker&,
                                                             absl::Duration, std::stop_token) {
  return absl::UnimplementedError("DiscardMarker: an older agent");
}
absl::StatusOr<GuestFreeMap> GuestAgent::ReadFreeMap(const std::string&, uint64_t, absl::Duration,
                                                     std::stop_token) {
  return absl::UnimplementedError("ReadFreeMap: an older agent");
}
absl::StatusOr<GuestFix> GuestAgent::FixGuest(GuestFixAction, absl::Duration, std::stop_token) {
  return absl::UnimplementedError("FixGuest: an older agent");
}

}  // namespace virt_reclaim
