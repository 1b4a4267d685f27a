// The command line of virt-reclaim-xml as a value. Pure. Any thread.
#ifndef VIRT_RECLAIM_XML_TOOLS_OPTIONS_H_
#define VIRT_RECLAIM_XML_TOOLS_OPTIONS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim::xml {

struct Options {
  bool help = false, version = false;
  bool diff = false, check = false, in_place = false, json = false;
  std::string output_dir;  // empty: standard output
  RewriteOptions rewrite;
  std::vector<std::string> files;  // "-": standard input; never empty
};

// InvalidArgument, with "did you mean" when a known option is near.
absl::StatusOr<Options> ParseOptions(const std::vector<std::string>& arguments);

// The whole of --help.
absl::string_view HelpText();

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_OPTIONS_H_
