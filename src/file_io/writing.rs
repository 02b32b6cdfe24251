//! Writing the whole of a buffer.

use std::io;
use std::rc::Rc;

use super::core::Core;
use super::file::File;
use super::operation::{Operation, Outcome, Position};
use crate::event_loop::EventLoop;

/// What has not been written yet of a buffer that is written as a whole.
pub(super) struct Rest {
    file: File,
    /// Where it goes.
    to: Position,
    buffer: Vec<u8>,
    /// How much of the buffer has been written.
    done: usize,
}

impl Rest {
    pub(super) fn new(file: &File, to: Position, buffer: Vec<u8>) -> Rest {
        Rest { file: file.share(), to, buffer, done: 0 }
    }

    /// Writes it, with as many operations as that takes. If `then` is not called, that is because nothing is called any longer.
    pub(super) fn write(
        self,
        core: &Rc<Core>,
        event_loop: &EventLoop,
        then: impl FnOnce(&EventLoop, io::Result<()>, Vec<u8>) + 'static,
    ) {
        let Rest { file, to, buffer, done } = self;
        let operation = begin_write(&file, to, buffer, done);
        let weak = Rc::downgrade(core);
        core.start(event_loop, operation, move |event_loop, outcome| {
            let (written, buffer) = outcome.into_moved();
            match written {
                Ok(n) if done + n == buffer.len() => then(event_loop, Ok(()), buffer),
                Ok(0) => {
                    let error = io::Error::new(io::ErrorKind::WriteZero, "nothing is taken any longer");
                    then(event_loop, Err(error), buffer);
                }
                Ok(n) => {
                    if let Some(core) = weak.upgrade() {
                        let rest = Rest { file, to: to.behind(n), buffer, done: done + n };
                        rest.write(&core, event_loop, then);
                    }
                }
                Err(error) => then(event_loop, Err(error), buffer),
            }
        });
    }
}

/// A write of the buffer but for its first `skip` bytes, or what is wrong with that.
pub(super) fn begin_write(
    file: &File,
    to: Position,
    buffer: Vec<u8>,
    skip: usize,
) -> Result<Operation, Outcome> {
    match to.check() {
        Ok(()) => Ok(Operation::Write { file: file.share(), to, buffer, skip }),
        Err(error) => Err(Outcome::Moved(Err(error), buffer)),
    }
}
