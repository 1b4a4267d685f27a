// Fields of a JSON object that somebody else wrote: what is missing, or of another type, is as if
// it had no value. Pure; any thread. For any of nlohmann's types.
#ifndef VIRT_RECLAIM_HOST_SERVICES_JSON_FIELDS_H_
#define VIRT_RECLAIM_HOST_SERVICES_JSON_FIELDS_H_

#include <string>

namespace virt_reclaim {

// Empty when it is no text. As it is: not made printable.
template <typename Object>
std::string TextField(const Object& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->template get<std::string>() : "";
}

// False, too, for what is no truth value.
template <typename Object>
bool TrueField(const Object& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_boolean() && found->template get<bool>();
}

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_JSON_FIELDS_H_
