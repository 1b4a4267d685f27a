// A JSON writer for the agent's --json: pure ASCII, so that no name from a disk label or mount
// point can reach a terminal raw, and exact all the same. Numbers are numbers. One thread; the
// caller keeps Begin and End in balance.
#ifndef VIRT_RECLAIM_GUEST_AGENT_JSON_H_
#define VIRT_RECLAIM_GUEST_AGENT_JSON_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace virt_reclaim::agent {

inline constexpr uint64_t kSchemaVersion = 1;  // of every document of --json

class JsonWriter {
 public:
  void BeginObject() { Open('{'); }
  void EndObject() { Close('}'); }
  void BeginArray() { Open('['); }
  void EndArray() { Close(']'); }
  void Key(absl::string_view name);
  void String(absl::string_view value);
  void Number(uint64_t value);
  void Bool(bool value);

  void Field(absl::string_view name, absl::string_view value) { Key(name), String(value); }
  void Field(absl::string_view name, uint64_t value) { Key(name), Number(value); }
  void Flag(absl::string_view name, bool value) { Key(name), Bool(value); }
  void Strings(absl::string_view name, const std::vector<std::string>& values);

  // The document, indented by two, with a newline at the end.
  std::string Take() { return std::move(out_ += '\n'); }

 private:
  void Open(char bracket);
  void Close(char bracket);
  void Separate();
  void Quote(absl::string_view text);

  std::string out_;
  std::vector<bool> has_items_;
  bool after_key_ = false;
};

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_JSON_H_
