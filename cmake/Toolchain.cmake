# Language level, warnings, sanitizers and ccache: the flags every target of the project shares.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_C_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
  # Or it leaves out all that uses precompiled headers; none of ours depends on the date.
  set(CMAKE_CXX_COMPILER_LAUNCHER env CCACHE_SLOPPINESS=pch_defines,time_macros ${CCACHE_PROGRAM})
endif()

# Everything of ours links this; generated code does not get the warnings.
add_library(virt_reclaim_flags INTERFACE)
target_compile_options(virt_reclaim_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wnon-virtual-dtor -Woverloaded-virtual -Wundef
  $<$<CXX_COMPILER_ID:Clang>:-Wno-sign-conversion>  # g++'s -Wconversion has no part of it
  # g++ 12 calls text.insert(0, "...") an overlap at -O3 (its bug 105651).
  $<$<AND:$<CXX_COMPILER_ID:GNU>,$<CONFIG:Release>>:-Wno-restrict>
  $<$<BOOL:${VIRT_RECLAIM_WERROR}>:-Werror>)
target_include_directories(virt_reclaim_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_definitions(virt_reclaim_flags INTERFACE
  VIRT_RECLAIM_VERSION="${PROJECT_VERSION}" _FILE_OFFSET_BITS=64)

if(VIRT_RECLAIM_SANITIZE)
  add_compile_options(-fsanitize=${VIRT_RECLAIM_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${VIRT_RECLAIM_SANITIZE})
  # VIRT_RECLAIM_SANITIZE_ADDRESS, ...: each compiler has words of its own for it.
  string(TOUPPER "${VIRT_RECLAIM_SANITIZE}" sanitizers)
  string(REPLACE "," ";" sanitizers "${sanitizers}")
  list(TRANSFORM sanitizers PREPEND VIRT_RECLAIM_SANITIZE_)
  add_compile_definitions(${sanitizers})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # g++ 12 takes the empty constructor of std::stop_source for a use of it.
    target_compile_options(virt_reclaim_flags INTERFACE -Wno-maybe-uninitialized)
  endif()
else()
  add_compile_options(-fstack-protector-strong)
  add_compile_definitions($<$<CONFIG:Release,RelWithDebInfo>:_FORTIFY_SOURCE=2>)
  add_link_options(-Wl,-z,relro,-z,now)
endif()
if(VIRT_RECLAIM_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

# Most of the time goes into headers and templates: as many sources as are compiled as one do them once (VIRT_RECLAIM_UNITY*).
set(CMAKE_UNITY_BUILD_BATCH_SIZE 24)

# virt_reclaim_library(NAME SOURCES... [DEPS ...]): one library per folder.
function(virt_reclaim_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${arg_SOURCES})
  set_target_properties(${name} PROPERTIES UNITY_BUILD ${VIRT_RECLAIM_UNITY})
  target_link_libraries(${name} PUBLIC virt_reclaim_flags ${arg_DEPS})
  virt_reclaim_use_precompiled(${name} virt_reclaim_headers)
endfunction()
