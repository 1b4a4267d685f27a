# Headers that most sources include, compiled once for all that ask for them. Only the presets for tests have them: what is shipped
# is built without, and so is what clang-tidy sees, so that each file has to include what it uses.
option(VIRT_RECLAIM_PRECOMPILED "Compile the headers that most sources include only once" OFF)

# The same for all: some libraries ask for -pthread, which defines a macro. The rest is for ccache.
set(virt_reclaim_precompiled_flags -pthread $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>
  "$<$<CXX_COMPILER_ID:Clang>:SHELL:-Xclang -fno-pch-timestamp>")

# virt_reclaim_precompile_headers(NAME HEADERS... [DEPS ...])
function(virt_reclaim_precompile_headers name)
  cmake_parse_arguments(arg "" "" "HEADERS;DEPS" ${ARGN})
  if(NOT VIRT_RECLAIM_PRECOMPILED)
    return()
  endif()
  add_library(${name} OBJECT ${PROJECT_SOURCE_DIR}/cmake/headers.cc)
  target_link_libraries(${name} PRIVATE virt_reclaim_flags ${arg_DEPS})
  target_compile_options(${name} PRIVATE ${virt_reclaim_precompiled_flags})
  target_precompile_headers(${name} PRIVATE ${arg_HEADERS})
endfunction()

# virt_reclaim_use_precompiled(TARGET NAME)
function(virt_reclaim_use_precompiled target name)
  if(TARGET ${name})
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${virt_reclaim_precompiled_flags}>)
    target_precompile_headers(${target} REUSE_FROM ${name})
  endif()
endfunction()
