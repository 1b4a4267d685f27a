#include "host/cli/outcome_output.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/escape.h"
#include "host/cli/json_parts.h"

namespace virt_reclaim {
std::string BlockerText(const Blocker& blocker) {
  std::string text = absl::StrCat(Code(blocker.reason), ": ", Sentence(blocker.reason));
  if (!blocker.detail.empty()) absl::StrAppend(&text, " (", blocker.detail, ")");
  return text;
}

std::string ReasonCodes(const std::vector<Blocker>& blockers) {
  return absl::StrJoin(blockers, ", ", [](std::string* out, const Blocker& blocker) {
    absl::StrAppend(out, Code(blocker.reason));
  });
}

std::string BlockerTexts(const std::vector<Blocker>& blockers) {
  return absl::StrJoin(blockers, "; ", [](std::string* out, const Blocker& b) {
    absl::StrAppend(out, BlockerText(b));
  });
}

std::string OutcomeText(const Outcome& outcome) {
  if (outcome.kind == OutcomeKind::kFailed)
    return absl::StrCat("failed: ", Printable(outcome.error.message()));
  if (outcome.kind == OutcomeKind::kSkipped)
    return absl::StrCat("skipped: ", BlockerTexts(outcome.reasons));
  if (outcome.kind == OutcomeKind::kCancelled) return "interrupted";
  return BlockerTexts(outcome.reasons);
}

void AddReasons(Json& json, const char* key, const std::vector<Blocker>& blockers) {
  Json codes = Json::array();
  Json details = Json::array();
  for (const Blocker& blocker : blockers) {
    codes.push_back(std::string(Code(blocker.reason)));
    details.push_back({{"code", std::string(Code(blocker.reason))},
                       {"text", std::string(Sentence(blocker.reason))},
                       {"detail", Printable(blocker.detail)}});
  }
  json[key] = std::move(codes);
  json[absl::StrCat(key, "_explained")] = std::move(details);
}

void AddOutcome(Json& json, const Outcome& outcome) {
  json["status"] = std::string(Name(outcome.kind));
  if (!outcome.error.ok()) json["error"] = Printable(outcome.error.message());
  AddReasons(json, "reasons", outcome.reasons);
}

}  // namespace virt_reclaim
