# What `cmake --install` puts where: headers, library, program, and the files by which CMake and pkg-config find them.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(LONGSPAN_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/longspan)
set_target_properties(longspan PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})

install(DIRECTORY include/longspan DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS longspan EXPORT longspanTargets)
install(EXPORT longspanTargets NAMESPACE longspan:: DESTINATION ${LONGSPAN_CMAKE_DIR})
if(TARGET longspan_cli)
  file(RELATIVE_PATH to_lib /${CMAKE_INSTALL_BINDIR} /${CMAKE_INSTALL_LIBDIR})
  set_target_properties(longspan_cli PROPERTIES INSTALL_RPATH "$ORIGIN/${to_lib}")
  install(TARGETS longspan_cli)
endif()

# A static library leaves it to its user to link what it needs; a shared one does not.
get_target_property(library_type longspan TYPE)
set(LONGSPAN_IS_STATIC FALSE)
set(LONGSPAN_PC_REQUIRES "")
set(LONGSPAN_PC_LIBS -pthread)
if(library_type STREQUAL "STATIC_LIBRARY")
  set(LONGSPAN_IS_STATIC TRUE)
  set(LONGSPAN_PC_REQUIRES libhwy)
  if(LONGSPAN_THREADS STREQUAL "tbb")
    string(APPEND LONGSPAN_PC_REQUIRES " tbb")
  endif()
endif()

configure_package_config_file(cmake/longspanConfig.cmake.in ${PROJECT_BINARY_DIR}/longspanConfig.cmake
  INSTALL_DESTINATION ${LONGSPAN_CMAKE_DIR})
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/longspanConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/longspanConfig.cmake ${PROJECT_BINARY_DIR}/longspanConfigVersion.cmake
  DESTINATION ${LONGSPAN_CMAKE_DIR})

# The prefix is found from the file's own place, so that an installed tree can be moved.
file(RELATIVE_PATH LONGSPAN_PC_TO_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(cmake/longspan.pc.in ${PROJECT_BINARY_DIR}/longspan.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/longspan.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
