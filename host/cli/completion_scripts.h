// What the completions of each shell do, whatever verbs and options there are: texts in which
// completion.cc puts the tables for @NAMES@.
#ifndef VIRT_RECLAIM_HOST_CLI_COMPLETION_SCRIPTS_H_
#define VIRT_RECLAIM_HOST_CLI_COMPLETION_SCRIPTS_H_

#include "absl/strings/string_view.h"

namespace virt_reclaim {

// @OPTIONS@, @ARGUMENTS@, @WORDS@: entries of arrays.
extern const absl::string_view kBashCompletion;
// @ALL@: options of every verb; @FUNCTIONS@: of the program and of each group.
extern const absl::string_view kZshCompletion;
// @NAME@; @VERBS@: 'word:text' lines; @CASES@; @TOP@: options only before any verb.
extern const absl::string_view kZshFunction;
// @WITH_VALUE@: options that take one; @GROUPS@: first words of verbs of two; @LINES@.
extern const absl::string_view kFishCompletion;

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_COMPLETION_SCRIPTS_H_
