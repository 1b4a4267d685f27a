# xml-tools: units, whole files (golden), hostile input, and the schema check of the edited files.
if(NOT TARGET virt_reclaim_xml_tools)
  return()
endif()

function(virt_reclaim_xml_test name label file)
  virt_reclaim_test(${name} SOURCES ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/${file} LABEL ${label}
    DEPS virt_reclaim_xml_filter virt_reclaim_xml_tools ${ARGN})
  target_compile_definitions(${name} PRIVATE VIRT_RECLAIM_TESTS_DIR="${CMAKE_CURRENT_FUNCTION_LIST_DIR}")
endfunction()

virt_reclaim_xml_test(xml_golden_test golden golden/xml/golden_test.cc)
foreach(unit diff document domain filter machine_types pending rewrite stored)
  virt_reclaim_xml_test(xml_${unit}_test unit unit/xml_${unit}_test.cc)
endforeach()
virt_reclaim_xml_test(xml_hostile_test unit unit/xml_hostile_test.cc OPTIMIZED)

foreach(check cli schema)
  add_test(NAME xml_${check}_check COMMAND ${CMAKE_CURRENT_LIST_DIR}/golden/xml/${check}-check $<TARGET_FILE:virt-reclaim-xml>
    ${CMAKE_CURRENT_LIST_DIR}/golden/xml)
  set_tests_properties(xml_${check}_check PROPERTIES LABELS golden TIMEOUT 60 SKIP_RETURN_CODE 77)
endforeach()

# Every XML file of libvirt's own tests, in every mode; a minute or two once scripts/fetch-corpus has them.
find_package(Python3 3.11 COMPONENTS Interpreter REQUIRED)
add_test(NAME xml_corpus COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/xml-corpus $<TARGET_FILE:virt-reclaim-xml>)
set_tests_properties(xml_corpus PROPERTIES LABELS corpus TIMEOUT 900 SKIP_RETURN_CODE 77 PROCESSORS 2)
