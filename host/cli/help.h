// The help of every verb, whole, as it is printed.
#ifndef VIRT_RECLAIM_HOST_CLI_HELP_H_
#define VIRT_RECLAIM_HOST_CLI_HELP_H_

#include "absl/strings/string_view.h"

namespace virt_reclaim {

// Of a verb's first word: "report", "migrate"; of the program for anything else.
absl::string_view HelpText(absl::string_view verb);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_HELP_H_
