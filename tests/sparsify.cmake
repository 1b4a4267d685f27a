# sparsify: units, and the verb on real images (tests/sparsify). Root and loop devices.
if(NOT TARGET virt_reclaim_sparsify)
  return()
endif()

virt_reclaim_test(sparsify_unit_test
  SOURCES unit/sparsify_copy_target_test.cc unit/sparsify_free_ranges_test.cc unit/sparsify_image_form_test.cc unit/sparsify_nbd_client_test.cc
    unit/sparsify_opened_disks_test.cc unit/sparsify_qemu_disk_test.cc unit/sparsify_snapshot_space_test.cc
  DEPS virt_reclaim_sparsify LABEL unit)

function(virt_reclaim_sparsify_test name)
  add_test(NAME sparsify_${name} COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/sparsify/${name}_test.py
    $<TARGET_FILE:virt-reclaim> $<TARGET_FILE:virt-reclaim-freemap> $<TARGET_FILE:freemap_dump> ${ARGN})
  set_tests_properties(sparsify_${name} PROPERTIES LABELS corpus TIMEOUT 600 SKIP_RETURN_CODE 77
    ENVIRONMENT PYTHONDONTWRITEBYTECODE=1)
endfunction()
virt_reclaim_sparsify_test(content)
virt_reclaim_sparsify_test(kill)
virt_reclaim_sparsify_test(races)
virt_reclaim_sparsify_test(refusals)
virt_reclaim_sparsify_test(dirty)
virt_reclaim_sparsify_test(drop_in)
virt_reclaim_sparsify_test(drop_in_place)
virt_reclaim_sparsify_test(copy_stop)
virt_reclaim_sparsify_test(btrfs)
virt_reclaim_sparsify_test(reflink)
# A sanitizer's runtime has to come first, and lifts limits.
if(NOT VIRT_RECLAIM_SANITIZE)
  add_library(hold_at_read MODULE ${CMAKE_CURRENT_LIST_DIR}/lib/hold_at_read.c)
  target_link_libraries(hold_at_read PRIVATE ${CMAKE_DL_LIBS})
  virt_reclaim_sparsify_test(copy_kill $<TARGET_FILE:kill_at_sync>)
  virt_reclaim_sparsify_test(sandbox $<TARGET_FILE:hold_at_read>)
endif()
if(VIRT_RECLAIM_GUESTFS)
  virt_reclaim_sparsify_test(appliance $<TARGET_FILE:virt-reclaim-guestfs>)
endif()
