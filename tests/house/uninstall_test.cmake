# Installs under a DESTDIR, uninstalls, and expects no file to be left.
set(root ${BUILD}/uninstall-test)
file(REMOVE_RECURSE ${root})
set(ENV{DESTDIR} ${root})
execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix /opt/attn
  OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
file(GLOB_RECURSE installed ${root}/*)
list(LENGTH installed count)
if(count LESS 10)
  message(FATAL_ERROR "only ${count} files were installed: ${installed}")
endif()
execute_process(COMMAND ${CMAKE_COMMAND} -DPREFIX=/opt/attn -P ${SOURCE}/cmake/uninstall.cmake
  OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
file(GLOB_RECURSE left ${root}/*)
if(left)
  message(FATAL_ERROR "left behind: ${left}")
endif()
message(STATUS "${count} files installed and removed")
