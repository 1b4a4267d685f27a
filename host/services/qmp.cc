#include "host/services/qmp.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/escape.h"

namespace virt_reclaim {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxQmpReplyBytes = 65536;

}  // namespace

std::string QomGetCommand(const std::string& alias, const std::string& property) {
  const Json command = {
      {"execute", "qom-get"},
      {"arguments",
       {{"path", absl::StrCat("/machine/peripheral/", alias)}, {"property", property}}}};
  return command.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<uint64_t> ParseQomValue(absl::string_view reply) {
  if (reply.size() > kMaxQmpReplyBytes)
    return absl::InvalidArgumentError("QEMU's answer is too long");
  const Json json = Json::parse(reply.begin(), reply.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("QEMU's answer is no JSON object");
  if (const auto error = json.find("error"); error != json.end()) {
    const auto text = error->is_object() ? error->find("desc") : error->end();
    const bool has_text = error->is_object() && text != error->end() && text->is_string();
    return absl::NotFoundError(
        absl::StrCat("QEMU: ", has_text ? Printable(text->get<std::string>(), 256) : "an error"));
  }
  const auto value = json.find("return");
  if (value == json.end()) return absl::InvalidArgumentError("QEMU's answer has no value");
  if (value->is_boolean()) return value->get<bool>() ? 1 : 0;
  if (value->is_number_unsigned()) return value->get<uint64_t>();
  return absl::InvalidArgumentError("QEMU's answer is neither a number nor a truth value");
}

}  // namespace virt_reclaim
