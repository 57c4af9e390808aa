# SPDX-License-Identifier: Apache-2.0
# Part of cmake --install: what depends on the prefix that it was given.
set(prefix ${CMAKE_INSTALL_PREFIX})
if(IS_ABSOLUTE ${SLIP_BINDIR_RELATIVE})
    set(SLIP_BINDIR ${SLIP_BINDIR_RELATIVE})
else()
    set(SLIP_BINDIR ${prefix}/${SLIP_BINDIR_RELATIVE})
endif()
file(GLOB units ${SLIP_SOURCE}/deploy/systemd/*.service.in)
foreach(unit ${units})
    get_filename_component(name ${unit} NAME_WLE)
    configure_file(${unit} $ENV{DESTDIR}${prefix}/lib/systemd/system/${name} @ONLY)
    message(STATUS "Installing: $ENV{DESTDIR}${prefix}/lib/systemd/system/${name}")
endforeach()

# The programs look below /etc; another prefix is taken as a staging folder.
if(prefix MATCHES "^/usr(/local)?$")
    set(confdir /etc/slipstream)
else()
    set(confdir ${prefix}/etc/slipstream)
endif()
file(INSTALL FILES ${SLIP_SOURCE}/examples/slipstream.yaml DESTINATION ${confdir} RENAME slipstream.yaml.example)
