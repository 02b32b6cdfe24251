//! The back end that file I/O uses, and the errors where io_uring is not available.

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

    /// Records the log messages.
    struct Log(Mutex<Vec<String>>);

    impl log::Log for Log {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            self.0.lock().unwrap().push(format!("{}: {}", record.level(), record.args()));
        }

        fn flush(&self) {}
    }

    static LOG: Log = Log(Mutex::new(Vec::new()));

    /// Requires that file I/O uses threads in a process whose io_uring_setup(2) fails with `error`,
    /// and that the logged reason contains `reason`.
    #[track_caller]
    fn assert_uses_threads(error: &str, kind: ErrorKind, reason: &'static str) {
        // A process can have only one tracer. Here it is strace, so the leak check of the address
        // sanitizer, which traces the process as well, is disabled.
        let script = format!(
            "export ASAN_OPTIONS=detect_leaks=0
            command -v strace >&2 || {{ echo strace is not installed >&2; exit 1; }}
            exec strace -f -qq -o /dev/null -e trace=io_uring_setup -e inject=io_uring_setup:error={error} \"$@\""
        );
        alone_after(&script, move || {
            log::set_logger(&LOG).unwrap();
            log::set_max_level(log::LevelFilter::Info);
            with_loop(move |event_loop| {
                let error = FileIo::builder().backend(FileIoBackend::IoUring).build(event_loop).unwrap_err();
                assert_eq!(error.kind(), kind);
                assert!(error.to_string().contains(reason), "{error}");
                assert!(LOG.0.lock().unwrap().is_empty());

                let files = FileIo::new(event_loop).unwrap();
                assert_eq!(files.backend(), FileIoBackend::ThreadPool);
                let line = format!("INFO: file I/O by threads: {error}");
                assert_eq!(*LOG.0.lock().unwrap(), [line]);
                let file = open(event_loop, &files, "/dev/zero", OpenOptions::reading()).unwrap();
                assert_eq!(read(event_loop, &files, &file, 3).0.unwrap(), 3);
            });
        });
    }

    #[test]
    fn file_io_uses_threads_if_the_kernel_has_no_io_uring() {
        assert_uses_threads("ENOSYS", ErrorKind::Unsupported, "the kernel does not support it (ENOSYS)");
    }

    #[test]
    fn file_io_uses_threads_if_io_uring_is_disabled() {
        assert_uses_threads("EPERM", ErrorKind::PermissionDenied, "kernel.io_uring_disabled");
    }
}

#[cfg(not(feature = "uring"))]
#[test]
fn requesting_io_uring_without_the_feature_is_an_error() {
    with_loop(|event_loop| {
        let error =
            FileIo::builder().backend(reveille::fs::FileIoBackend::IoUring).build(event_loop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("the feature `uring`"), "{error}");
        assert_eq!(FileIo::new(event_loop).unwrap().backend(), reveille::fs::FileIoBackend::ThreadPool);
    });
}
