#include "host/cli/completion_scripts.h"

namespace virt_reclaim {

// Names of domains are strings of other people: they are compared and quoted here, never handed to
// compgen -W, which would expand them.
const absl::string_view kBashCompletion =
    R"bash(# Completion of virt-reclaim(1) for bash, made by 'virt-reclaim completion bash'.

# What is said of each verb: its options, those with a value with what it is.
declare -gA _virt_reclaim_options=(
@OPTIONS@)
declare -gA _virt_reclaim_arguments=(
@ARGUMENTS@)
# The words that a verb begins with, and those behind the first.
declare -gA _virt_reclaim_words=(
@WORDS@)

# Names of domains, if libvirt's daemon is this machine's: another's may ask for a password.
_virt_reclaim_domains() {
  local uri=${1:-${LIBVIRT_DEFAULT_URI-}}
  [[ -z $uri || $uri == *:///* && $uri != *+* ]] || return
  timeout 3 virsh --readonly --quiet ${uri:+--connect "$uri"} list --all --name 2>/dev/null </dev/null
}

# Adds those of the words of standard input that begin with $1 to COMPREPLY, as a shell has to read them.
_virt_reclaim_add_quoted() {
  local word
  while IFS= read -r word; do
    [[ -n $word && $word == "$1"* ]] && COMPREPLY+=("$(printf %q "$word")")
  done
}

_virt_reclaim_add_files() {
  local kind=$1 word
  compopt -o filenames 2>/dev/null
  while IFS= read -r word; do
    COMPREPLY+=("$word")
  done < <(compgen "$kind" -- "$2")
}

# Adds what a value or an argument of the kind $1 may be, and begins with $2.
_virt_reclaim_add() {
  case $1 in
    '<domain>') _virt_reclaim_add_quoted "$2" < <(_virt_reclaim_domains "$uri") ;;
    '<file>') _virt_reclaim_add_files -f "$2" ;;
    '<directory>') _virt_reclaim_add_files -d "$2" ;;
    '<domain-or-file>')
      [[ $2 == */* ]] || _virt_reclaim_add_quoted "$2" < <(_virt_reclaim_domains "$uri")
      _virt_reclaim_add_files -f "$2"
      ;;
    '<nothing>' | '') ;;
    *) _virt_reclaim_add_quoted "$2" <<<"${1//|/$'\n'}" ;;
  esac
}

# What option $1 of the verb $2 takes, in $takes; fails when it takes nothing.
_virt_reclaim_takes() {
  local entry entries
  read -ra entries <<<"${_virt_reclaim_options[${2:-top}]-} ${_virt_reclaim_options[all]}"
  for entry in "${entries[@]}"; do
    if [[ $entry == "$1="* ]]; then
      takes=${entry#*=}
      return 0
    fi
  done
  return 1
}

_virt_reclaim() {
  local IFS=$' \t\n' i word words=() glue= option= takes= verb= group= uri= entry entries cur
  COMPREPLY=()
  # bash splits at ':' and '='. A ':' belongs to a word: qemu:///system.
  for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
    if [[ -n $glue || $word == :* ]]; then
      words[-1]+=$word
    else
      words+=("$word")
    fi
    glue=
    [[ $word == *: ]] && glue=yes
  done
  cur=${words[-1]}
  # What was said before the word that is completed: the verb, and whether an option waits for its value.
  for ((i = 1; i < ${#words[@]} - 1; ++i)); do
    word=${words[i]}
    if [[ -n $option ]]; then
      [[ $word == '=' ]] && continue # '--bus=keep' came in three
      [[ $option == -c || $option == --connect ]] && uri=$word
      option=
    elif [[ $word == -?*=* ]]; then
      [[ $word == --connect=* ]] && uri=${word#*=}
    elif [[ $word == -?* ]]; then
      _virt_reclaim_takes "$word" "$verb" && option=$word
    elif [[ -z $verb && -n $group ]]; then
      verb="$group $word"
    elif [[ -z $verb && -n ${_virt_reclaim_words[$word]-} ]]; then
      group=$word
    elif [[ -z $verb ]]; then
      verb=$word
    fi
  done
  if [[ -n $option ]]; then
    _virt_reclaim_takes "$option" "$verb"
    [[ $cur == '=' ]] && cur=
    _virt_reclaim_add "$takes" "$cur"
  elif [[ $cur == --*=* ]]; then
    # Where '=' does not split words.
    if _virt_reclaim_takes "${cur%%=*}" "$verb"; then
      _virt_reclaim_add "$takes" "${cur#*=}"
      COMPREPLY=("${COMPREPLY[@]/#/${cur%%=*}=}")
    fi
  elif [[ $cur == -* ]]; then
    word=${verb:-top}
    [[ $verb == virt-sparsify ]] && return
    read -ra entries <<<"${_virt_reclaim_options[$word]-} ${_virt_reclaim_options[all]}"
    for entry in "${entries[@]}"; do
      entry=${entry%%=*}
      [[ $entry == "$cur"* ]] && COMPREPLY+=("$entry")
    done
  elif [[ -n $verb ]]; then
    _virt_reclaim_add "${_virt_reclaim_arguments[$verb]-}" "$cur"
  else
    word=${_virt_reclaim_words[${group:-top}]}
    _virt_reclaim_add_quoted "$cur" <<<"${word// /$'\n'}"
  fi
  # What stands before the last ':' is there already.
  if [[ $cur == *:* && $COMP_WORDBREAKS == *:* ]]; then
    COMPREPLY=("${COMPREPLY[@]#"${cur%"${cur##*:}"}"}")
  fi
}

complete -F _virt_reclaim virt-reclaim
)bash";

const absl::string_view kZshCompletion =
    R"zsh(#compdef virt-reclaim
# Completion of virt-reclaim(1) for zsh, made by 'virt-reclaim completion zsh'.

# Names of domains, if libvirt's daemon is this machine's: another's may ask for a password.
_virt_reclaim_domains() {
  local uri=${opt_args[-c]:-${opt_args[--connect]:-$LIBVIRT_DEFAULT_URI}}
  [[ -z $uri || ( $uri == *:///* && $uri != *+* ) ]] || return 1
  local -a domains
  domains=(${(f)"$(timeout 3 virsh --readonly --quiet ${uri:+--connect} ${uri:+$uri} list --all --name 2>/dev/null </dev/null)"})
  compadd "$@" -a domains
}

_virt_reclaim_domains_or_files() {
  _alternative 'domains:domain:_virt_reclaim_domains' 'files:image:_files'
}

@FUNCTIONS@_virt_reclaim_all=(
@ALL@)

if [[ $funcstack[1] == _virt-reclaim ]]; then
  _virt_reclaim "$@"
else
  compdef _virt_reclaim virt-reclaim
fi
)zsh";

const absl::string_view kZshFunction =
    R"zsh(@NAME@() {
  local curcontext=$curcontext state state_descr
  local -a line verbs all
  typeset -A opt_args
  all=("${_virt_reclaim_all[@]}")
  verbs=(
@VERBS@  )
  _arguments -C -s $all@TOP@ ': :->verb' '*::: :->rest' && return
  if [[ $state == verb ]]; then
    _describe verb verbs
    return
  fi
  [[ $state == rest ]] || return 1
  words=("$line[1]" "${words[@]}")
  (( CURRENT += 1 ))
  case $line[1] in
@CASES@  esac
}
)zsh";

const absl::string_view kFishCompletion =
    R"fish(# Completion of virt-reclaim(1) for fish, made by 'virt-reclaim completion fish'.

# The verb before the cursor: empty, "trim", "migrate" (of which the second word is missing) or "migrate plan".
function __virt_reclaim_verb
    set -l words (commandline -opc)
    set -e words[1]
    set -l verb
    set -l value_next no
    for word in $words
        if test $value_next = yes
            set value_next no
            continue
        end
        switch $word
            case '--*=*'
            case '-*'
                if contains -- $word @WITH_VALUE@
                    set value_next yes
                end
            case '*'
                set -a verb $word
                if not contains -- $verb[1] @GROUPS@; or test (count $verb) -eq 2
                    break
                end
        end
    end
    echo -- "$verb"
end

function __virt_reclaim_at
    contains -- "$(__virt_reclaim_verb)" $argv
end

# Names of domains, if libvirt's daemon is this machine's: another's may ask for a password.
function __virt_reclaim_domains
    if test -z "$LIBVIRT_DEFAULT_URI"; or string match -q '*:///*' -- $LIBVIRT_DEFAULT_URI; and not string match -q '*+*' -- $LIBVIRT_DEFAULT_URI
        timeout 3 virsh --readonly --quiet list --all --name 2>/dev/null </dev/null | string match -rv '^$'
    end
end

complete -c virt-reclaim -f
@LINES@)fish";

}  // namespace virt_reclaim
