#include "host/cli/json_parts.h"

#include "base/escape.h"

namespace virt_reclaim {

std::string Text(absl::string_view text) { return Printable(text); }

Json Document(absl::string_view message_type) {
  return {{"schema_version", 1}, {"message_type", std::string(message_type)}};
}

std::string Print(const Json& json) { return json.dump(2) + "\n"; }

Json DomainJson(const DomainSummary& domain) {
  return {{"name", Text(domain.name)},
          {"uuid", Text(domain.uuid)},
          {"state", std::string(Name(domain.state))}};
}

}  // namespace virt_reclaim
