//! Which back end file I/O has, and what is said where there can be no ring.

#[cfg(not(feature = "uring"))]
use std::io::ErrorKind;

#[cfg(not(feature = "uring"))]
use crate::support::with_loop;
#[cfg(not(feature = "uring"))]
use reveille::fs::FileIo;

#[cfg(feature = "uring")]
mod without_a_ring {
    use std::io::ErrorKind;
    use std::sync::Mutex;

    use reveille::fs::{FileIo, FileIoBackend, OpenOptions};

    use crate::support::alone::alone_after;
    use crate::support::files::{open, read};
    use crate::support::with_loop;

    /// What was logged.
    struct Lines(Mutex<Vec<String>>);

    impl log::Log for Lines {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            self.0.lock().unwrap().push(format!("{}: {}", record.level(), record.args()));
        }

        fn flush(&self) {}
    }

    static LINES: Lines = Lines(Mutex::new(Vec::new()));

    /// Where the kernel answers a process that asks for a ring with `error`.
    #[track_caller]
    fn threads_do_it(error: &str, kind: ErrorKind, why: &'static str) {
        // A process has one tracer, so under the address sanitizer this one does not look for
        // leaks.
        let script = format!(
            "export ASAN_OPTIONS=detect_leaks=0
            command -v strace >&2 || {{ echo there is no strace >&2; exit 1; }}
            exec strace -f -qq -o /dev/null -e trace=io_uring_setup -e inject=io_uring_setup:error={error} \"$@\""
        );
        alone_after(&script, move || {
            log::set_logger(&LINES).unwrap();
            log::set_max_level(log::LevelFilter::Info);
            with_loop(move |event_loop| {
                let error = FileIo::builder().backend(FileIoBackend::IoUring).build(event_loop).unwrap_err();
                assert_eq!(error.kind(), kind);
                assert!(error.to_string().contains(why), "{error}");
                assert!(LINES.0.lock().unwrap().is_empty());

                let files = FileIo::new(event_loop).unwrap();
                assert_eq!(files.backend(), FileIoBackend::ThreadPool);
                let line = format!("INFO: file I/O by threads: {error}");
                assert_eq!(*LINES.0.lock().unwrap(), [line]);
                let zero = open(event_loop, &files, "/dev/zero", OpenOptions::reading()).unwrap();
                assert_eq!(read(event_loop, &files, &zero, 3).0.unwrap(), 3);
            });
        });
    }

    #[test]
    fn threads_do_it_if_the_kernel_has_no_rings() {
        threads_do_it("ENOSYS", ErrorKind::Unsupported, "the kernel does not support it (ENOSYS)");
    }

    #[test]
    fn threads_do_it_if_rings_are_switched_off() {
        threads_do_it("EPERM", ErrorKind::PermissionDenied, "kernel.io_uring_disabled");
    }
}

#[cfg(not(feature = "uring"))]
#[test]
fn a_ring_that_there_cannot_be_is_an_error_that_says_why() {
    with_loop(|event_loop| {
        let error =
            FileIo::builder().backend(reveille::fs::FileIoBackend::IoUring).build(event_loop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("the feature `uring`"), "{error}");
        assert_eq!(FileIo::new(event_loop).unwrap().backend(), reveille::fs::FileIoBackend::ThreadPool);
    });
}
