//! The descriptors that a service manager passes (sd_listen_fds(3)).

use std::io::ErrorKind;
use std::os::fd::AsRawFd;

use crate::support::alone::{alone, alone_after};
use reveille::net::systemd_listeners;
use rustix::io::FdFlags;

fn passed() -> Vec<(String, i32)> {
    let passed = systemd_listeners().expect("descriptors");
    let described = passed.iter().map(|listener| (listener.name.clone(), listener.fd.as_raw_fd())).collect();
    for listener in passed {
        assert_eq!(rustix::io::fcntl_getfd(&listener.fd).unwrap(), FdFlags::CLOEXEC);
    }
    described
}

#[test]
fn passed_descriptors_are_handed_out_once_with_their_names() {
    let script =
        "exec 3</dev/null 4</dev/zero; export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:; exec \"$@\"";
    alone_after(script, || {
        assert_eq!(passed(), [("web".to_owned(), 3), (String::new(), 4)]);
        assert_eq!(passed(), []);
    });
}

#[test]
fn a_descriptor_without_a_name_is_unknown() {
    let script = "exec 3</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";
    alone_after(script, || assert_eq!(passed(), [("unknown".to_owned(), 3)]));
}

#[test]
fn a_program_that_is_not_activated_gets_nothing() {
    alone(|| assert_eq!(passed(), []));
    // The variables of its parent.
    let script = "exec 3</dev/null; export LISTEN_PID=$PPID LISTEN_FDS=1; exec \"$@\"";
    alone_after(script, || assert_eq!(passed(), []));
}

#[test]
fn a_descriptor_that_is_not_open_is_an_error_and_nothing_is_taken() {
    let script = "exec 3</dev/null 4<&-; export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$@\"";
    alone_after(script, || {
        for _ in 0..2 {
            let error = systemd_listeners().expect_err("a descriptor is missing");
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            let message = error.to_string();
            // Something of the test harness may have taken the number since.
            assert!(message.starts_with("descriptor 4 was not passed: "), "{message}");
        }
    });
}
