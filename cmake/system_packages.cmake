# Finds a package of the system, or says in one line which Debian package holds it.
function(lmhead_find_system_package name debian_package)
  find_package(${name} ${ARGN} QUIET)
  if(NOT ${name}_FOUND)
    message(FATAL_ERROR "[cmake] ${name} must be installed (Debian and Ubuntu: apt install ${debian_package}), got none")
  endif()
endfunction()
