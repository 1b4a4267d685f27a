#include "host/cli/json_parts.h"

#include "absl/strings/str_cat.h"
#include "base/escape.h"

namespace virt_reclaim {

std::string Text(absl::string_view text) { return Printable(text); }

Json Document(absl::string_view message_type) {
  return {{"schema_version", 1}, {"message_type", std::string(message_type)}};
}

std::string Print(const Json& json) { return json.dump(2) + "\n"; }

void AddReasons(Json& json, const char* key, const std::vector<Blocker>& blockers) {
  Json codes = Json::array();
  Json details = Json::array();
  for (const Blocker& blocker : blockers) {
    codes.push_back(std::string(Code(blocker.reason)));
    details.push_back({{"code", std::string(Code(blocker.reason))},
                       {"text", std::string(Sentence(blocker.reason))},
                       {"detail", Text(blocker.detail)}});
  }
  json[key] = std::move(codes);
  json[absl::StrCat(key, "_explained")] = std::move(details);
}

Json DomainJson(const DomainSummary& domain) {
  return {{"name", Text(domain.name)},
          {"uuid", Text(domain.uuid)},
          {"state", std::string(Name(domain.state))}};
}

void AddOutcome(Json& json, const Outcome& outcome) {
  json["status"] = std::string(Name(outcome.kind));
  if (!outcome.error.ok()) json["error"] = Text(outcome.error.message());
  AddReasons(json, "reasons", outcome.reasons);
}

}  // namespace virt_reclaim
