//! Looking up users, groups and hosts in a program that is linked statically.
//!
//! glibc loads the modules that /etc/nsswitch.conf names while a program runs. Into a static program they are loaded
//! beside a second C library, and crash: `initgroups` did in libnss_systemd, which Debian asks by default. So the static
//! program asks what it carries itself, the host's files and DNS. Users of a directory service are known to it by id.

/// Must be called before the first lookup, and before the first thread.
pub(crate) fn carry_own_lookups() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    for (database, services) in [
        (c"passwd", c"files"),
        (c"group", c"files"),
        (c"initgroups", c"files"),
        (c"hosts", c"files dns"),
        (c"services", c"files"),
        (c"protocols", c"files"),
        (c"networks", c"files"),
    ] {
        glibc::configure(database, services);
    }
}

#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
mod glibc {
    use std::ffi::{CStr, c_char, c_int};

    #[expect(unsafe_code, reason = "glibc's nss.h; no crate declares it")]
    unsafe extern "C" {
        fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
    }

    pub(super) fn configure(database: &CStr, services: &CStr) {
        // It refuses an unknown database only, which leaves things as they are.
        #[expect(unsafe_code, reason = "both strings end with a zero byte and are copied")]
        // SAFETY: the pointers are valid for the call, and no other thread looks anything up yet.
        let _ = unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
    }
}
