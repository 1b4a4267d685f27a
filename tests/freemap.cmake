# The free map worker: units, its sandbox and protocol, and real filesystems (tests/freemap).
if(NOT TARGET virt_reclaim_freemap)
  return()
endif()

virt_reclaim_test(freemap_unit_test
  SOURCES unit/freemap_fat_test.cc unit/freemap_foreign_state_test.cc unit/freemap_lvm_test.cc unit/freemap_nbd_source_test.cc unit/freemap_ntfs_test.cc unit/freemap_pieces_test.cc unit/freemap_protocol_test.cc unit/freemap_xfs_log_test.cc
  DEPS virt_reclaim_freemap LABEL unit)
virt_reclaim_test(freemap_sandbox_test
  SOURCES component/freemap_sandbox_test.cc
  DEPS virt_reclaim_freemap_sandbox LABEL component)

add_executable(freemap_dump freemap/freemap_dump.cc)
target_link_libraries(freemap_dump PRIVATE virt_reclaim_freemap)

# virt_reclaim_freemap_test(NAME SCRIPT TIMEOUT ARGUMENTS...): a script on real images, on two processors. Too long
# for scripts/test --quick: label corpus.
find_package(Python3 3.11 COMPONENTS Interpreter REQUIRED)
function(virt_reclaim_freemap_test name script timeout)
  add_test(NAME ${name} COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/freemap/${script}
    $<TARGET_FILE:freemap_dump> ${ARGN})
  set_tests_properties(${name} PROPERTIES LABELS corpus TIMEOUT ${timeout} SKIP_RETURN_CODE 77 PROCESSORS 2
    ENVIRONMENT PYTHONDONTWRITEBYTECODE=1)
endfunction()

set(worker $<TARGET_FILE:virt-reclaim-freemap>)
foreach(kind ext xfs btrfs ntfs fat exfat)
  virt_reclaim_freemap_test(freemap_content_${kind} content_test.py 600 ${worker} ${kind})
endforeach()
virt_reclaim_freemap_test(freemap_dirty dirty_test.py 300 ${worker})
virt_reclaim_freemap_test(freemap_dirty_windows dirty_windows_test.py 300 ${worker})
virt_reclaim_freemap_test(freemap_lvm lvm_test.py 300 ${worker})
virt_reclaim_freemap_test(freemap_scale scale_test.py 300 ${worker} $<TARGET_FILE:virt-reclaim>)
set_tests_properties(freemap_dirty_windows PROPERTIES LABELS component)  # a few seconds
# One process each.
set_tests_properties(freemap_dirty freemap_dirty_windows freemap_lvm freemap_scale PROPERTIES PROCESSORS 1)
virt_reclaim_freemap_test(freemap_hostile hostile_test.py 600)
foreach(package e2fsprogs btrfs-progs)
  virt_reclaim_freemap_test(freemap_corpus_${package} corpus_test.py 300 ${package})
endforeach()
