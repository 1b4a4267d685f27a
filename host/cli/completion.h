// Completions for shells, made from the command table: an option is completed because it is there.
// What the texts beside words say comes from the help.
#ifndef VIRT_RECLAIM_HOST_CLI_COMPLETION_H_
#define VIRT_RECLAIM_HOST_CLI_COMPLETION_H_

#include <string>

#include "absl/strings/string_view.h"

namespace virt_reclaim {

// The script for "bash", "zsh" or "fish"; empty for any other word.
std::string CompletionScript(absl::string_view shell);

// The first words of what `help` says of `name` ("--bus", "migrate plan"), at most a line; empty
// when it says nothing. `takes_value`: a word stands between them.
std::string HelpSummary(absl::string_view help, absl::string_view name, bool takes_value);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_COMPLETION_H_
