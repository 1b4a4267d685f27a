// The words for the policies of a rewrite, as command lines and plan files say them. Pure. Any
// thread.
#ifndef VIRT_RECLAIM_XML_TOOLS_POLICIES_H_
#define VIRT_RECLAIM_XML_TOOLS_POLICIES_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim::xml {

// Whether `option` names a policy: "--machine", "--bus", "--discard", "--detect-zeroes",
// "--channel".
bool IsPolicy(absl::string_view option);

// InvalidArgument, naming option and words, for a word that it does not have.
absl::Status SetPolicy(absl::string_view option, absl::string_view word, RewriteOptions& rewrite);

// Every policy with its word, from which SetPolicy makes the same again.
std::vector<std::pair<std::string, std::string>> PolicyWords(const RewriteOptions& rewrite);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_POLICIES_H_
