# The free map worker: units, its sandbox and protocol, and real filesystems (tests/freemap).
if(NOT TARGET virt_reclaim_freemap)
  return()
endif()

virt_reclaim_test(freemap_unit_test
  SOURCES unit/freemap_pieces_test.cc unit/freemap_protocol_test.cc
  DEPS virt_reclaim_freemap LABEL unit)
virt_reclaim_test(freemap_sandbox_test
  SOURCES component/freemap_sandbox_test.cc
  DEPS virt_reclaim_freemap_sandbox LABEL component)

add_executable(freemap_dump freemap/freemap_dump.cc)
target_link_libraries(freemap_dump PRIVATE virt_reclaim_freemap)
