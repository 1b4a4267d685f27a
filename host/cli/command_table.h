// Every verb and every option of virt-reclaim, as one table: the parser takes what stands here, and
// nothing else does. The texts of --help are help.cc's.
#ifndef VIRT_RECLAIM_HOST_CLI_COMMAND_TABLE_H_
#define VIRT_RECLAIM_HOST_CLI_COMMAND_TABLE_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "host/cli/options.h"

namespace virt_reclaim {

struct OptionSpec {
  std::string names;  // "-y,--yes"
  std::string value;  // what it takes: "SIZE", or its words: "never|shutdown"; empty: a flag
  // Puts the text (empty for a flag) into the line. InvalidArgument for one it cannot take.
  std::function<absl::Status(CommandLine&, const std::string& text)> set;
  bool repeats = false;
  std::string environment = {};  // variable that stands in for it
};

struct VerbSpec {
  Verb verb = Verb::kReport;
  std::string words;     // "migrate plan"
  std::string alias;     // of the last word; empty: none
  std::string argument;  // "DOMAIN", "FILE", "TARGET", or its words: "bash|zsh|fish"; empty: none
  std::vector<OptionSpec> options;
  // What no option can tell by itself. May be empty.
  std::function<absl::Status(const CommandLine&)> check;
};

// Before or after any verb.
const std::vector<OptionSpec>& GlobalOptions();
const std::vector<VerbSpec>& VerbTable();

// The long one of "-y,--yes".
std::string LongName(const OptionSpec& option);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_COMMAND_TABLE_H_
