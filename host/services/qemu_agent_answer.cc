#include "host/services/qemu_agent_answer.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/escape.h"

namespace virt_reclaim {
namespace {

using Json = nlohmann::json;

constexpr int kMaxDepth = 8;  // guest-get-fsinfo needs 6
constexpr size_t kMaxErrorBytes = 256;

}  // namespace

absl::StatusOr<Json> QemuAgentReturn(absl::string_view text) {
  if (text.size() > kMaxQemuAgentReply)
    return absl::InternalError("qemu-guest-agent: the answer is too large");
  const auto shallow = [](int depth, Json::parse_event_t, const Json&) {
    return depth <= kMaxDepth;
  };
  Json json = Json::parse(text.begin(), text.end(), shallow, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InternalError("qemu-guest-agent: the answer is no JSON");
  if (const auto error = json.find("error"); error != json.end() && error->is_object()) {
    const auto words = error->find("desc");
    const bool is_text = words != error->end() && words->is_string();
    return absl::InternalError(absl::StrCat(
        "qemu-guest-agent: ",
        is_text ? Printable(words->get_ref<const std::string&>(), kMaxErrorBytes) : ""));
  }
  const auto found = json.find("return");
  if (found == json.end()) return absl::InternalError("qemu-guest-agent: the answer is empty");
  return std::move(*found);
}

}  // namespace virt_reclaim
