# Fuzzers, with libFuzzer: configure with the preset "fuzz" (clang). Each runs alone, on bytes it makes up or on a corpus:
#   build/asan/tests/fuzz_link_frame -max_total_time=60 [corpus directory]

# virt_reclaim_fuzzer(NAME SOURCES ... DEPS ...): an executable whose sources define LLVMFuzzerTestOneInput.
function(virt_reclaim_fuzzer name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_DEPS})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
endfunction()

virt_reclaim_fuzzer(fuzz_link_frame SOURCES ${CMAKE_CURRENT_LIST_DIR}/fuzz_link_frame.cc
  DEPS virt_reclaim_link)
virt_reclaim_fuzzer(fuzz_link_session SOURCES ${CMAKE_CURRENT_LIST_DIR}/fuzz_link_session.cc
  DEPS virt_reclaim_link)

# The other folders' fuzzers.
foreach(part base agent xml freemap host guestfs)
  include(${CMAKE_CURRENT_LIST_DIR}/${part}.cmake OPTIONAL)
endforeach()
