//! The operations of [`FileIo`] as futures.

use std::io;
use std::path::Path;

use super::{File, FileIo, Metadata, OpenOptions, OperationId};
use crate::event_loop::tasks::completion::{Completer, completion};

/// # Operations as futures
/// An operation starts in the first poll of its future. Dropping the future
/// [cancels](FileIo::cancel) the operation. Its buffer is dropped when the operation has completed,
/// not before. An operation that is not cancelled in time takes effect: bytes that it has read at
/// the file position are lost with the buffer, a file that it has opened is closed.
///
/// If the loop has been dropped, the operations return
/// [`BrokenPipe`](io::ErrorKind::BrokenPipe), and an empty buffer.
///
/// ```
/// use reveille::EventLoop;
/// use reveille::fs::{FileIo, OpenOptions};
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let files = FileIo::new(&event_loop)?;
/// event_loop.spawn_local(async move {
///     let file = files.open_async("/etc/passwd", OpenOptions::reading()).await.expect("a file");
///     let (read, buffer) = files.read_at_async(&file, 0, vec![0; 4096]).await;
///     println!("{}", String::from_utf8_lossy(&buffer[..read.expect("bytes")]));
/// });
/// event_loop.run_until_idle()
/// # }
/// ```
impl FileIo {
    /// Same as [`open`](FileIo::open).
    ///
    /// # Errors
    /// Those that the callback of [`open`](FileIo::open) receives.
    pub async fn open_async(&self, path: impl AsRef<Path>, options: OpenOptions) -> io::Result<File> {
        self.result(|then| self.open(path, options, |_, file| then.complete(file))).await
    }

    /// Same as [`read_at`](FileIo::read_at). Returns the buffer with the result or the error.
    pub async fn read_at_async(
        &self,
        file: &File,
        offset: u64,
        buffer: Vec<u8>,
    ) -> (io::Result<usize>, Vec<u8>) {
        self.transferred(|then| {
            self.read_at(file, offset, buffer, |_, read, buffer| then.complete((read, buffer)))
        })
        .await
    }

    /// Same as [`read`](FileIo::read). Returns the buffer with the result or the error.
    ///
    /// Not cancel safe: bytes that have been read when the future is dropped are lost.
    pub async fn read_async(&self, file: &File, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        self.transferred(|then| self.read(file, buffer, |_, read, buffer| then.complete((read, buffer))))
            .await
    }

    /// Same as [`write_at`](FileIo::write_at). Returns the buffer with the result or the error.
    pub async fn write_at_async(
        &self,
        file: &File,
        offset: u64,
        buffer: Vec<u8>,
    ) -> (io::Result<usize>, Vec<u8>) {
        self.transferred(|then| {
            self.write_at(file, offset, buffer, |_, written, buffer| then.complete((written, buffer)))
        })
        .await
    }

    /// Same as [`write`](FileIo::write). Returns the buffer with the result or the error.
    ///
    /// Not cancel safe: a part may have been written when the future is dropped.
    pub async fn write_async(&self, file: &File, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        self.transferred(|then| {
            self.write(file, buffer, |_, written, buffer| then.complete((written, buffer)))
        })
        .await
    }

    /// Same as [`write_all_at`](FileIo::write_all_at). Returns the buffer with the result or the
    /// error.
    pub async fn write_all_at_async(
        &self,
        file: &File,
        offset: u64,
        buffer: Vec<u8>,
    ) -> (io::Result<()>, Vec<u8>) {
        self.transferred(|then| {
            self.write_all_at(file, offset, buffer, |_, written, buffer| then.complete((written, buffer)))
        })
        .await
    }

    /// Same as [`write_all`](FileIo::write_all). Returns the buffer with the result or the error.
    ///
    /// Not cancel safe: a part may have been written when the future is dropped.
    pub async fn write_all_async(&self, file: &File, buffer: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        self.transferred(|then| {
            self.write_all(file, buffer, |_, written, buffer| then.complete((written, buffer)))
        })
        .await
    }

    /// Same as [`sync_all`](FileIo::sync_all).
    ///
    /// # Errors
    /// Those that the callback of [`sync_all`](FileIo::sync_all) receives.
    pub async fn sync_all_async(&self, file: &File) -> io::Result<()> {
        self.result(|then| self.sync_all(file, |_, done| then.complete(done))).await
    }

    /// Same as [`sync_data`](FileIo::sync_data).
    ///
    /// # Errors
    /// Those that the callback of [`sync_data`](FileIo::sync_data) receives.
    pub async fn sync_data_async(&self, file: &File) -> io::Result<()> {
        self.result(|then| self.sync_data(file, |_, done| then.complete(done))).await
    }

    /// Same as [`metadata`](FileIo::metadata).
    ///
    /// # Errors
    /// Those that the callback of [`metadata`](FileIo::metadata) receives.
    pub async fn metadata_async(&self, file: &File) -> io::Result<Metadata> {
        self.result(|then| self.metadata(file, |_, metadata| then.complete(metadata))).await
    }

    /// Same as [`metadata_at`](FileIo::metadata_at).
    ///
    /// # Errors
    /// Those that the callback of [`metadata_at`](FileIo::metadata_at) receives.
    pub async fn metadata_at_async(&self, path: impl AsRef<Path>) -> io::Result<Metadata> {
        self.result(|then| self.metadata_at(path, |_, metadata| then.complete(metadata))).await
    }

    /// Same as [`close`](FileIo::close). A close that has been started is performed, also if the
    /// future is dropped.
    ///
    /// # Errors
    /// Those that the callback of [`close`](FileIo::close) receives.
    pub async fn close_async(&self, file: File) -> io::Result<()> {
        self.result(|then| self.close(file, |_, done| then.complete(done))).await
    }

    async fn result<T>(&self, start: impl FnOnce(Completer<io::Result<T>>) -> OperationId) -> io::Result<T> {
        self.completed(start).await.unwrap_or_else(|| Err(loop_ended()))
    }

    async fn transferred<T>(
        &self,
        start: impl FnOnce(Completer<(io::Result<T>, Vec<u8>)>) -> OperationId,
    ) -> (io::Result<T>, Vec<u8>) {
        self.completed(start).await.unwrap_or_else(|| (Err(loop_ended()), Vec::new()))
    }

    /// Starts an operation and waits for its callback. `None` if the callback was dropped.
    async fn completed<T>(&self, start: impl FnOnce(Completer<T>) -> OperationId) -> Option<T> {
        let (completer, completion) = completion();
        // Without effect on an operation that has completed.
        let _operation = CancelOnDrop { files: self, id: start(completer) };
        completion.await
    }
}

struct CancelOnDrop<'a> {
    files: &'a FileIo,
    id: OperationId,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.files.cancel(self.id);
    }
}

fn loop_ended() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the event loop has ended")
}
