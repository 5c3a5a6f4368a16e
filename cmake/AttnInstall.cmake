# What `cmake --install` copies, in four components: core (attn::core and its headers), recurrent
# (attn::recurrent and its headers), attn (attn::attn and the rest of the headers), tools (the
# command). find_package(attn) finds them.
include(CMakePackageConfigHelpers)

set(ATTN_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/attn)
set(core_headers attention.h context.h error.h mask.h gradient.h kv_cache.h observe.h position.h reference.h
  score.h tensor.h)
set(recurrent_headers additive.h decay.h implied.h linear_attention.h luong.h mamba2.h
  recurrent.h reference_recurrent.h reference_scan.h scan.h)
file(GLOB headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/attn/*.h)
set(other_headers ${headers})
list(TRANSFORM core_headers PREPEND ${PROJECT_SOURCE_DIR}/include/attn/)
list(TRANSFORM recurrent_headers PREPEND ${PROJECT_SOURCE_DIR}/include/attn/)
list(REMOVE_ITEM other_headers ${core_headers} ${recurrent_headers})

install(FILES ${core_headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/attn COMPONENT core)
install(TARGETS attn_core EXPORT attnCoreTargets
  LIBRARY COMPONENT core NAMELINK_COMPONENT core ARCHIVE COMPONENT core RUNTIME COMPONENT core)
install(EXPORT attnCoreTargets NAMESPACE attn:: DESTINATION ${ATTN_PACKAGE_DIR} COMPONENT core)

set_target_properties(attn_recurrent PROPERTIES INSTALL_RPATH "$ORIGIN")
install(FILES ${recurrent_headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/attn
  COMPONENT recurrent)
install(TARGETS attn_recurrent EXPORT attnRecurrentTargets
  LIBRARY COMPONENT recurrent NAMELINK_COMPONENT recurrent ARCHIVE COMPONENT recurrent
  RUNTIME COMPONENT recurrent)
install(EXPORT attnRecurrentTargets NAMESPACE attn:: DESTINATION ${ATTN_PACKAGE_DIR}
  COMPONENT recurrent)

if(ATTN_MODELS)
  set_target_properties(attn_attn PROPERTIES INSTALL_RPATH "$ORIGIN")
  install(FILES ${other_headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/attn COMPONENT attn)
  install(TARGETS attn_attn EXPORT attnTargets
    LIBRARY COMPONENT attn NAMELINK_COMPONENT attn ARCHIVE COMPONENT attn RUNTIME COMPONENT attn)
  install(EXPORT attnTargets NAMESPACE attn:: DESTINATION ${ATTN_PACKAGE_DIR} COMPONENT attn)
endif()
if(TARGET attn_cli)
  # The installed command finds shared libraries beside it, wherever the whole is moved.
  file(RELATIVE_PATH libraries ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
  set_target_properties(attn_cli PROPERTIES INSTALL_RPATH "$ORIGIN/${libraries}")
  install(TARGETS attn_cli RUNTIME COMPONENT tools)
endif()

get_target_property(ATTN_LIBRARY_TYPE attn_core TYPE)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/attnConfig.cmake.in
  ${PROJECT_BINARY_DIR}/cmake/attnConfig.cmake INSTALL_DESTINATION ${ATTN_PACKAGE_DIR})
# Until 1.0 a minor version may change the interface; see CHANGELOG.md.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/cmake/attnConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/cmake/attnConfig.cmake
  ${PROJECT_BINARY_DIR}/cmake/attnConfigVersion.cmake
  DESTINATION ${ATTN_PACKAGE_DIR} COMPONENT core)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/NOTICE
  ${PROJECT_SOURCE_DIR}/THIRD_PARTY.md
  DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT core)

# Last: the list of what was installed, so that it can be taken away again (cmake/uninstall.cmake).
install(CODE "
  set(manifest \"${CMAKE_INSTALL_DATADIR}/attn/manifest.txt\")
  if(NOT IS_ABSOLUTE \"\${manifest}\")
    set(manifest \"\${CMAKE_INSTALL_PREFIX}/\${manifest}\")
  endif()
  list(REMOVE_DUPLICATES CMAKE_INSTALL_MANIFEST_FILES)
  list(APPEND CMAKE_INSTALL_MANIFEST_FILES \"\${manifest}\")
  list(JOIN CMAKE_INSTALL_MANIFEST_FILES \"\\n\" lines)
  file(WRITE \"\$ENV{DESTDIR}\${manifest}\" \"\${lines}\\n\")
  message(STATUS \"Manifest: \$ENV{DESTDIR}\${manifest}\")
" COMPONENT core)
