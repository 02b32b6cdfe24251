//! The option `--by` of the examples that read files.

use reveille::fs::{FileIo, FileIoBackend, FileIoBuilder};

use super::options::{Failure, Options};

/// File operations by the backend of the option, or by the best one that is available.
pub(crate) fn builder(options: &Options) -> Result<FileIoBuilder, Failure> {
    match options.text("--by").as_deref() {
        None => Ok(FileIo::builder()),
        Some("io_uring") => Ok(FileIo::builder().backend(FileIoBackend::IoUring)),
        Some("threads") => Ok(FileIo::builder().backend(FileIoBackend::ThreadPool)),
        Some(_) => Err(options.wrong("--by takes io_uring or threads")),
    }
}

/// The value of the option that selects the backend of `files`.
pub(crate) fn name(files: &FileIo) -> &'static str {
    match files.backend() {
        FileIoBackend::IoUring => "io_uring",
        _ => "threads",
    }
}
