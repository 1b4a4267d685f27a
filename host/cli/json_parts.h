// What the JSON documents of several verbs have in common. Internal to json_output.cc and
// explain_output.cc. Pure.
#ifndef VIRT_RECLAIM_HOST_CLI_JSON_PARTS_H_
#define VIRT_RECLAIM_HOST_CLI_JSON_PARTS_H_

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "host/model/facts.h"

namespace virt_reclaim {

using Json = nlohmann::ordered_json;

template <typename T>
Json OrNull(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

// Made printable: what nlohmann gets is always valid UTF-8.
std::string Text(absl::string_view text);
Json Document(absl::string_view message_type);
std::string Print(const Json& json);

Json DomainJson(const DomainSummary& domain);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_JSON_PARTS_H_
